"""Signs on a layer's outputs and the activation's exact difference, in place, for products that torch takes.

A program takes one tile of samples and nodes through several evaluations, so that what they share, the drawn signs
and the base pre-activation, is made and read once.
"""

from __future__ import annotations

from math import prod

import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.activation import activation_change
from zo_triton.kernels.arguments import check_arguments
from zo_triton.kernels.field import as_word, counter_of
from zo_triton.kernels.launch import TRITON_DTYPES, blocks, launch
from zo_triton.kernels.node_signs import (
    NODE_UNSPECIALISED,
    drawn_signs,
    flipped,
    node_arguments,
    spread_flips,
    turned_by_entries,
)
from zo_triton.kernels.numeric import bound, narrow

CONFIG = {"ROWS": 16, "COLS": 64, "num_warps": 4}
EVALUATIONS = 8
"""That a program goes through."""


@triton.jit(do_not_specialize=NODE_UNSPECIALISED)
def _node_epilogue_kernel(
        out_ptr, base_output_ptr, signed_eps_ptr, evaluations, turns, samples, nodes, row_tiles, col_tiles,
        key0, key1, step, first, node_word, column,
        SIDES: tl.constexpr, ACTIVATION: tl.constexpr, ROUNDS: tl.constexpr,
        DTYPE: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """out [evaluations, samples, nodes], base_output [samples, nodes], signed_eps [evaluations].

    Program = (part of the evaluations, ``turns`` of them, ·row_tiles + row tile)·col_tiles + column tile.
    """
    pid = tl.program_id(0)
    col_tile = pid % col_tiles
    row_tile = pid // col_tiles % row_tiles
    start = pid // col_tiles // row_tiles * turns
    row, col = row_tile * ROWS + tl.arange(0, ROWS), col_tile * COLS + tl.arange(0, COLS)
    sample = row.to(tl.uint32)[:, None]
    node = (col_tile * COLS + 32 * tl.arange(0, COLS // 32)).to(tl.uint32)[None, :]
    word = as_word(node_word)
    ORTHOGONAL: tl.constexpr = first.dtype.primitive_bitwidth == 64
    mask = (row < samples)[:, None] & (col < nodes)[None, :]
    offsets = row.to(tl.int64)[:, None] * nodes + col[None, :]
    if ACTIVATION != "none":
        before = tl.load(base_output_ptr + offsets, mask=mask, other=0.0).to(tl.float32)
    if ORTHOGONAL:
        shared = drawn_signs(sample, node, nodes, word, counter_of(first, step, key0, key1), ROUNDS, True)
    for p in range(bound(start), bound(tl.minimum(start + turns, evaluations))):
        counter = counter_of(first + p // SIDES, step, key0, key1)
        if ORTHOGONAL:
            signs = turned_by_entries(shared, node, as_word(column), counter, ROUNDS)
        else:
            signs = drawn_signs(sample, node, nodes, word, counter, ROUNDS, True)
        noise = flipped(tl.load(signed_eps_ptr + p), spread_flips(signs, ROWS, COLS))
        place = out_ptr + tl.cast(p, tl.int64) * samples * nodes + offsets
        change = tl.load(place, mask=mask, other=0.0).to(tl.float32) + noise
        if ACTIVATION != "none":
            change = activation_change(before, change, ACTIVATION)
        tl.store(place, narrow(change, DTYPE), mask=mask)


def node_epilogue(
    out: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    application: int,
    first: int,
    signed_eps: Tensor,
    activation: str,
) -> None:
    """``out[p] = f(z + out[p] + signed_eps[p]·ξ_k) - f(z)`` in place.

    Args:
        out: [P, N, *], float32 or bfloat16; with the rest as in :func:`zo_triton.reference.node_epilogue`.
        base_output: [N, *] or None.
        directions: Names the K directions.
        application: Number of the layer's application in the closure.
        first: Column index of its first node.
        signed_eps: [P].
        activation: Its name.

    Raises:
        ValueError: The activation is unknown or lacks its ``base_output``; P is not a multiple of K up to 2K; or
            nodes are not perturbed by this distribution.
    """
    sides = check_arguments(out, base_output, directions, signed_eps, activation)
    result, before = out.contiguous(), out if base_output is None else base_output.contiguous()
    samples, nodes = out.shape[1], prod(out.shape[2:])
    row_tiles, col_tiles = blocks(samples, CONFIG["ROWS"]), blocks(nodes, CONFIG["COLS"])
    launch(
        _node_epilogue_kernel,
        blocks(len(out), EVALUATIONS) * row_tiles * col_tiles,
        out,
        out_ptr=result,
        base_output_ptr=before,
        signed_eps_ptr=signed_eps.contiguous(),
        evaluations=len(out),
        turns=EVALUATIONS,
        samples=samples,
        nodes=nodes,
        row_tiles=row_tiles,
        col_tiles=col_tiles,
        **node_arguments(directions, application, first),
        SIDES=sides,
        ACTIVATION=activation,
        DTYPE=TRITON_DTYPES[out.dtype],
        **CONFIG,
    )
    if result is not out:
        out.copy_(result)
