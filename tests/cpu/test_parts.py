"""Float32 factors in squares as three bfloat16 parts: all digits, and no more error than torch's GEMM."""

import math

import pytest
import torch

import zo_triton as zo
from zo_triton import cpu
from zo_triton.cpu import natural
from zo_triton.cpu.squares import most_parts
from zo_triton.cpu.tiles import PARTS

pytestmark = pytest.mark.skipif(not most_parts(), reason="this processor has nothing for bfloat16")

SAMPLES, FEATURES = 45, 37


@pytest.fixture(autouse=True)
def in_parts(monkeypatch):
    """Also where float32 is as quick."""
    monkeypatch.setattr(natural, "most_parts", lambda: PARTS)
    monkeypatch.setattr(natural, "has_matrix_unit", lambda: True)


LARGEST = torch.tensor(0x7F7F7FFF, dtype=torch.int32).view(torch.float32).item()
"""The last float32 that bfloat16 does not round to infinity, 3.39·10³⁸."""


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def magnitudes(first, last):
    """Normal numbers of every magnitude from 2^first to 2^last, [45, 37]."""
    exponents = torch.linspace(first, last, SAMPLES * FEATURES, dtype=torch.float64).view(SAMPLES, FEATURES)
    signs = normal(SAMPLES, FEATURES).sign()
    return (signs * 2**exponents).float()


def run(base, difference, weight, weight_id=-1, eps=1.0):
    """Δz of one direction, [N, out]."""
    out = torch.full((1, len(base), len(weight)), torch.nan)
    signed_eps = torch.full((1,), eps)
    cpu.perturbed_linear(
        out, base, difference[None], weight, None, zo.Directions(3, 1, 1), weight_id, -1, signed_eps, "none"
    )
    return out[0]


def carried(values):
    """δWᵀ for W = 1."""
    return run(torch.zeros_like(values), values, torch.eye(values.shape[1]))


def weighted(values):
    """The same for δ = 1 and Wᵀ = values."""
    rows = values.shape[0]
    return run(torch.zeros(rows, rows), torch.eye(rows), values.T.contiguous())


def signed(values):
    """(a + δ)Uᵀ for a = values and δ = 0 without the signs: sums of one value each."""
    still, rows = torch.zeros_like(values), values.shape[1]
    signs = zo.sample(zo.Directions(3, 1, 1), 5, (rows, rows))[0]
    spread = torch.stack([run(values * mask, still, torch.zeros(rows, rows), 5) for mask in torch.eye(rows)])
    return (spread[:, :, 0] * signs[0, :, None]).T.contiguous()


WAYS = {"difference": carried, "weight": weighted, "base": signed}


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_parts_have_all_digits_from_1e_minus_31_on(way):
    values = magnitudes(-103, 120)
    assert torch.equal(way(values), values)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
def test_smaller_numbers_are_off_by_the_smallest_normal_one_at_most(way):
    values = magnitudes(-149, -103)
    found = way(values)
    assert (found.double() - values.double()).abs().max() <= 2.0**-126
    assert not torch.equal(found, values)


@pytest.mark.parametrize("value", [LARGEST, -LARGEST, 2.0**127])
@pytest.mark.parametrize("way", [carried, weighted], ids=["difference", "weight"])
def test_the_largest_numbers_are_whole(way, value):
    values = torch.zeros(SAMPLES, FEATURES)
    values[7, 35] = value
    assert torch.equal(way(values), values)


BROKEN = {
    "rounds-to-infinity": torch.finfo(torch.float32).max,
    "infinity": -math.inf,
    "not-a-number": math.nan,
    "not-a-number-of-ones": torch.tensor(-1, dtype=torch.int32).view(torch.float32).item(),
}


@pytest.mark.parametrize("value", BROKEN.values(), ids=BROKEN)
def test_what_has_no_parts_is_not_a_number(value):
    values = normal(SAMPLES, FEATURES)
    values[7, 35] = value
    change, moved = carried(values), run(values, torch.zeros_like(values), torch.zeros(6, FEATURES), 5)
    by_weight = weighted(values)
    assert change[7].isnan().all()
    assert moved[7].isnan().all()
    assert by_weight[:, 35].isnan().all()
    others = torch.arange(SAMPLES) != 7
    assert torch.equal(change[others], values[others])
    assert moved[others].isfinite().all()
    assert by_weight[:, :35].isfinite().all()


