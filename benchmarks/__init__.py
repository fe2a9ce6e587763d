"""The benchmark suite, run from a checkout: ``python -m benchmarks``. Begin with ``convergence.py``."""
