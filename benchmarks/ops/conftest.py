"""What the benchmarks share."""

from time import perf_counter

import pytest


@pytest.fixture
def tiny(request):
    """Whether small shapes are wanted."""
    return request.config.getoption("tiny")


@pytest.fixture(scope="session")
def gate(request):
    """No speed on a red gate: the fused kernels must follow the theory's recursion before anything is timed."""
    from benchmarks.measure.gates import check_walks

    return check_walks(5 if request.config.getoption("tiny") else 100)


@pytest.fixture(scope="session")
def peaks(request):
    """The machine's ceilings, measured once."""
    from benchmarks.contenders.fused import hardware_dtype
    from benchmarks.measure.peaks import measure_peaks

    small: dict = {"size": 64, "megabytes": 1.0, "seconds": 0.01} if request.config.getoption("tiny") else {}
    return measure_peaks(hardware_dtype(), **small)


@pytest.fixture
def measure(benchmark, gate):
    """Times an action after two untimed calls, the first of which compiles; its seconds are told apart."""

    def run(group, action, **extra):
        start = perf_counter()
        action()
        first = perf_counter() - start
        action()
        benchmark.group = group
        benchmark.extra_info.update(extra, first_call_ms=float(f"{1000 * first:.3g}"))
        benchmark(action)
        return benchmark

    return run
