"""Benchmarks: scripts that print a table and write JSON. Run all by ``python -m benchmarks``."""
