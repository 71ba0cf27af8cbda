"""Images, pairs, splits and what is measured of them before training."""
