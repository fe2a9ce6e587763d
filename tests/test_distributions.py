"""What the table of distributions says holds for every engine's draws, and what is unfinished is noticed."""

from dataclasses import replace

import numpy as np
import pytest
import torch

import zo_triton as zo
from zo_triton import ops
from zo_triton.cpu.field import fill_matrix, key_of
from zo_triton.directions import Directions
from zo_triton.distributions import DISTRIBUTIONS, INDEPENDENT, check_drawn, name_of

SIDE = 512
"""Of the matrix whose elements are looked at: 2¹⁸ of them."""


def draw(engine, name, shape=(SIDE, SIDE), num=1):
    # Of orthogonal directions the first is a row of some matrix, not the one row of the smallest.
    order = 64 if DISTRIBUTIONS[name].orthogonal else None
    directions = Directions(20260301, 4, num, name, order=order).over([(3, 70), shape])
    with zo.use_engine(engine):
        return zo.sample(directions, 1, shape).double()


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_an_entry_is_symmetric_and_has_the_moments_of_its_distribution_function(name):
    entry = DISTRIBUTIONS[name]
    x = np.linspace(0, 40, 40_001)
    middle = (x[1:] + x[:-1]) / 2
    cdf = np.array([entry.cdf(value) for value in middle])
    np.testing.assert_allclose([entry.cdf(-value) for value in middle], 1 - cdf, atol=1e-15)
    assert (np.diff(cdf) >= 0).all()
    # E z²ᵏ = ∫ 2·2k·x²ᵏ⁻¹·P(z > x) dx over x > 0.
    found = [4 * k * (middle ** (2 * k - 1) * (1 - cdf)).sum() * x[1] for k in range(1, 5)]
    assert found == pytest.approx(entry.even_moments, rel=1e-3)
    assert entry.even_moments[0] == 1
    assert entry.elements is None or DISTRIBUTIONS[entry.elements].elements is None
    assert entry.signs or not entry.orthogonal


def test_codes_are_distinct_and_name_their_distributions():
    assert [name_of(entry.code) for entry in DISTRIBUTIONS.values()] == list(DISTRIBUTIONS)
    for code in (-1, max(entry.code for entry in DISTRIBUTIONS.values()) + 1):
        with pytest.raises(ValueError, match=rf"unknown code {code} of a distribution; choose one of \{{'r"):
            Directions.decode([0, 0, 1, code, 10, 0, 0])


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize("name", INDEPENDENT)
def test_draws_have_the_moments_and_the_distribution_function(name, engine):
    entry, values = DISTRIBUTIONS[name], draw(engine, name).numpy().ravel()
    even = [1.0, *entry.even_moments]
    for order in range(1, 5):
        mean = 0.0 if order % 2 else even[order // 2]
        error = ((even[order] - mean**2) / values.size) ** 0.5
        assert abs((values**order).mean() - mean) <= 5 * error
    # Dvoretzky, Kiefer, Wolfowitz and Massart: a gap this wide has a chance below 1e-9, of discrete values too.
    found, counts = np.unique(values, return_counts=True)
    gap = np.abs(np.cumsum(counts) / values.size - [entry.cdf(value) for value in found]).max()
    assert gap <= (np.log(2e9) / (2 * values.size)) ** 0.5


@pytest.mark.parametrize("engine", ["cpu", "triton"])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_engines_draw_what_the_reference_draws(name, engine):
    for shape in ((33,), (5, 70)):
        found, wanted = (draw(each, name, shape, 3) for each in (engine, "reference"))
        if DISTRIBUTIONS[name].signs:
            assert torch.equal(found, wanted)
        else:
            torch.testing.assert_close(found, wanted, rtol=0, atol=1e-5)


@pytest.mark.parametrize("engine", ["cpu", "triton"])
@pytest.mark.parametrize(
    ("name", "rank"),
    [
        (name, rank)
        for name in INDEPENDENT
        for rank in (None, 2)
        if not (rank and DISTRIBUTIONS[name].orthogonal)
    ],
)
def test_every_operation_uses_the_same_draws(name, engine, rank):
    directions = Directions(5, 6, 2, name, rank=rank)
    generator = torch.Generator().manual_seed(0)
    base, weight = torch.randn(3, 40, generator=generator), torch.randn(6, 40, generator=generator)
    with zo.use_engine("reference"):
        z = zo.sample(directions, 0, (6, 40)).double()
    moved, eps = torch.zeros(6, 40), torch.full((2,), 1e-3)
    with zo.use_engine(engine):
        zo.accumulate([moved], [0], torch.tensor([1.0, -2.0]), directions)
        products = zo.gram([weight], [0], directions)
        changes = ops.perturbed_linear(base, None, weight, directions, eps, weight_id=0)
        if DISTRIBUTIONS[name].signs and rank is None:
            packed = ops.stage(directions, 0, (6, 40))
            bits = packed[..., None] >> torch.arange(32, dtype=torch.int32) & 1
            assert torch.equal(2.0 * bits.flatten(2)[:, :6, :40] - 1, z)
    torch.testing.assert_close(moved.double(), z[0] - 2 * z[1], rtol=0, atol=1e-4)
    torch.testing.assert_close(products, torch.einsum("kij,lij->kl", z, z), rtol=1e-5, atol=1e-3)
    wanted = 1e-3 * torch.einsum("ni,kji->knj", base.double(), z)
    torch.testing.assert_close(changes.double(), wanted, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("engine", ops.ENGINES)
@pytest.mark.parametrize("signs", [False, True])
def test_an_engine_refuses_what_it_has_no_routine_for(engine, signs, monkeypatch):
    unfinished = replace(DISTRIBUTIONS["laplace"], code=99, signs=signs)
    monkeypatch.setitem(DISTRIBUTIONS, "unfinished", unfinished)
    directions, message = Directions(0, 0, 2, "unfinished"), f"the {engine} engine can't draw 'unfinished'"
    calls = [
        lambda: zo.sample(directions, 0, (5, 3)),
        lambda: zo.accumulate([torch.zeros(5, 3)], [0], torch.ones(2), directions),
        lambda: zo.gram([torch.zeros(5, 3)], [0], directions),
        lambda: ops.perturbed_linear(
            torch.ones(2, 3), None, torch.ones(5, 3), directions, torch.ones(2), weight_id=0
        ),
    ]
    if signs:
        calls.append(lambda: ops.stage(directions, 0, (5, 3)))
    for call in calls:
        with zo.use_engine(engine), pytest.raises(ValueError, match=message):
            call()


def test_compiled_code_refuses_an_unknown_code():
    with pytest.raises(ValueError, match="unknown code of a real-valued distribution"):
        fill_matrix(np.empty((4, 4), np.float32), 0, 0, 0, key_of(Directions(0, 0, 1)), 99)


def test_the_choices_are_named():
    assert check_drawn("a", ("a", "b"), "cpu") == "a"
    with pytest.raises(ValueError, match=r"the cpu engine can't draw 'c'; choose one of \('a', 'b'\)"):
        check_drawn("c", ("a", "b"), "cpu")
