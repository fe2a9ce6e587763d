"""Near the ends of a function's domain, at the end and beyond, however long the step: float64's own difference."""

import warnings

import numpy as np
import pytest
import torch

import zo_triton as zo

ULP = 2.0**-24
INNER = [0.0, ULP, 3 * ULP, 1e-6, 1e-4, 0.011, 0.3, 0.9999]
"""Distances from the end, inside the domain."""

OUTER = [-ULP, -1e-5, -0.7]

# Name: (the function, its ends, on which side of them the domain lies)
FUNCTIONS = {
    "asin": (torch.asin, (1, -1)),
    "acos": (torch.acos, (1, -1)),
    "atanh": (torch.atanh, (1, -1)),
    "erfinv": (torch.erfinv, (1, -1)),
    "logit": (torch.logit, (0, 1)),
    "acosh": (torch.acosh, (1,)),
    "log": (torch.log, (0,)),
    "log2": (torch.log2, (0,)),
    "log10": (torch.log10, (0,)),
    "log1p": (torch.log1p, (-1,)),
    "sqrt": (torch.sqrt, (0,)),
    "rsqrt": (torch.rsqrt, (0,)),
    "power": (lambda a: a**1.7, (0,)),
    "root": (lambda a: a**0.3, (0,)),
    "inverse_power": (lambda a: a**-1.3, (0,)),
    "trained_power": (lambda a: a ** (a + 0.4), (0,)),
    "xlogy": (lambda a: torch.xlogy(a, a), (0,)),
    "lgamma": (torch.lgamma, (0,)),
    "digamma": (torch.digamma, (0,)),
}
DOWNWARD = {("asin", 1), ("acos", 1), ("atanh", 1), ("erfinv", 1), ("logit", 1)}
"""Domains that lie below the end."""

CASES = [(name, end) for name, (_, ends) in FUNCTIONS.items() for end in ends]


def steps_near(name, end):
    """Where steps begin, float32 [n], and their lengths: from each place to each other one."""
    inward = -1.0 if (name, end) in DOWNWARD else 1.0
    inner, all_places = (
        np.float32(end) + np.float32(inward) * np.array(places, np.float32)
        for places in (INNER, INNER + OUTER)
    )
    begin, stop = (each.ravel() for each in np.meshgrid(inner, all_places, indexing="ij"))
    return torch.from_numpy(begin.copy()), torch.from_numpy(stop - begin)


def found_and_expected(function, begin, lengths, dtype=torch.float32):
    """Δf of steps of exactly these lengths, by the library and in float64."""
    weight, directions = torch.zeros(1), zo.Directions(seed=0, step=0, num=1)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # some of them are subtracted
        _, found = zo.differences(
            lambda: function(begin + weight * lengths),
            [weight],
            directions,
            1.0,
            sides=2,
            compute_dtype=dtype,
        )
    sign = zo.sample(directions, 0, (1,))[0].double()
    exact = begin.double()
    moved = torch.stack([function(exact + side * sign * lengths.double()) for side in (1, -1)])
    stays = function(exact).isinf() & (moved == function(exact))  # what stays infinite has not changed
    return found[0], (moved - function(exact)).masked_fill(stays, 0.0)


@pytest.mark.parametrize(("name", "end"), CASES)
def test_differences_are_float64s_own(name, end):
    found, expected = found_and_expected(FUNCTIONS[name][0], *steps_near(name, end))
    torch.testing.assert_close(found.double(), expected, rtol=1e-5, atol=1e-30, equal_nan=True)


@pytest.mark.parametrize("outside", [-1.5, -3.0, 1.5, 3.0])
@pytest.mark.parametrize("name", ["asin", "acos", "atanh", "acosh", "log", "log1p", "sqrt", "rsqrt", "root"])
def test_a_step_from_outside_the_domain_has_no_difference(name, outside):
    """Wherever it leads."""
    begin = torch.full((5,), outside)
    found, expected = found_and_expected(FUNCTIONS[name][0], begin, torch.tensor([0.0, 1e-3, 0.4, 1.0, 5.0]))
    assert torch.equal(found.isnan(), expected.isnan())


# Name: (function, where steps begin, their lengths)
FAR = {
    "exp": (torch.exp, [-100, -60, -60, -20], [150, 100, 30, 90]),
    "expm1": (torch.expm1, [-100, -60, -60, -20], [150, 100, 30, 90]),
    "exp2": (torch.exp2, [-130, -90, -60, -20], [200, 170, 40, 90]),
    "number_to_a_power": (lambda a: 2.5**a, [-90, -60, -20, 30], [150, 100, 50, 10]),
    "tenth_power": (lambda a: a**10, [1e-4, -1e-4, 1e-3, 3.0], [1.0, -2.0, 10.0, -2.9]),
    "inverse_cube": (lambda a: a**-3, [1e4, -1e4, 10.0, 1e-9], [-9999.99, 9999.99, -9.5, 1e-9]),
    "trained_power": (lambda a: a ** (3 + a), [1e-10, 1e-5, 3.0, 0.5], [11.0, 20.0, 9.0, 1e-3]),
    "reciprocal": (torch.reciprocal, [1e-25, -1e-30, 1e25, 1e30], [1e-25, -1e-31, 1e24, -1e29]),
    "rsqrt": (torch.rsqrt, [1e-30, 1e-38, 1e28, 1e36], [1e-30, 3e-38, 1e27, -1e35]),
    "sqrt": (torch.sqrt, [1e-30, 1e-38, 1e28, 1e36], [1e-30, 3e-38, 1e27, -1e35]),
    "real_power": (lambda a: a**1.1, [1e-25, 1e-30, 1e25, 1e30], [1e-32, 1e-31, 1e18, -1e29]),
    "softsign": (torch.nn.functional.softsign, [1e20, -1e22, 1e-25, 3.0], [-2e20, 2e22, -2e-25, 1e20]),
}


@pytest.mark.parametrize("name", FAR)
def test_what_a_formula_multiplies_stays_in_range_over_long_steps(name):
    """Where a factor would overflow or vanish in float32 and the difference does not."""
    function, begin, lengths = FAR[name]
    found, expected = found_and_expected(function, torch.tensor(begin).float(), torch.tensor(lengths).float())
    inside = expected.abs().nan_to_num(torch.inf) < 3e38
    assert inside.any(0).all()
    cancelled = 2.0**-51 * function(torch.tensor(begin).double()).abs() + 1e-38  # in the float64 subtraction
    assert ((found - expected).abs() <= 2e-5 * expected.abs() + cancelled)[inside].all()
