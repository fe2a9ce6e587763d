"""The field's 32-bit words as streams, read along each axis of its address.

A generator that is good along one stream may still repeat itself from one stream to the next: neighbouring seeds,
steps or directions are where bad ones correlate. So most readings interleave 64 neighbours: the word that follows
another is the same element's in the next direction, tensor, step or seed, and every test of one stream becomes a
test between streams.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

import zo_triton as zo
from benchmarks.catalogue import READINGS as READINGS
from zo_triton import ops
from zo_triton.directions import seed_after

NEIGHBOURS = 64
"""Streams that a reading interleaves."""

CHUNK = 1 << 20
"""Words that a reading gives at once."""

_BLOCKS = CHUNK // NEIGHBOURS // 4
_MATRIX = 4, 32 * _BLOCKS

Source = Callable[[str, int, int], np.ndarray]
"""From (reading, seed, number of the chunk) to its words, uint32 [CHUNK]."""


def read_field(reading: str, seed: int, number: int) -> np.ndarray:
    """One chunk of a reading, as the CPU engine draws it.

    Args:
        reading: In :data:`READINGS`.
        seed: Of the field.
        number: Which chunk; all chunks of all readings are different numbers of the field.

    Returns:
        uint32 [CHUNK].

    Raises:
        ValueError: There is no such reading.
    """
    READINGS[reading]  # an unknown one is refused
    # Every reading has a range of steps of its own.
    step = (list(READINGS).index(reading) << 28) + number
    many = zo.Directions(seed, step, NEIGHBOURS)
    one = replace(many, num=1)
    if reading == "columns":
        return _draw(many).ravel()
    if reading == "rows":
        return np.ascontiguousarray(_draw(many).transpose(0, 2, 1)).ravel()
    if reading == "directions":
        return _interleave(_draw(many))
    if reading == "7 rounds":
        return _interleave(_draw(replace(many, rounds=7)))
    neighbours = range(NEIGHBOURS)
    if reading == "tensors":
        return _interleave(np.concatenate([_draw(one, tensor) for tensor in neighbours]))
    if reading == "steps":
        first = step + number * (NEIGHBOURS - 1)
        several = [replace(one, step=first + other) for other in neighbours]
    elif reading == "seeds":
        several = [replace(one, seed=seed_after(seed, other)) for other in neighbours]
    else:
        several = [replace(one, seed=seed_after(seed, other << 32)) for other in neighbours]
    return _interleave(np.concatenate([_draw(directions) for directions in several]))


def stream(reading: str, seed: int) -> Iterator[bytes]:
    """The reading's words without end, little-endian: what an outside battery takes from its standard input.

    Args:
        reading: In :data:`READINGS`.
        seed: Of the field.
    """
    number = 0
    while True:
        yield read_field(reading, seed, number).astype("<u4", copy=False).tobytes()
        number += 1


def _draw(directions: zo.Directions, tensor_id: int = 0) -> np.ndarray:
    """uint32 [K, 4, blocks]."""
    with zo.use_engine("cpu"):
        return ops.stage(directions, tensor_id, _MATRIX).numpy().view(np.uint32)


def _interleave(drawn: np.ndarray) -> np.ndarray:
    """The neighbours' words in turn, from [neighbours, 4, blocks]."""
    return np.ascontiguousarray(drawn.reshape(NEIGHBOURS, -1).T).ravel()
