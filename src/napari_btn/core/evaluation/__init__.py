"""Evaluation of a result against a target."""
