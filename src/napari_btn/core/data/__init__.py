"""Images, pairs, splits, and measurements made on them before training."""
