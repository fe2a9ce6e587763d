"""With the same coefficients, steps along signs write the same bits on every engine, in any order of summation."""

import os

import pytest
import torch

import zo_triton as zo
from zo_triton import ops
from zo_triton.ops import grid
from zo_triton.optim import ZOSGD

ENGINES = ("reference", "cpu", "triton")
SHAPES = [(5, 33), (7,)]
# One direction, a prime, a power of two, and one more than another: past a word of signs and past a tile.
COUNTS = (1, 7, 64, 257)
RULES = {
    "plain": {"lr": 0.37},
    "weight-decay": {"lr": 0.37, "weight_decay": 0.013},
    "momentum": {"lr": 0.37, "momentum": 0.9},
    "both": {"lr": 0.37, "momentum": 0.9, "weight_decay": 0.013},
    "orthogonal": {"lr": 0.37, "momentum": 0.9, "distribution": "hadamard"},
}


def coefficients(count, seed):
    """Log-normal sizes, so that an ordinary float32 sum would round at almost every addition."""
    generator = torch.Generator().manual_seed(seed)
    draws = torch.randn(2, count, generator=generator)
    return draws[0] * (2 * draws[1]).exp()


def walk(engine, count, rule, dtype=torch.float32, steps=2):
    weights = [torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype) for shape in SHAPES]
    opt = ZOSGD(weights, directions=count, seed=5, **rule)
    with zo.use_engine(engine):
        for step in range(steps):
            opt.apply(coefficients(count, step))
    return [*weights, *(value for state in opt.state.values() for value in state.values())]


# Every rule with one count and every count with one rule, for Triton's interpreter takes its time; nightly, all.
NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
CASES = [(name, count) for name in RULES for count in COUNTS if NIGHTLY or count == 7 or name == "both"]
ORDERS = [
    (engine, count) for engine in ENGINES for count in COUNTS if NIGHTLY or count < 64 or engine != "triton"
]


@pytest.mark.parametrize(("rule", "count"), CASES)
def test_engines_write_the_same_bits(count, rule, bits):
    ends = [bits(walk(engine, count, RULES[rule])) for engine in ENGINES]
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_so_they_do_for_other_weights(dtype, bits):
    ends = [bits(walk(engine, 7, RULES["both"], dtype)) for engine in ENGINES]
    assert ends[0] == ends[1] == ends[2]


@pytest.mark.parametrize(("engine", "count"), ORDERS)
def test_order_and_chunks_do_not_change_a_bit(engine, count):
    exact = ops.on_grid(coefficients(count, 0))
    directions = zo.Directions(5, 0, count)
    whole, reverse, chunks = (torch.zeros(5, 33) for _ in range(3))
    with zo.use_engine(engine):
        ops.accumulate([whole], [0], exact, directions)
        for k in reversed(range(count)):
            ops.accumulate([reverse], [0], exact[k : k + 1], directions[k : k + 1])
        for first in range(0, count, 5):
            ops.accumulate([chunks], [0], exact[first : first + 5], directions[first : first + 5])
    assert torch.equal(whole, reverse)
    assert torch.equal(whole, chunks)


def test_without_the_grid_the_order_would_tell():
    """What the test above rules out does happen: it can fail."""
    raw, directions = coefficients(257, 0), zo.Directions(5, 0, 257)
    whole, reverse = torch.zeros(5, 33), torch.zeros(5, 33)
    ops.accumulate([whole], [0], raw, directions)
    for k in reversed(range(257)):
        ops.accumulate([reverse], [0], raw[k : k + 1], directions[k : k + 1])
    assert not torch.equal(whole, reverse)


def test_threads_do_not_change_a_bit(bits):
    threads, ends = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            weight = torch.randn(301, 257, generator=torch.Generator().manual_seed(1))
            opt = ZOSGD([weight], directions=33, **RULES["both"])
            for step in range(2):
                opt.apply(coefficients(33, step))
            ends.append(bits([weight]))
    finally:
        torch.set_num_threads(threads)
    assert ends[0] == ends[1]


@pytest.mark.parametrize(
    ("count", "most"), [(1, 0.0), (7, 2**-20), (64, 2**-18), (256, 2**-16), (1024, 2**-14)]
)
def test_the_grid_changes_coefficients_this_little(count, most):
    """The figures of ``on_grid``'s docstring, the worst of 100 vectors; the bound there is K·2**-23."""
    worst = 0.0
    for seed in range(100):
        raw = torch.randn(count, generator=torch.Generator().manual_seed(seed))
        exact = ops.on_grid(raw)
        worst = max(worst, float((exact - raw).norm() / raw.norm()))
        sums = exact.double().cumsum(0)
        assert torch.equal(sums.float().double(), sums)
    assert worst <= most


def test_the_grid_is_the_same_in_any_order_and_taken_twice():
    for seed in range(50):
        raw = coefficients(64, seed)
        exact, order = ops.on_grid(raw), torch.randperm(64, generator=torch.Generator().manual_seed(seed))
        assert torch.equal(ops.on_grid(raw[order]), exact[order])
        assert torch.equal(ops.on_grid(exact), exact)
        assert torch.equal(ops.on_grid(exact[7:30]), exact[7:30])


@pytest.mark.parametrize("scale", [0.0, 1e-42, 1e-30, 1.0, 1e33])
def test_the_host_and_a_device_round_to_the_same_grid(scale, monkeypatch, bits):
    raw = [scale * coefficients(count, seed) for count in COUNTS for seed in range(20)]
    on_host = [ops.on_grid(each) for each in raw]
    monkeypatch.setattr(grid, "dispatcher_is_watched", lambda: True)
    assert bits(on_host) == bits([ops.on_grid(each) for each in raw])


@pytest.mark.parametrize("value", [0.0, 1e-45, 1e-38, 1.0, 3e38])
def test_the_grid_at_the_ends_of_float32(value):
    exact = ops.on_grid(torch.tensor([value, -value, 0.0]))
    assert exact.isfinite().all()
    assert float((exact - torch.tensor([value, -value, 0.0])).abs().max()) <= max(2.0**-126, value * 2**-22)


@pytest.mark.parametrize(
    ("spoilt", "error", "message"),
    [
        (torch.zeros(3), ValueError, r"expected 4 coefficients, one a direction, got shape \(3,\)"),
        (torch.zeros(4, dtype=torch.float64), TypeError, "must be a float32 tensor, got torch.float64"),
        ([0.0] * 4, TypeError, "must be a float32 tensor, got <class 'list'>"),
        (torch.tensor([0.0, float("nan"), 0.0, 0.0]), ValueError, "a coefficient is NaN or infinite"),
    ],
)
def test_apply_refuses_what_is_no_coefficient(spoilt, error, message):
    weight = torch.ones(3)
    opt = ZOSGD([weight], lr=0.1, directions=4)
    with pytest.raises(error, match=message):
        opt.apply(spoilt)
    assert opt.steps_done == 0
    assert torch.equal(weight, torch.ones(3))
