"""Benchmarks: scripts that print a table and write JSON. Run all with ``python -m benchmarks``."""
