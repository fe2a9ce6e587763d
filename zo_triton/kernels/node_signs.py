"""Signs on layers' outputs, packed: a word holds those of up to 32 successive nodes of a sample, from any node on.

The sign of direction k at node q of sample n is the field's in row n and column q of the application's matrix, drawn
with k for the direction; with ``hadamard`` drawn once for all directions, times (-1)^popcount(row(k) & (first + q)).
The exponent is one parity a block of 32 columns and a pattern of the row's lowest five bits within it, so that a word
costs a direction a few instructions, and one call of the generator serves all directions.
"""

from __future__ import annotations

import triton
import triton.language as tl

from zo_triton.directions import PART_NODES, Directions, tensor_word
from zo_triton.distributions import check_drawn
from zo_triton.hadamard import ROWS_WORD, SHARED_DIRECTION
from zo_triton.kernels.field import as_word, signed, step_arguments
from zo_triton.kernels.philox import philox

NODE_DRAWN = ("hadamard", "rademacher")
"""The distributions of nodes that this engine has routines for."""

NODE_UNSPECIALISED = ("key0", "key1", "step", "first", "node_word", "column", "order_mask", "order_shift")
"""Kernel arguments that change from step to step or layer to layer: never a reason to compile again."""

_ROWS_WORD = tl.constexpr(ROWS_WORD)
_SHARED = tl.constexpr(SHARED_DIRECTION)


def node_arguments(directions: Directions, application: int, first: int) -> dict[str, object]:
    """An application's signs as kernel arguments.

    Args:
        directions: Names the K directions, ``hadamard`` or ``rademacher``.
        application: Number of the layer's application in the closure.
        first: Column index of its first node.

    Raises:
        ValueError: Nodes are not perturbed by this distribution.
    """
    return {
        **step_of_nodes(directions),
        "node_word": signed(tensor_word(application, PART_NODES)),
        # A row is below 2**31: higher bits of a column index meet none of its own.
        "column": signed(first & 0xFFFFFFFF),
    }


