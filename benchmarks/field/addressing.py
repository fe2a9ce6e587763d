"""No two addresses of the field share a block: exhaustively in a small box, and at the edges of every counter.

For one seed Philox is a bijection from counters to 128-bit blocks, so different addresses must give different
blocks, and equal blocks mean that an address lost a part on its way into the counter. For different seeds, chance
makes two of n blocks equal once in 2¹²⁸/(n²/2) times: never.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import product

import numpy as np
import torch

import zo_triton as zo
from zo_triton.cpu.arrays import draw
from zo_triton.directions import MAX_TENSORS, PART_LEFT, PART_RIGHT, PART_WHOLE

Address = tuple[int, int, int, int, int]
"""Seed, step, direction, tensor and part."""

Draw = Callable[[Address, np.ndarray], np.ndarray]
"""From an address and block numbers, int64 [n], to those blocks, uint32 [n, 4]."""

PARTS = PART_WHOLE, PART_LEFT, PART_RIGHT
_SEEDS = 0, 1, 2**31, 2**32 - 1, 2**32, 2**63, 2**64 - 1
_WORDS = 0, 1, 2, 2**16, 2**31 - 1, 2**31, 2**32 - 2, 2**32 - 1
_TENSORS = 0, 1, 2**16, MAX_TENSORS - 1


def draw_blocks(address: Address, blocks: np.ndarray) -> np.ndarray:
    """Blocks as the CPU engine draws them: the signs of a matrix of 32 columns, packed again.

    Args:
        address: Seed, step, direction, tensor and part.
        blocks: Their numbers, int64 [n].

    Returns:
        uint32 [n, 4].
    """
    seed, step, direction, tensor, part = address
    rows = torch.from_numpy((4 * blocks[:, None] + np.arange(4)).ravel())
    directions = zo.Directions(seed, step, 1, first=direction)
    signs = draw(directions, direction, tensor, part, (rows.numel(), 32), torch.float32, rows)
    return np.packbits(signs.numpy() > 0, axis=1, bitorder="little").view("<u4").reshape(-1, 4)


def box(tensors: int, directions: int, steps: int) -> Iterator[Address]:
    """Every address of a box at the origin, for the smallest and the largest seed."""
    yield from product((0, 2**64 - 1), range(steps), range(directions), range(tensors), PARTS)


def edges() -> Iterator[Address]:
    """Every combination of the values at which a counter's word could overflow, be truncated or change its sign."""
    yield from product(_SEEDS, _WORDS, _WORDS, _TENSORS, PARTS)


def anywhere(seed: int, count: int) -> Iterator[Address]:
    """Random addresses, no one twice."""
    generator = np.random.default_rng(seed)
    limits = 2**64, 2**32, 2**32, MAX_TENSORS, 3
    found = {
        tuple(int(generator.integers(limit, dtype=np.uint64, endpoint=False)) if limit < 2**64
              else int.from_bytes(generator.bytes(8), "little") for limit in limits)
        for _ in range(count)
    }  # fmt: skip
    yield from sorted(found)  # type: ignore[misc]


def edge_blocks() -> np.ndarray:
    """Block numbers at the edges, int64 [8]."""
    return np.array(_WORDS, np.int64)


def count_collisions(draw_these: Draw, addresses: Iterator[Address], blocks: np.ndarray) -> tuple[int, int]:
    """How many blocks were drawn, and how many of them equal an earlier one."""
    drawn = np.concatenate([draw_these(address, blocks) for address in addresses])
    halves = np.ascontiguousarray(drawn).view(np.uint64)
    ordered = halves[np.lexsort(halves.T)]
    return len(drawn), int((ordered[1:] == ordered[:-1]).all(axis=1).sum())
