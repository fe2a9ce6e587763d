"""Signs on a layer's outputs, written out: for references and small layers."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.field import as_word, counter_of
from zo_triton.kernels.launch import TRITON_DTYPES, blocks, launch
from zo_triton.kernels.node_signs import NODE_UNSPECIALISED, node_arguments, noise_tile
from zo_triton.kernels.numeric import narrow

CONFIG = {"ROWS": 32, "COLS": 128, "num_warps": 4}


@triton.jit(do_not_specialize=NODE_UNSPECIALISED)
def _node_sample_kernel(
        out_ptr, samples, nodes, row_tiles, col_tiles,
        key0, key1, step, first, node_word, column,
        ROUNDS: tl.constexpr, OUT_DTYPE: tl.constexpr,
        ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """Writes out [K, samples, nodes]; program = (direction·row_tiles + row tile)·col_tiles + column tile."""
    pid = tl.program_id(0)
    col_tile = pid % col_tiles
    row_tile = pid // col_tiles % row_tiles
    row = row_tile * ROWS + tl.arange(0, ROWS)
    same = tl.zeros((ROWS,), tl.uint32)
    k = tl.zeros((ROWS,), tl.int32) + pid // col_tiles // row_tiles
    signs = noise_tile(
        tl.full((ROWS,), 1.0, tl.float32), row.to(tl.uint32), same + (col_tile * COLS).to(tl.uint32), nodes,
        as_word(node_word), as_word(column), counter_of(first + k, step, key0, key1),
        ROUNDS, True, ROWS, COLS)  # fmt: skip
    col = col_tile * COLS + tl.arange(0, COLS)
    offsets = (k.to(tl.int64) * samples + row)[:, None] * nodes + col[None, :]
    mask = (row < samples)[:, None] & (col < nodes)[None, :]
    tl.store(out_ptr + offsets, narrow(signs, OUT_DTYPE), mask=mask)


def node_sample(out: Tensor, directions: Directions, application: int, first: int) -> None:
    """``out[k] = ξ_k``.

    Args:
        out: [K, N, Q], any floating dtype.
        directions: Names the K directions, ``hadamard`` or ``rademacher``.
        application: Number of the layer's application in the closure.
        first: Column index of its first node.

    Raises:
        ValueError: Nodes are not perturbed by this distribution.
    """
    drawn = out if out.is_contiguous() else torch.empty_like(out, memory_format=torch.contiguous_format)
    directions_num, samples, nodes = out.shape
    row_tiles, col_tiles = blocks(samples, CONFIG["ROWS"]), blocks(nodes, CONFIG["COLS"])
    launch(
        _node_sample_kernel,
        directions_num * row_tiles * col_tiles,
        out,
        out_ptr=drawn,
        samples=samples,
        nodes=nodes,
        row_tiles=row_tiles,
        col_tiles=col_tiles,
        **node_arguments(directions, application, first),
        OUT_DTYPE=TRITON_DTYPES[out.dtype],
        **CONFIG,
    )
    if drawn is not out:
        out.copy_(drawn)
