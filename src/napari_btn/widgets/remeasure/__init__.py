"""The Re-measure dock."""
