"""What the suite's benchmarks share beside the plugin's fixtures."""

import pytest


@pytest.fixture(scope="session")
def zo_gate(request):
    """The fused kernels, all of them: stricter than the plugin's own gate."""
    from benchmarks.measure.gates import check_walks

    return check_walks(5 if request.config.getoption("benchmark_tiny") else 100)


@pytest.fixture(scope="session")
def peaks(request):
    """The machine's ceilings, measured once."""
    from benchmarks.contenders.fused import hardware_dtype
    from benchmarks.measure.peaks import measure_peaks

    tiny = request.config.getoption("benchmark_tiny")
    small: dict = {"size": 64, "megabytes": 1.0, "seconds": 0.01} if tiny else {}
    return measure_peaks(hardware_dtype(), **small)
