"""Each node's share of what was measured, Σ_k coefficients[k, s]·ξ_k, without storing any ξ.

With ``hadamard`` the sums over k are the coefficients times entries of the matrix, ±1, which tensor cores take: a
coefficient goes in as three bfloat16 parts, so that products are exact and sums float32. They repeat along a
sample's nodes with the matrix's order, so that a program makes a tile of them once and gives it the drawn signs of
one stretch of nodes after another. With ``rademacher`` every term has signs of its own.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.arguments import strides
from zo_triton.kernels.field import as_word, counter_of, expand_signs
from zo_triton.kernels.launch import blocks, chip_of, launch, power_of_two
from zo_triton.kernels.node_signs import (
    NODE_UNSPECIALISED,
    drawn_signs,
    entry_words,
    flipped,
    node_arguments,
    spread_flips,
)
from zo_triton.kernels.numeric import bound, complement, dot, narrow
from zo_triton.kernels.orthogonal import row_of

CONFIG = {"BLOCK_S": 64, "BLOCK_C": 128, "BLOCK_K": 32, "num_warps": 4}
"""Samples, nodes and directions of a program's tiles: at most so many; none timed yet."""

SMALLER = {**CONFIG, "BLOCK_S": 32}
"""Of signs that every term has of its own, or that begin inside words and take two each: more spills on sm_90."""

NARROW = {**SMALLER, "BLOCK_C": 64}
"""On AMD's chips."""

REPEATS = 8
"""Stretches of nodes for which a program makes its sums once."""


