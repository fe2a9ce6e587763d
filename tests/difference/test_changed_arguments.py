"""Lists and arrays that are arguments, and that the closure changes once it has used them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, relative_error

import zo_triton as zo
from zo_triton.difference import fallback

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 4, generator=GENERATOR)
W = torch.randn(5, 4, generator=GENERATOR)
DIRECTIONS = zo.Directions(seed=1, step=0, num=4)
EPS = 1e-2


def rows(h):
    chosen = [0, 1]
    for step in range(3):
        yield h[chosen]
        chosen[0] = step + 2


def rows_in_an_array(h):
    chosen = np.array([0, 1])
    for _ in range(3):
        yield h[chosen]
        chosen += 1


def mask_in_an_array(h):
    mask = np.zeros(6, dtype=bool)
    for step in range(3):
        mask[:] = False
        mask[step : step + 2] = True
        yield h[mask]


def elements(h):
    places = [[0, 1], [1, 2]]
    for _ in range(2):
        yield h[tuple(places)]
        places[0][0] += 2


def order_of_axes(h):
    order = [0, 1]
    for _ in range(2):
        yield h.permute(order)
        order.reverse()


def reduced_axes(h):
    axes = [0]
    for _ in range(2):
        yield h.sum(axes)
        axes[0] = 1


def padding(h):
    sides = [1, 0]
    for _ in range(2):
        yield F.pad(h, sides)
        sides.reverse()


def sizes(h):
    parts = [2, 4]
    for _ in range(2):
        yield from h.split(parts)
        parts.reverse()


CASES = (rows, rows_in_an_array, mask_in_an_array, elements, order_of_axes, reduced_axes, padding, sizes)


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_a_function_used_what_its_argument_held_then(case, chunk):
    def function(w):
        found = torch.cat([each.sin().flatten() for each in case(F.linear(X.to(w.dtype), w))])
        return (found * torch.arange(len(found)).to(w.dtype)).sum()

    value, found = zo.differences(lambda: function(W), [W], DIRECTIONS, EPS, chunk=chunk, strict=True)
    torch.testing.assert_close(value, function(W))
    assert relative_error(found, expected_differences(function, [W], DIRECTIONS, EPS)) < 1e-5


@pytest.mark.filterwarnings("ignore:__array_wrap__ must accept", "ignore:zo_triton has no difference rule")
def test_an_array_as_an_exponent_counts_as_any_array():
    fallback._warned.clear()
    array = np.array([1.0, 2.0, 3.0, 1.0, 2.0], dtype=np.float32)
    with pytest.warns(UserWarning, match="takes the values of a tensor"):
        zo.differences(lambda: (F.linear(X, W) ** array).sum() + W.sum(), [W], DIRECTIONS, EPS)