def step_of_nodes(directions: Directions) -> dict[str, object]:
    """What of :func:`node_arguments` is the same for all applications."""
    check_drawn(directions.distribution, NODE_DRAWN, "triton")
    order = directions.order or 1
    return {
        **step_arguments(directions),
        "order_mask": order - 1,
        "order_shift": max(1, order.bit_length() // 2),
        "ORTHOGONAL": directions.order is not None,
        "ROUNDS": directions.rounds,
    }


@triton.jit
def node_counter(node_word, step, key0, key1):
    """(tensor word, step, key0, key1) of an application, as words; a step may lie in memory."""
    if step.dtype.is_ptr():
        step = tl.load(step)
    return as_word(node_word), as_word(step), as_word(key0), as_word(key1)


@triton.jit
def order_of(column, order_mask, order_shift):
    """(first column, order less one, shift of the rows' permutation), as words."""
    return as_word(column), as_word(order_mask), as_word(order_shift)


@triton.jit
def matrix_rows(direction, counter, order, ROUNDS: tl.constexpr):
    """Row of the Hadamard matrix that each direction takes (:func:`zo_triton.hadamard.rows`); uint32, any shape."""
    _, step, key0, key1 = counter
    _, mask, shift = order
    zero = tl.full((), 0, tl.uint32)
    all_tensors, all_directions = tl.full((), _ROWS_WORD, tl.uint32), tl.full((), _SHARED, tl.uint32)
    word0, word1, word2, word3 = philox(zero, all_tensors, all_directions, step, key0, key1, ROUNDS)
    x = direction ^ (word0 & mask)
    x = tl.mul(x, word1 | 1, sanitize_overflow=False) & mask
    x ^= x >> shift
    x = tl.mul(x, word2 | 1, sanitize_overflow=False) & mask
    x ^= x >> shift
    return x ^ (word3 & mask)


@triton.jit
def _parity(x):
    """All 32 bits set where x has an odd number of them, else none."""
    x ^= x >> 16
    x ^= x >> 8
    x ^= x >> 4
    x ^= x >> 2
    x ^= x >> 1
    return ((x << 31).to(tl.int32, bitcast=True) >> 31).to(tl.uint32, bitcast=True)


@triton.jit
def _bits_from(here, there, start):
    """32 bits from bit ``start`` of ``here`` on, which ``there`` follows."""
    return (here >> start) | ((there << 1) << (31 - start))


@triton.jit
def _if_set(x, BIT: tl.constexpr, WORD: tl.constexpr):
    return tl.where((x & BIT) == 0, 0, WORD).to(tl.uint32)


@triton.jit
def entry_words(row, column):
    """Bit b set where the Hadamard matrix has -1 in this row and column + b, b < 32; both uint32."""
    pattern = _if_set(row, 1, 0xAAAAAAAA) ^ _if_set(row, 2, 0xCCCCCCCC) ^ _if_set(row, 4, 0xF0F0F0F0)
    pattern ^= _if_set(row, 8, 0xFF00FF00) ^ _if_set(row, 16, 0xFFFF0000)
    start = column & 31
    block = column - start
    following = tl.add(block, 32, sanitize_overflow=False)
    return _bits_from(pattern ^ _parity(row & block), pattern ^ _parity(row & following), start)


@triton.jit
def _drawn_words(sample, word, width, direction, counter, ROUNDS: tl.constexpr):
    """Word ``word`` of a sample's drawn signs: one call gives four samples', of which it keeps one."""
    node_word, step, key0, key1 = counter
    block = tl.add(tl.mul(sample // 4, width, sanitize_overflow=False), word, sanitize_overflow=False)
    word0, word1, word2, word3 = philox(block, node_word, direction, step, key0, key1, ROUNDS)
    odd, late = sample % 2 == 1, sample % 4 >= 2
    return tl.where(late, tl.where(odd, word3, word2), tl.where(odd, word1, word0))


@triton.jit
def drawn_signs(
    sample, node, nodes, direction, counter, ORTHOGONAL: tl.constexpr, ROUNDS: tl.constexpr, ALIGNED: tl.constexpr
):
    """The field's signs of node, node + 1, …, 32 of them; those that all directions share where ORTHOGONAL.

    sample, node and direction are uint32 that broadcast; nodes: Q, of a sample. ALIGNED: those that are wanted lie in
    one word of the field; further bits mean nothing.
    """
    width = tl.cast((nodes + 31) // 32, tl.uint32)
    if ORTHOGONAL:
        direction = tl.full((), _SHARED, tl.uint32)
    here = _drawn_words(sample, node // 32, width, direction, counter, ROUNDS)
    if ALIGNED:
        return here >> (node % 32)
    else:
        there = _drawn_words(sample, node // 32 + 1, width, direction, counter, ROUNDS)
        return _bits_from(here, there, node % 32)


@triton.jit
def node_signs(
    sample, node, nodes, direction, counter, order,
    ORTHOGONAL: tl.constexpr, ROUNDS: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """Signs of node, node + 1, … for a direction, packed as in :func:`drawn_signs`; bit 1 is +1."""
    signs = drawn_signs(sample, node, nodes, direction, counter, ORTHOGONAL, ROUNDS, ALIGNED)
    if ORTHOGONAL:
        row = matrix_rows(direction, counter, order, ROUNDS)
        signs ^= entry_words(row, tl.add(node, order[0], sanitize_overflow=False))
    return signs


@triton.jit
def spread_flips(signs, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Packed signs [ROWS, COLS/32] → the sign bits [ROWS, COLS] of numbers that they multiply, uint32."""
    lanes = tl.arange(0, 32).to(tl.uint32)
    return tl.reshape((~signs[:, :, None] >> lanes[None, None, :]) << 31, (ROWS, COLS))


@triton.jit
def flipped(value, flips):
    """float32 numbers whose sign bits are turned over; both broadcast."""
    return (value.to(tl.uint32, bitcast=True) ^ flips).to(tl.float32, bitcast=True)


@triton.jit
def noise_tile(
    epsilon, sample, node, nodes, direction, counter, order,
    ORTHOGONAL: tl.constexpr, ROUNDS: tl.constexpr, WHOLE_WORDS: tl.constexpr,
    ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """sε·ξ in float32, [ROWS, COLS]: row i has the nodes node[i], node[i] + 1, … of its sample.

    epsilon [ROWS] float32; sample, node and direction [ROWS] uint32; nodes: Q. WHOLE_WORDS: the nodes begin at words
    of the field.
    """
    words = node[:, None] + 32 * tl.arange(0, COLS // 32).to(tl.uint32)[None, :]
    signs = node_signs(
        sample[:, None], words, nodes, direction[:, None], counter, order, ORTHOGONAL, ROUNDS, WHOLE_WORDS
    )
    return flipped(epsilon[:, None], spread_flips(signs, ROWS, COLS))
