"""Each aggregator against its definition, written out on a few numbers."""

import re
from inspect import isfunction, signature
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from zo_triton.optim import ZOSGD, aggregators
from zo_triton.optim.aggregators import AGGREGATORS, BOUNDED, get_aggregator
from zo_triton.optim.checks import LARGEST_SLOPE

REFERENCE = (Path(__file__).resolve().parents[2] / "docs/api/training.md").read_text(encoding="utf-8")
SLOPES = torch.tensor([3.0, -1.0, 0.5, -4.0])


def no_gram() -> torch.Tensor:
    raise AssertionError("only align may pay for the Gram matrix")


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("average", [0.75, -0.25, 0.125, -1.0]),
        # mean -0.375, deviations squared sum to 25.6875, so std = sqrt(25.6875 / 3)
        ("normalized", [c / (4 * (25.6875 / 3) ** 0.5) for c in (3.0, -1.0, 0.5, -4.0)]),
        ("ranked", [0.5 / 4, -1 / 6 / 4, 1 / 6 / 4, -0.5 / 4]),
        ("best", [0.0, 0.0, 0.0, -4.0]),
    ],
)
def test_definition(name, expected):
    torch.testing.assert_close(AGGREGATORS[name](SLOPES, no_gram), torch.tensor(expected))


def test_align_solves_the_normal_equations():
    directions = torch.randn(4, 9, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    coefficients = AGGREGATORS["align"](SLOPES, lambda: directions @ directions.T)
    slopes = directions @ (directions.T @ coefficients.double())
    torch.testing.assert_close(slopes.float(), SLOPES, rtol=1e-5, atol=1e-5)


def test_align_with_dependent_directions_is_the_shortest_solution():
    # Twice the same direction of length 2 and slope 6: the estimate is 1.5 z, half of it from each.
    coefficients = AGGREGATORS["align"](torch.tensor([6.0, 6.0]), lambda: torch.full((2, 2), 4.0).double())
    torch.testing.assert_close(coefficients, torch.tensor([0.75, 0.75]))


def test_align_of_no_length_is_zero():
    coefficients = AGGREGATORS["align"](torch.tensor([1.0, 2.0]), lambda: torch.zeros(2, 2).double())
    assert coefficients.tolist() == [0.0, 0.0]


def test_ranked_shares_the_rank_of_equals():
    coefficients = AGGREGATORS["ranked"](torch.tensor([2.0, 2.0, -1.0]), no_gram)
    torch.testing.assert_close(coefficients, torch.tensor([0.25 / 3, 0.25 / 3, -0.5 / 3]))
    assert AGGREGATORS["ranked"](torch.full((3,), 2.0), no_gram).tolist() == [0.0, 0.0, 0.0]


def test_ranked_ignores_the_size_of_an_outlier():
    tame, wild = torch.tensor([1.0, 2.0, 3.0]), torch.tensor([1.0, 2.0, 3e30])
    assert torch.equal(AGGREGATORS["ranked"](tame, no_gram), AGGREGATORS["ranked"](wild, no_gram))


def test_normalized_does_not_depend_on_the_scale():
    small, large = (
        AGGREGATORS["normalized"](SLOPES * 1e-3, no_gram),
        AGGREGATORS["normalized"](SLOPES, no_gram),
    )
    torch.testing.assert_close(small, large)


@pytest.mark.parametrize(
    ("name", "expected"), [("average", -3.0), ("normalized", -1.0), ("ranked", -0.5), ("best", -3.0)]
)
def test_one_direction(name, expected):
    assert AGGREGATORS[name](torch.tensor([-3.0]), no_gram).tolist() == [expected]


def test_align_of_one_direction_divides_by_its_length():
    assert AGGREGATORS["align"](torch.tensor([-3.0]), lambda: torch.tensor([[6.0]]).double()).tolist() == [
        -0.5
    ]


@pytest.mark.parametrize("name", ["average", "normalized", "ranked", "best"])
def test_flat_loss_gives_zero(name):
    assert AGGREGATORS[name](torch.zeros(3), no_gram).tolist() == [0.0, 0.0, 0.0]


def test_normalized_of_equal_slopes_falls_back_to_their_size():
    torch.testing.assert_close(
        AGGREGATORS["normalized"](torch.full((2,), -3.0), no_gram), torch.full((2,), -0.5)
    )


def test_unknown_name_lists_the_known():
    with pytest.raises(ValueError, match=r"unknown aggregator 'mean'; choose one of \('average',.*'align'"):
        get_aggregator("mean")


def flaws(module, page):
    """What a module of aggregators has not finished."""
    functions = {
        name: value
        for name, value in vars(module).items()
        if isfunction(value) and list(signature(value).parameters) == ["projected", "gram"]
    }
    found = [f"{name} is not in AGGREGATORS" for name in functions if name not in module.AGGREGATORS]
    for name, function in module.AGGREGATORS.items():
        if not function.__doc__:
            found.append(f"{name} has no docstring")
        if not re.search(rf"members: \[.*\b{name}\b", page):
            found.append(f"{name} has no entry in the reference")
    return found


def test_every_aggregator_is_finished():
    assert flaws(aggregators, REFERENCE) == []


def test_an_unfinished_aggregator_is_noticed():
    def planted(projected, gram):
        return projected

    unlisted = SimpleNamespace(AGGREGATORS={}, planted=planted)
    assert flaws(unlisted, REFERENCE) == ["planted is not in AGGREGATORS"]
    listed = SimpleNamespace(AGGREGATORS={"planted": planted}, planted=planted)
    assert flaws(listed, REFERENCE) == ["planted has no docstring", "planted has no entry in the reference"]


@pytest.mark.parametrize("name", AGGREGATORS)
def test_every_aggregator_trains(name):
    weight = torch.tensor([1.0, -2.0, 3.0])
    opt = ZOSGD([weight], lr=0.01, directions=8, aggregator=name)
    losses = [opt.step(lambda: weight.square().sum()) for _ in range(50)]
    assert losses[-1] < losses[0]


@pytest.mark.parametrize("name", BOUNDED)
@pytest.mark.parametrize("count", [1, 4096])
def test_finite_slopes_make_finite_coefficients(count, name):
    """Up to the steepest that a step takes, and where all are the same or nothing."""
    largest = torch.full((count,), LARGEST_SLOPE * (1 - 2.0**-24))
    mixed = largest * torch.linspace(-1.0, 1.0, count)
    for slopes in (largest, mixed, torch.zeros(count), torch.full((count,), 2.0**-149)):
        assert get_aggregator(name)(slopes, None).isfinite().all()
