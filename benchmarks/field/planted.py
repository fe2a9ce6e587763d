"""Generators with a known fault: the batteries must flag them, or what they say of the field means nothing."""

from __future__ import annotations

import numpy as np

from benchmarks.field.words import CHUNK, NEIGHBOURS, Source

_MASK = np.uint64(0xFFFFFFFF)


def low_bits_of_an_lcg(reading: str, seed: int, number: int) -> np.ndarray:
    """The lower halves of a linear congruential generator modulo 2³², two to a word: bit b has period 2^(b+1)."""
    start = (seed + number * CHUNK) % 2**32
    halves = _lcg(start, 2 * CHUNK) & np.uint32(0xFFFF)
    return halves[::2] << np.uint32(16) | halves[1::2]


def unmixed_counter(reading: str, seed: int, number: int) -> np.ndarray:
    """The counter itself, by an odd multiplier: every value once, in an order that all can foresee."""
    counter = np.arange(number * CHUNK, (number + 1) * CHUNK, dtype=np.uint64) + np.uint64(seed)
    return (counter * np.uint64(0x9E3779B9) & _MASK).astype(np.uint32)


def equal_neighbours(reading: str, seed: int, number: int) -> np.ndarray:
    """64 excellent streams that are all the same: a stream's number that never reached the key."""
    words = np.random.default_rng((seed, number)).integers(2**32, size=CHUNK // NEIGHBOURS, dtype=np.uint32)
    return np.repeat(words, NEIGHBOURS)


def overlapping_neighbours(reading: str, seed: int, number: int) -> np.ndarray:
    """64 excellent streams of which each is the next one's, a word later: keys that are added to counters."""
    length = CHUNK // NEIGHBOURS
    words = np.random.default_rng((seed, number)).integers(2**32, size=length + NEIGHBOURS, dtype=np.uint32)
    return np.lib.stride_tricks.sliding_window_view(words, NEIGHBOURS)[:length].ravel()


def one_biased_bit(reading: str, seed: int, number: int) -> np.ndarray:
    """Excellent words whose bit 17 is 1 in 51 of 100."""
    generator = np.random.default_rng((seed, number))
    words = generator.integers(2**32, size=CHUNK, dtype=np.uint32)
    return words | (generator.random(CHUNK) < 0.02).astype(np.uint32) << np.uint32(17)


def _lcg(start: int, count: int) -> np.ndarray:
    """``count`` states of x ← 1664525 x + 1013904223 modulo 2³², by doubling the part that is known."""
    multiplier, increment = np.uint64(1664525), np.uint64(1013904223)
    states = np.array([start], np.uint64)
    while states.size < count:
        states = np.append(states, states * multiplier + increment & _MASK)
        multiplier, increment = (
            multiplier * multiplier & _MASK,
            increment * (multiplier + np.uint64(1)) & _MASK,
        )
    return states[:count].astype(np.uint32)


PLANTED: dict[str, Source] = {
    "the low bits of an LCG": low_bits_of_an_lcg,
    "a counter without mixing": unmixed_counter,
    "neighbouring streams that are equal": equal_neighbours,
    "neighbouring streams that overlap": overlapping_neighbours,
    "one bit with a bias of 1 %": one_biased_bit,
}
