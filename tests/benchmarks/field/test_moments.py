"""Exact moments are exact, the field has them, and what lacks them is found. Numbers of draws are fixed."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.field.moments import LAWS, examine, low_rank_moments, p_value

SEED = 20260102
LARGEST_Z = 5.0
"""Of 28 z-scores: beyond it by chance once in 60 000 suites, and the draws are always the same."""


@pytest.mark.parametrize("name", LAWS)
def test_the_field_has_the_moments_and_the_distribution(name):
    found = examine(LAWS[name], SEED, 2, 8192)
    assert found["values"] == (1024 if "sphere" in name else 16384)
    assert max(abs(z) for z in found["z"] if z is not None) < LARGEST_Z
    assert found["ks"] is None or found["ks"] > 1e-5


@pytest.mark.parametrize("name", [name for name, law in LAWS.items() if law.distribution])
def test_moments_are_those_of_the_distribution_function(name):
    law = LAWS[name]
    x = np.linspace(-40, 40, 400_001)
    steps, middle = np.diff(law.distribution(x)), (x[1:] + x[:-1]) / 2
    found = [(middle**order * steps).sum() for order in range(9)]
    assert found == pytest.approx(law.moments, rel=1e-4, abs=1e-4)


def test_low_rank_signs_are_counted_out():
    # The sum of three signs over √3, squared and to the fourth: by all eight outcomes.
    sums = np.array([3, 1, 1, 1, -1, -1, -1, -3]) / 3**0.5
    expected = [(sums**k).mean() for k in range(9)]
    assert low_rank_moments([1, 0, 1, 0, 1, 0, 1, 0, 1], 3) == pytest.approx(expected, abs=1e-12)


WRONG = {
    "a mean": lambda values: values + 0.1,
    "a variance": lambda values: 1.1 * values,
    "a skewness": lambda values: np.where(values > 1.5, values + 1, values),
    "tails": lambda values: np.clip(values, -2, 2),
}


@pytest.mark.parametrize("fault", WRONG)
def test_what_is_wrong_is_found(fault):
    law = LAWS["gaussian"]
    wrong = replace(law, draw=lambda seed, step, count: WRONG[fault](law.draw(seed, step, count)))
    found = examine(wrong, SEED, 4, 16384)
    assert max(map(abs, found["z"])) > 10
    assert found["ks"] < 1e-6


def test_a_sign_that_is_none_is_found():
    law = LAWS["rademacher"]
    found = examine(replace(law, draw=lambda *where: 1.01 * law.draw(*where)), SEED, 1, 1024)
    assert p_value(found["z"][1]) < 1e-300


def test_p_values_of_z_scores():
    assert p_value(None) == 1.0
    assert p_value(-1.959964) == pytest.approx(0.05, rel=1e-4)