@triton.jit
def _hadamard_sums(
        coefficients_ptr, samples_at, inside, column, num_directions, first, stride_ck, step, key0, key1,
        ROUNDS: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """[BLOCK_S, BLOCK_C]: Σ_k of a sample's coefficients times row(k)'s entries from ``column`` on."""
    total = tl.zeros((BLOCK_S, BLOCK_C), tl.float32)
    words = column + 32 * tl.arange(0, BLOCK_C // 32).to(tl.uint32)
    for start in range(0, bound(num_directions), BLOCK_K):
        k = start + tl.arange(0, BLOCK_K)
        row = row_of(counter_of(first + k, step, key0, key1), ROUNDS)
        entries = expand_signs(
            complement(entry_words(row[:, None], words[None, :])), BLOCK_K, BLOCK_C, tl.bfloat16
        )
        mask = inside[:, None] & (k < num_directions)[None, :]
        offsets = samples_at[:, None] + k.to(tl.int64)[None, :] * stride_ck
        rest = tl.load(coefficients_ptr + offsets, mask=mask, other=0.0)
        for _ in tl.static_range(3):
            part = narrow(rest, tl.bfloat16)
            total = dot(part, entries, total, "ieee")
            rest -= part.to(tl.float32)
    return total


@triton.jit
def _rademacher_sums(
        coefficients_ptr, samples_at, inside, sample, node, nodes, word, num_directions, first, stride_ck,
        step, key0, key1,
        ROUNDS: tl.constexpr, ALIGNED: tl.constexpr, BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """[BLOCK_S, BLOCK_C]: Σ_k of a sample's coefficients times its signs from ``node`` on."""
    total = tl.zeros((BLOCK_S, BLOCK_C), tl.float32)
    words = node + 32 * tl.arange(0, BLOCK_C // 32).to(tl.uint32)
    for k in range(0, bound(num_directions)):
        at = samples_at + tl.cast(k, tl.int64) * stride_ck
        coefficient = tl.load(coefficients_ptr + at, mask=inside, other=0.0)
        counter = counter_of(first + k, step, key0, key1)
        signs = drawn_signs(sample[:, None], words[None, :], nodes, word, counter, ROUNDS, ALIGNED)
        total += flipped(coefficient[:, None], spread_flips(signs, BLOCK_S, BLOCK_C))
    return total


@triton.jit(do_not_specialize=NODE_UNSPECIALISED)
def _node_gradient_kernel(
        out_ptr, coefficients_ptr, num_directions, samples, tokens, nodes, period, repeats,
        sample_tiles, column_tiles, parts, stride_ck, stride_cs,
        key0, key1, step, first, node_word, column,
        ROUNDS: tl.constexpr, WHOLE_WORDS: tl.constexpr,
        BLOCK_S: tl.constexpr, BLOCK_C: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """Program = ((token·parts + part)·sample_tiles + sample tile)·column_tiles + column tile.

    coefficients [K, samples·tokens], out [samples·tokens, nodes], contiguous; a sample's nodes are its tokens', one
    after the other. A program writes the columns of its tile, those ``period`` further on, and so on, ``repeats``
    times. WHOLE_WORDS: a token's nodes begin at words of the field.
    """
    pid = tl.program_id(0)
    column_tile = pid % column_tiles
    sample_tile = pid // column_tiles % sample_tiles
    part = pid // column_tiles // sample_tiles % parts
    token = pid // column_tiles // sample_tiles // parts
    n = sample_tile * BLOCK_S + tl.arange(0, BLOCK_S)
    inside, sample = n < samples, n.to(tl.uint32)
    s = n.to(tl.int64) * tokens + token
    c0 = part * repeats * period + column_tile * BLOCK_C
    node = (token * nodes + c0).to(tl.uint32)
    word = as_word(node_word)
    ORTHOGONAL: tl.constexpr = first.dtype.primitive_bitwidth == 64
    if ORTHOGONAL:
        total = _hadamard_sums(
            coefficients_ptr, s * stride_cs, inside, tl.add(node, as_word(column), sanitize_overflow=False),
            num_directions, first, stride_ck, step, key0, key1, ROUNDS, BLOCK_S, BLOCK_C, BLOCK_K)  # fmt: skip
    else:
        total = _rademacher_sums(
            coefficients_ptr, s * stride_cs, inside, sample, node, tokens * nodes, word, num_directions, first,
            stride_ck, step, key0, key1, ROUNDS, WHOLE_WORDS, BLOCK_S, BLOCK_C)  # fmt: skip
    words = 32 * tl.arange(0, BLOCK_C // 32).to(tl.uint32)
    for c in range(bound(c0), bound(tl.minimum(c0 + repeats * period, nodes)), bound(period)):
        result = total
        if ORTHOGONAL:
            here = (token * nodes + c).to(tl.uint32) + words
            counter = counter_of(first, step, key0, key1)
            signs = drawn_signs(
                sample[:, None], here[None, :], tokens * nodes, word, counter, ROUNDS, WHOLE_WORDS
            )
            result = flipped(total, spread_flips(signs, BLOCK_S, BLOCK_C))
        place = c + tl.arange(0, BLOCK_C)
        mask = inside[:, None] & (place < nodes)[None, :]
        tl.store(out_ptr + s[:, None] * nodes + place[None, :], result, mask=mask)


def node_gradient(
    out: Tensor, coefficients: Tensor, directions: Directions, application: int, first: int, samples: int
) -> None:
    """``out[s] = Σ_k coefficients[k, s]·ξ_k[s]``.

    Args:
        out: [S, N·Q / S] float32: S = N, or N·T where each of a sample's T tokens has coefficients of its own.
        coefficients: [K, S] float32.
        directions: Names the K directions, ``hadamard`` or ``rademacher``.
        application: Number of the layer's application in the closure.
        first: Column index of its first node.
        samples: N.

    Raises:
        ValueError: Coefficients are not of as many directions and rows as there are, the samples don't divide the
            rows, or nodes are not perturbed by this distribution.
    """
    rows, nodes = out.shape
    if coefficients.shape != (directions.num, rows) or rows % samples:
        raise ValueError(
            f"out with shape {tuple(out.shape)} of {samples} samples needs a multiple of {samples} rows and "
            f"coefficients with shape {(directions.num, rows)}, got {tuple(coefficients.shape)}."
        )
    tokens, noise = rows // samples, node_arguments(directions, application, first)
    result = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    whole_words = tokens == 1 or nodes % 32 == 0
    most = CONFIG if whole_words and directions.order is not None else SMALLER
    most = NARROW if chip_of(out) == "gfx942" else most
    config = {
        **most,
        "BLOCK_S": _fitting(samples, 16, most["BLOCK_S"]),
        "BLOCK_C": _fitting(nodes, 32, most["BLOCK_C"]),
        "BLOCK_K": _fitting(directions.num, 16, most["BLOCK_K"]),
    }
    # Independent signs never repeat, and those of a matrix that is longer than a sample don't either.
    period = max(min(directions.order or nodes, nodes), config["BLOCK_C"])
    column_tiles = blocks(min(nodes, period), config["BLOCK_C"])
    sample_tiles, parts = blocks(samples, config["BLOCK_S"]), blocks(nodes, REPEATS * period)
    launch(
        _node_gradient_kernel,
        tokens * parts * sample_tiles * column_tiles,
        out,
        out_ptr=result,
        coefficients_ptr=coefficients,
        num_directions=directions.num,
        samples=samples,
        tokens=tokens,
        nodes=nodes,
        period=period,
        repeats=min(REPEATS, blocks(nodes, period)),
        sample_tiles=sample_tiles,
        column_tiles=column_tiles,
        parts=parts,
        **strides("c", "ks", coefficients),
        **noise,
        WHOLE_WORDS=whole_words,
        **config,
    )
    if result is not out:
        out.copy_(result)


def _fitting(size: int, least: int, most: int) -> int:
    return min(most, max(least, power_of_two(size)))
