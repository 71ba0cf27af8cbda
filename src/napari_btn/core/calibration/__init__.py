"""Conformal calibration, and the calibrated maps."""
