"""Measurements of a running server against other ways to do the same: `python -m benchmarks`."""
