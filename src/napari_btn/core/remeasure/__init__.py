"""Where to measure again."""
