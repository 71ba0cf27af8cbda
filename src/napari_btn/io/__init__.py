"""Bytes to values and back: image files and bundles."""
