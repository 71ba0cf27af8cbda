"""Figures for files and notebooks."""
