"""The specification itself: published known answers, and the moments every distribution promises."""

import numpy as np
import pytest

from zo_triton.directions import Directions
from zo_triton.distributions import DISTRIBUTIONS, INDEPENDENT
from zo_triton.philox import philox_block
from zo_triton.reference import philox, sample_matrix

# Known answers of Philox4x32 distributed with Random123 (kat_vectors): counter, key, rounds, output.
KNOWN = {
    "zeros-10": ([0] * 4, (0, 0), 10, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    "ones-10": ([0xFFFFFFFF] * 4, (0xFFFFFFFF,) * 2, 10, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    "pi-10": (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        (0xA4093822, 0x299F31D0),
        10,
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
    "zeros-7": ([0] * 4, (0, 0), 7, [0x5F6FB709, 0x0D893F64, 0x4F121F81, 0x4F730A48]),
}
# Fourth moment over the squared variance.
KURTOSIS = {name: DISTRIBUTIONS[name].even_moments[1] for name in INDEPENDENT}


@pytest.mark.parametrize("case", KNOWN)
def test_philox_known_answers(case):
    counter, key, rounds, expected = KNOWN[case]
    assert philox(np.array(counter, np.uint32), key, rounds).tolist() == expected
    assert philox_block(tuple(counter), key, rounds) == expected


@pytest.mark.parametrize("distribution", KURTOSIS)
def test_moments(distribution):
    draws = 1 << 20
    z = sample_matrix(Directions(1, 2, 1, distribution), 0, 0, 1024, 1024)
    # The variance of z², needed for the z-score of the second moment, is the kurtosis minus one.
    spread = max(KURTOSIS[distribution] - 1.0, 1e-9) ** 0.5
    assert abs(z.mean()) < 5 / draws**0.5
    assert abs((z**2).mean() - 1.0) < 5 * spread / draws**0.5
    eighth = (z**8).mean()
    assert abs((z**4).mean() - KURTOSIS[distribution]) < 5 * (eighth / draws) ** 0.5 + 1e-9


@pytest.mark.parametrize("change", ["seed", "seed-high-half", "step", "direction", "tensor"])
def test_every_coordinate_changes_the_stream(change):
    base = sample_matrix(Directions(17, 0, 1), 0, 0, 64, 64)
    other = {
        "seed": lambda: sample_matrix(Directions(16, 1, 1), 0, 0, 64, 64),  # 17 + 0 = 16 + 1
        "seed-high-half": lambda: sample_matrix(Directions(17 + 2**32, 0, 1), 0, 0, 64, 64),
        "step": lambda: sample_matrix(Directions(17, 1, 1), 0, 0, 64, 64),
        "direction": lambda: sample_matrix(Directions(17, 0, 1), 1, 0, 64, 64),
        "tensor": lambda: sample_matrix(Directions(17, 0, 1), 0, 1, 64, 64),
    }[change]()
    # Independent signs agree in half of the 4096 places, ±32 a standard deviation.
    assert abs((base * other).sum()) < 5 * 64


def test_a_larger_matrix_extends_the_columns_block_by_block():
    small, large = (sample_matrix(Directions(3, 0, 1), 0, 0, rows, 32) for rows in (5, 9))
    assert np.array_equal(large[:5], small)


@pytest.mark.parametrize("distribution", KURTOSIS)
@pytest.mark.parametrize("shape", [(0, 5), (5, 0), (0, 0)])
def test_an_empty_matrix_has_no_elements(shape, distribution):
    assert sample_matrix(Directions(3, 0, 1, distribution), 0, 0, *shape).shape == shape
