"""Benchmarks of single operations, steps and the field, for ``pytest --benchmark``."""
