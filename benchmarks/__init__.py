"""Benchmarks of a running server and of alternatives: `python -m benchmarks`."""
