"""Scores of a result against a target."""
