"""Regions to measure again."""
