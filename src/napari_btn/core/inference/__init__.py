"""Trained members run over images, tile by tile."""
