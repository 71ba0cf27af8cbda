"""Member families, and the quantile heads that they share."""
