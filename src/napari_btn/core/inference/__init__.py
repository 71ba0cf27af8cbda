"""Inference of trained members, tile by tile."""
