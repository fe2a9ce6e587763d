"""Throughput of the perturbation field: values a second, by distribution, against torch's generator."""

import pytest
import torch

import zo_triton as zo
from benchmarks.measure.gates import GateError
from zo_triton.distributions import DISTRIBUTIONS


@pytest.fixture
def shape(zo_tiny):
    """(K, rows, columns) of what is drawn."""
    return (2, 24, 40) if zo_tiny else (32, 256, 784)


def gate(values, directions):
    """The reference must draw the same values; mean and variance must lie within 6 deviations of 0 and 1."""
    with zo.use_engine("reference"):
        exact = zo.sample(directions, 0, values.shape[1:])
    difference = (values - exact).abs().max().item()
    if difference > 1e-4:
        raise GateError(f"{directions.distribution} differs from the reference by {difference:.2g}.")
    count = values.numel()
    if abs(values.mean()) > 6 / count**0.5 or abs(values.var() - 1) > 6 * (5 / count) ** 0.5:
        raise GateError(
            f"{directions.distribution} has mean {values.mean():.3g}, variance {values.var():.3g}."
        )


def report_throughput(benchmark, count):
    if benchmark.stats is not None:
        benchmark.extra_info["million_values_per_s"] = float(
            f"{1e-6 * count / benchmark.stats.stats.median:.3g}"
        )


@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def bench_sample(zo_measure, shape, distribution):
    K, rows, cols = shape
    few = zo.Directions(0, 0, 2, distribution)
    gate(zo.sample(few, 0, (rows, cols)), few)
    directions = zo.Directions(0, 0, K, distribution)
    done = zo_measure("field", lambda: zo.sample(directions, 0, (rows, cols)), K=K, values=rows * cols)
    report_throughput(done, K * rows * cols)


def bench_torch_randn(zo_measure, shape):
    generator = torch.Generator().manual_seed(0)
    done = zo_measure(
        "field", lambda: torch.randn(shape, generator=generator), K=shape[0], values=shape[1] * shape[2]
    )
    report_throughput(done, shape[0] * shape[1] * shape[2])
