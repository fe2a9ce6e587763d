"""A reading holds the field's words in the order it says."""

from itertools import islice

import numpy as np
import pytest

import zo_triton as zo
from benchmarks.field.words import CHUNK, NEIGHBOURS, READINGS, read_field, stream
from zo_triton import ops

SEED, NUMBER = 2**63 + 5, 3
COLUMNS = 32 * (CHUNK // NEIGHBOURS // 4)


def staged(directions, tensor_id=0):
    with zo.use_engine("cpu"):
        return ops.stage(directions, tensor_id, (4, COLUMNS)).numpy().view(np.uint32)


def step_of(reading):
    return (list(READINGS).index(reading) << 28) + NUMBER


@pytest.mark.parametrize("reading", READINGS)
def test_the_first_neighbour_is_the_address_itself(reading):
    words = read_field(reading, SEED, NUMBER)
    assert words.shape == (CHUNK,)
    step = step_of(reading) + (63 * NUMBER if reading == "steps" else 0)
    own = staged(zo.Directions(SEED, step, 1, rounds=7 if reading == "7 rounds" else 10))[0]
    if reading == "columns":
        assert np.array_equal(words[: own.size], own.ravel())
    elif reading == "rows":
        assert np.array_equal(words[: own.size], own.T.ravel())
    else:
        assert np.array_equal(words[::NEIGHBOURS], own.ravel())


OTHERS = {
    "directions": lambda step: (zo.Directions(SEED, step, 1, first=5), 0),
    "7 rounds": lambda step: (zo.Directions(SEED, step, 1, first=5, rounds=7), 0),
    "tensors": lambda step: (zo.Directions(SEED, step, 1), 5),
    "steps": lambda step: (zo.Directions(SEED, step + 63 * NUMBER + 5, 1), 0),
    "seeds": lambda step: (zo.Directions(SEED + 5, step, 1), 0),
    "seed halves": lambda step: (zo.Directions(SEED + 5 * 2**32, step, 1), 0),
}


@pytest.mark.parametrize("reading", OTHERS)
def test_the_sixth_neighbour_is_five_further_on_its_axis(reading):
    words = read_field(reading, SEED, NUMBER)
    assert np.array_equal(words[5::NEIGHBOURS], staged(*OTHERS[reading](step_of(reading)))[0].ravel())


def test_a_stream_is_the_chunks_one_after_the_other():
    first, second = islice(stream("steps", 1), 2)
    assert first == read_field("steps", 1, 0).astype("<u4").tobytes()
    assert second == read_field("steps", 1, 1).astype("<u4").tobytes()
