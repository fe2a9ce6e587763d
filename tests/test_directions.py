"""The value that names K directions."""

import re

import pytest

from zo_triton.directions import (
    PART_LEFT,
    PART_RIGHT,
    PART_WHOLE,
    Directions,
    check_seed,
    matrix_shape,
    num_blocks,
    seed_after,
    tensor_word,
)

BAD = {
    "seed-negative": ({"seed": -1}, ValueError, "seed must be in"),
    "seed-too-large": ({"seed": 2**64}, ValueError, "modulo 2\\*\\*64"),
    "step-too-large": ({"step": 2**32}, ValueError, "step must be in"),
    "no-directions": ({"num": 0}, ValueError, "directions must be at least 1, got 0"),
    "fractional": ({"num": 2.0}, TypeError, "num must be an int, got 2.0"),
    "boolean": ({"num": True}, TypeError, "num must be an int, got True"),
    "distribution": ({"distribution": "cauchy"}, ValueError, "unknown distribution 'cauchy'"),
    "rounds": ({"rounds": 8}, ValueError, "rounds must be 7 or 10, got 8"),
    "rank": ({"rank": 0}, ValueError, "rank must be at least 1"),
    "first": ({"first": 2**32}, ValueError, re.escape("leave [0, 2**32)")),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_input(case):
    change, error, message = BAD[case]
    with pytest.raises(error, match=message):
        Directions(**({"seed": 0, "step": 0, "num": 4} | change))


@pytest.mark.parametrize("seed", [0, 1, 2**63 - 1, 2**63, 2**64 - 1])
def test_encoding_round_trip(seed):
    directions = Directions(seed, 2**32 - 1, 3, "laplace", rounds=7, rank=2, first=9)
    encoded = directions.encode()
    assert all(-(2**63) <= value < 2**63 for value in encoded), "a torch op takes signed 64-bit integers"
    assert Directions.decode(encoded) == directions


def test_seeds_have_one_range_that_is_counted_round_its_end():
    assert [check_seed(seed) for seed in (0, 2**64 - 1)] == [0, 2**64 - 1]
    assert seed_after(7, 3) == 10
    assert seed_after(2**64 - 1, 2) == 1
    for bad, error in ((-1, ValueError), (2**64, ValueError), (1.0, TypeError), (True, TypeError)):
        with pytest.raises(error, match=f"seed must be .* got {bad}"):
            check_seed(bad)


def test_slices_keep_the_absolute_index():
    upper = Directions(0, 0, 64)[32:]
    assert (upper.first, upper.num) == (32, 32)
    assert upper[1:3].first == 33
    for bad in (slice(3, 3), slice(0, 4, 2)):
        with pytest.raises(ValueError, match="runs of at least one"):
            upper[bad]


def test_a_tensor_is_seen_as_rows_by_the_rest():
    assert matrix_shape(()) == (1, 1)
    assert matrix_shape((7,)) == (1, 7)
    assert matrix_shape((6, 3, 3, 3)) == (6, 27)


def test_what_the_field_can_not_address_is_refused_by_name():
    with pytest.raises(ValueError, match=r"parameter 3 with shape \(262144, 65537\) needs 4295032832 blocks"):
        Directions(0, 0, 1, "gaussian").check_shape("parameter 3", (2**18, 2**16 + 1))
    Directions(0, 0, 1, "gaussian").check_shape("it fits", (2**18, 2**16))
    Directions(0, 0, 1).check_shape("signs pack 32 columns into a block", (2**18, 2**21))
    with pytest.raises(ValueError, match=r"rank 4 exceeds min\(rows, cols\) = 3"):
        Directions(0, 0, 1, rank=4).check_shape("it", (3, 9))
    Directions(0, 0, 1, rank=4).check_shape("vectors stay full", (3,))


def test_blocks_never_collide_between_parts():
    assert num_blocks(5, 33, "rademacher") == 4
    assert num_blocks(5, 33, "gaussian") == 66
    words = {tensor_word(i, part) for i in (0, 1, 2**30 - 1) for part in (PART_WHOLE, PART_LEFT, PART_RIGHT)}
    assert len(words) == 9
    assert max(words) < 2**32
    with pytest.raises(ValueError, match="tensor ids lie in"):
        tensor_word(2**30)
