"""Signs on layers' outputs, packed: a word holds those of up to 32 successive nodes of a sample, from any node on.

The sign of direction k at node q of sample n is the field's in row n and column q of the application's matrix,
drawn with k for the direction; with ``hadamard`` drawn once for all, times (-1)^popcount(row(k) & (first + q)). The
exponent is one parity a block of 32 columns and a pattern of the row's lowest five bits within it, so that a word
costs a direction a few instructions, and one call of the generator serves all directions.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.directions import PART_NODES, Directions, tensor_word
from zo_triton.distributions import check_drawn
from zo_triton.kernels.field import counter_arguments, signed
from zo_triton.kernels.numeric import complement
from zo_triton.kernels.orthogonal import row_of, shared_philox

NODE_DRAWN = ("hadamard", "rademacher")
"""The distributions of nodes that this engine has routines for."""

NODE_UNSPECIALISED = ("key0", "key1", "step", "first", "node_word", "column")
"""Kernel arguments that change from step to step or layer to layer: never a reason to compile again."""


def node_arguments(directions: Directions, application: int, first: int) -> dict[str, object]:
    """An application's signs as kernel arguments.

    Args:
        directions: Names the K directions, ``hadamard`` or ``rademacher``.
        application: Number of the layer's application in the closure.
        first: Column index of its first node.

    Raises:
        ValueError: Nodes are not perturbed by this distribution.
    """
    word, column = place_of(application, first)
    return {**step_of_nodes(directions), "node_word": word, "column": column}


def place_of(application: int, first: int) -> tuple[int, int]:
    """An application's counter word and first column index, as kernel arguments.

    A row is below 2³¹: higher bits of a column index meet none of its own.
    """
    return signed(tensor_word(application, PART_NODES)), signed(first & 0xFFFFFFFF)


def step_of_nodes(directions: Directions) -> dict[str, object]:
    """What of :func:`node_arguments` is the same for all applications.

    Raises:
        ValueError: Nodes are not perturbed by this distribution.
    """
    check_drawn(directions.distribution, NODE_DRAWN, "triton")
    return {**counter_arguments(directions), "ROUNDS": directions.rounds}


@triton.jit
def _bits_from(here, there, start):
    """32 bits from bit ``start`` of ``here`` on, which ``there`` follows."""
    return (here >> start) | ((there << 1) << (31 - start))


@triton.jit
def _odd(x):
    """All 32 bits set where x has an odd number of them, else none."""
    x ^= x >> 16
    x ^= x >> 8
    x ^= x >> 4
    x ^= x >> 2
    x ^= x >> 1
    return tl.where((x & 1) == 0, 0, 0xFFFFFFFF).to(tl.uint32)


@triton.jit
def _if_set(x, BIT: tl.constexpr, WORD: tl.constexpr):
    return tl.where((x & BIT) == 0, 0, WORD).to(tl.uint32)


@triton.jit
def entry_words(row, column):
    """Bit b set where the Hadamard matrix has -1 in this row and column + b, b < 32; both uint32.

    Nodes take the matrix's columns as they come, unlike weights (:func:`zo_triton.hadamard.folded`).
    """
    pattern = _if_set(row, 1, 0xAAAAAAAA) ^ _if_set(row, 2, 0xCCCCCCCC) ^ _if_set(row, 4, 0xF0F0F0F0)
    pattern ^= _if_set(row, 8, 0xFF00FF00) ^ _if_set(row, 16, 0xFFFF0000)
    start = column & 31
    block = column - start
    following = tl.add(block, 32, sanitize_overflow=False)
    return _bits_from(pattern ^ _odd(row & block), pattern ^ _odd(row & following), start)


@triton.jit
def _drawn_words(sample, index, width, word, counter, ROUNDS: tl.constexpr):
    """Word ``index`` of a sample's drawn signs: one call gives four samples', of which it keeps one."""
    block = tl.add(tl.mul(sample // 4, width, sanitize_overflow=False), index, sanitize_overflow=False)
    word0, word1, word2, word3 = shared_philox(block, word, counter, ROUNDS)
    odd, late = sample % 2 == 1, sample % 4 >= 2
    return tl.where(late, tl.where(odd, word3, word2), tl.where(odd, word1, word0))


@triton.jit
def drawn_signs(sample, node, nodes, word, counter, ROUNDS: tl.constexpr, ALIGNED: tl.constexpr):
    """The field's signs of node, node + 1, …, 32 of them; orthogonal directions share them.

    sample, node and the counter's direction broadcast; nodes: Q, of a sample; word: the application's. ALIGNED:
    those that are wanted lie in one word of the field; further bits mean nothing.
    """
    width = tl.cast((nodes + 31) // 32, tl.uint32)
    here = _drawn_words(sample, node // 32, width, word, counter, ROUNDS)
    if ALIGNED:
        return here >> (node % 32)
    else:
        there = _drawn_words(sample, node // 32 + 1, width, word, counter, ROUNDS)
        return _bits_from(here, there, node % 32)


@triton.jit
def turned_by_entries(signs, node, column, counter, ROUNDS: tl.constexpr):
    """Packed drawn signs of node, node + 1, … → those of the counter's direction; ``column``: the first node's."""
    if counter[0].dtype.primitive_bitwidth == 64:
        signs ^= entry_words(row_of(counter, ROUNDS), tl.add(node, column, sanitize_overflow=False))
    return signs


@triton.jit
def spread_flips(signs, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Packed signs [ROWS, COLS/32] → the sign bits [ROWS, COLS] of numbers that they multiply, uint32."""
    lanes = tl.arange(0, 32).to(tl.uint32)
    return tl.reshape((complement(signs)[:, :, None] >> lanes[None, None, :]) << 31, (ROWS, COLS))


@triton.jit
def flipped(value, flips):
    """float32 numbers whose sign bits are turned over; both broadcast."""
    return (value.to(tl.uint32, bitcast=True) ^ flips).to(tl.float32, bitcast=True)


@triton.jit
def noise_tile(
        epsilon, sample, node, nodes, word, column, counter,
        ROUNDS: tl.constexpr, WHOLE_WORDS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """sε·ξ in float32, [ROWS, COLS]: row i has the nodes node[i], node[i] + 1, … of its sample.

    epsilon [ROWS] float32; sample and node [ROWS] uint32, the counter's direction [ROWS]; nodes: Q; word and
    column: the application's. WHOLE_WORDS: the nodes begin at words of the field.
    """
    direction, step, key0, key1 = counter
    own = (direction[:, None], step, key0, key1)
    start = node[:, None] + 32 * tl.arange(0, COLS // 32).to(tl.uint32)[None, :]
    signs = drawn_signs(sample[:, None], start, nodes, word, own, ROUNDS, WHOLE_WORDS)
    signs = turned_by_entries(signs, start, column, own, ROUNDS)
    return flipped(epsilon[:, None], spread_flips(signs, ROWS, COLS))