def test_small_parts_of_both_products_are_added_before_the_first_parts_of_either():
    """δWᵀ = 2¹⁷ and (a + δ)Uᵀ = 320·2⁻¹², whose first parts cancel: one by one, these would be rounded off."""
    inner, large = 320, 2.0**17
    u = zo.sample(zo.Directions(3, 1, 1), 5, (2, 1 + inner))[0, 0]
    base = u * (torch.tensor([1.0, -1.0]).repeat(inner // 2 + 1)[: 1 + inner] + 2.0**-12)
    base[0] = -large
    difference, weight = torch.zeros(2, 1 + inner), torch.zeros(2, 1 + inner)
    difference[:, 0], weight[:, 0] = large, 1.0
    found = run(base.expand(2, -1).contiguous(), difference, weight, 5)
    assert found[:, 0].tolist() == [large + inner * 2.0**-12] * 2


SIZES = {
    "less-than-a-square": (31, 3, 20),
    "primes": (45, 71, 37),
    "whole-squares": (64, 64, 96),
    "several-runs": (600, 33, 70),
    "deep": (70, 1000, 40),
    "wide": (100, 40, 1030),
}


def layer(size, num, sides, scaled, distribution="rademacher", eps=1e-3):
    """Arguments, the difference in float64, and what the terms of each sum amount to."""
    samples, inputs, outputs = size
    base, weight = normal(samples, inputs), normal(outputs, inputs, seed=1) / inputs**0.5
    difference = eps * normal(num * sides, samples, inputs, seed=2)
    if scaled:
        rows = 10 ** (12 * torch.rand(samples, 1, generator=torch.Generator().manual_seed(3)) - 6)
        base, difference = rows * base, rows * difference
        weight *= 10 ** (6 * torch.rand(outputs, 1, generator=torch.Generator().manual_seed(4)) - 6)
    directions = zo.Directions(9, 2, num, distribution)
    u = zo.sample(directions, 5, weight.shape).double().mT.repeat_interleave(sides, 0)
    steps = eps * torch.tensor([1.0, -1.0])[:sides].repeat(num)
    wide, inputs_there = steps.double()[:, None, None], base.double() + difference.double()
    exact = difference.double() @ weight.double().T + wide * (inputs_there @ u)
    terms = difference.double().square() @ weight.double().square().T
    terms = terms + (wide * inputs_there).square() @ u.square()
    return (base, difference, weight, None, directions, 5, -1, steps, "none"), exact, terms.sqrt()


@pytest.mark.parametrize("scaled", [False, True], ids=["even", "ill-scaled"])
@pytest.mark.parametrize(("num", "sides"), [(1, 1), (1, 2), (3, 2)])
@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_the_error_is_no_more_than_that_of_torchs_products_and_tables_of_signs(
    distribution, size, num, sides, scaled, monkeypatch
):
    given, exact, terms = layer(size, num, sides, scaled, distribution)
    monkeypatch.setattr(natural, "WEIGHTS_A_SAMPLE", natural.LARGEST)
    errors = []
    for parts in (PARTS, 0):
        monkeypatch.setattr(natural, "most_parts", lambda parts=parts: parts)
        out = torch.full(exact.shape, torch.nan)
        cpu.perturbed_linear(out, *given)
        errors.append((((out - exact) / terms).square().mean() ** 0.5).item())
    ours, theirs = errors
    assert 0 < ours <= theirs


TAKEN = {
    "a-transformers": ((64, 256, 256), "highest", 3),
    "torch-may-use-tf32": ((64, 256, 256), "high", 3),
    "rounded": ((64, 256, 256), "medium", 1),
    "few-samples": ((63, 256, 256), "highest", 0),
    "few-samples-rounded": ((1, 256, 256), "medium", 1),
    "deepest": ((64, 1024, 64), "highest", 3),
    "too-deep": ((64, 1025, 32), "highest", 0),
    "largest": ((1024, 1024, 1024), "highest", 3),
    "too-large": ((2048, 1024, 1025), "highest", 0),
}


@pytest.mark.parametrize(("size", "precision", "expected"), TAKEN.values(), ids=TAKEN)
def test_a_layer_comes_in_parts_where_that_gains(size, precision, expected):
    torch.set_float32_matmul_precision(precision)
    try:
        assert natural._parts(*size) == expected
    finally:
        torch.set_float32_matmul_precision("highest")
