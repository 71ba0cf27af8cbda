"""Devices and pools: where work runs."""
