"""What becomes of a difference in each of torch's functions, and on each way out of torch: ``docs/coverage.md``."""
