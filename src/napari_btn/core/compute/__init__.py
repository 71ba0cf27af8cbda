"""Devices and worker pools."""
