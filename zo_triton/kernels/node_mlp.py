"""A small MLP and its loss with every layer's outputs perturbed, all evaluations in one launch on tensor cores.

The weights are the same for all directions: a program takes a block of rows, one an evaluation and sample, through
all layers, each a product of the whole layer, whose differences never leave the registers; the loss, too, is taken
there. The first layer's outputs move by the noise alone, so that neither its input nor its weight is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.activation import activation_change, check_activation
from zo_triton.kernels.arguments import check_arguments
from zo_triton.kernels.choices import pick, situation, upper
from zo_triton.kernels.exact_products import add_float32_product
from zo_triton.kernels.field import as_word, counter_of
from zo_triton.kernels.launch import blocks, chip_of, compute_dtype, launch, power_of_two
from zo_triton.kernels.mlp import MAX_DEPTH, MAX_WIDTH, check_loss, packed
from zo_triton.kernels.mlp_loss import sample_losses
from zo_triton.kernels.node_signs import NODE_UNSPECIALISED, noise_tile, place_of, step_of_nodes
from zo_triton.kernels.numeric import dot, narrow
from zo_triton.kernels.precision import precision_for

LEAST_WIDTH = 32
"""Of a layer's tile: a word of signs."""

CHUNK = tl.constexpr(32)
"""In-features of a float32 product."""


def node_mlp_fits(widths: Sequence[int]) -> bool:
    """Whether a network of so many outputs a layer goes in one launch."""
    return len(widths) <= MAX_DEPTH and max(widths) <= MAX_WIDTH


def default_config(widest: int, chip: str, precision: str) -> dict[str, int]:
    """Rows of a program and launch options, for a network whose widest output is this; none timed yet.

    Eight warps that take float32 products in parts, one after another, share no rows, so that on Hopper 64 rows
    would be multiplied twice. On AMD's chips an activation of 64 rows spills.
    """
    if chip == "sm_90" and precision != "bf16":
        rows, warps = (128, 8) if widest > 64 else (64, 4)
    else:
        rows, warps = 32 if chip == "gfx942" else 64, 8 if widest > 32 else 4
    return {"BLOCK_N": rows, "num_warps": warps, "num_stages": 1}


@triton.jit
def _noise_of_layer(
        epsilon, sample, counter, WIDTH: tl.constexpr, WORD: tl.constexpr, COLUMN: tl.constexpr,
        ROUNDS: tl.constexpr, ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """sε·ξ of a whole layer, [ROWS, COLS]."""
    word, column = tl.full((), WORD, tl.int32), tl.full((), COLUMN, tl.int32)
    return noise_tile(
        epsilon, sample, tl.zeros((ROWS,), tl.uint32), tl.full((), WIDTH, tl.int32), as_word(word), as_word(column),
        counter, ROUNDS, True, ROWS, COLS)  # fmt: skip


@triton.jit
def _chunk_of(tile, index, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Columns 32·index … 32·index + 31 of a tile in registers, which can't be addressed by a loop's counter."""
    chunks = tl.reshape(tile, (ROWS, COLS // CHUNK, CHUNK))
    own = tl.arange(0, COLS // CHUNK)[None, :, None] == index
    return tl.sum(tl.where(own, chunks, 0.0), axis=1)


@triton.jit
def _add_product(
        total, left, weight_ptr, INNER: tl.constexpr, OUTER: tl.constexpr, DTYPE: tl.constexpr,
        PRECISION: tl.constexpr, ROWS: tl.constexpr, INNER_TILE: tl.constexpr, OUTER_TILE: tl.constexpr,
):  # fmt: skip
    """Adds left·Wᵀ to total [ROWS, OUTER_TILE]; left [ROWS, INNER_TILE] float32, W [OUTER, INNER] in DTYPE.

    In float32 a chunk of the inner features at a time: the parts of whole operands don't fit the registers.
    """
    outer = tl.arange(0, OUTER_TILE)
    if DTYPE.primitive_bitwidth == 16:
        inner = tl.arange(0, INNER_TILE)
        inside = (inner < INNER)[:, None] & (outer < OUTER)[None, :]
        weight = tl.load(weight_ptr + (outer * INNER)[None, :] + inner[:, None], mask=inside, other=0.0)
        return dot(narrow(left, DTYPE), weight, total, PRECISION)
    else:
        for start in range(0, INNER, CHUNK):
            inner = start + tl.arange(0, CHUNK)
            inside = (inner < INNER)[:, None] & (outer < OUTER)[None, :]
            weight = tl.load(weight_ptr + (outer * INNER)[None, :] + inner[:, None], mask=inside, other=0.0)
            chunk = _chunk_of(left, start // CHUNK, ROWS, INNER_TILE)
            total = add_float32_product(chunk, weight, total, PRECISION)
        return total


@triton.jit
def _parts(tile, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Left and right half of a [ROWS, COLS] tile."""
    return tl.split(tl.permute(tl.reshape(tile, (ROWS, 2, COLS // 2)), (0, 2, 1)))


@triton.jit
def _activated(
        change, before_ptr, rows, mask_n, start, ACTIVATION: tl.constexpr, WIDTH: tl.constexpr,
        ROWS: tl.constexpr, COLS: tl.constexpr,
):  # fmt: skip
    """The activation's difference of a layer's columns from ``start`` on, 0 where there is no row or column.

    At most 32 columns at a time: the intermediates of a whole tile are more than the registers hold.
    """
    if COLS > 32:
        left, right = _parts(change, ROWS, COLS)
        left = _activated(left, before_ptr, rows, mask_n, start, ACTIVATION, WIDTH, ROWS, COLS // 2)
        tl.debug_barrier()
        right = _activated(
            right, before_ptr, rows, mask_n, start + COLS // 2, ACTIVATION, WIDTH, ROWS, COLS // 2
        )
        return tl.reshape(tl.permute(tl.join(left, right), (0, 2, 1)), (ROWS, COLS))
    else:
        column = start + tl.arange(0, COLS)
        mask = mask_n[:, None] & (column < WIDTH)[None, :]
        if ACTIVATION != "none":
            before = tl.load(before_ptr + (rows * WIDTH)[:, None] + column[None, :], mask=mask, other=0.0)
            change = activation_change(before, change, ACTIVATION)
        return tl.where(mask, change, 0.0)


@triton.jit(do_not_specialize=NODE_UNSPECIALISED)
def _node_mlp_kernel(
        out_ptr, output_ptrs, weight_ptrs, target_ptr, signed_eps_ptr, rows, samples, smoothing,
        stride_op, stride_on, key0, key1, step, first,
        WIDTHS: tl.constexpr, TILES: tl.constexpr, WORDS: tl.constexpr, COLUMNS: tl.constexpr,
        ACTIVATIONS: tl.constexpr, DEPTH: tl.constexpr, SQUARED: tl.constexpr, SIDES: tl.constexpr,
        ROUNDS: tl.constexpr, DTYPE: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Program = block of rows; row p·samples + n is evaluation p of sample n; writes out [P, samples].

    Tuples with one entry a layer, contiguous: outputs [samples, WIDTHS[l]] float32, weights [WIDTHS[l],
    WIDTHS[l-1]] in DTYPE from the second layer on; TILES: the widths of the tiles; WORDS and COLUMNS: the
    applications' counter words and first column indices.
    """
    row = tl.cast(tl.program_id(0), tl.int64) * BLOCK_N + tl.arange(0, BLOCK_N)
    mask_n = row < rows
    n, p = row % samples, (row // samples).to(tl.int32)
    epsilon = tl.load(signed_eps_ptr + p, mask=mask_n, other=0.0)
    sample, counter = n.to(tl.uint32), counter_of(first + p // SIDES, step, key0, key1)
    moved = tl.zeros((BLOCK_N, 1), tl.float32)
    for layer in tl.static_range(DEPTH):
        change = _noise_of_layer(
            epsilon,
            sample,
            counter,
            WIDTHS[layer],
            WORDS[layer],
            COLUMNS[layer],
            ROUNDS,
            BLOCK_N,
            TILES[layer],
        )
        if layer > 0:
            change = _add_product(
                change, moved, weight_ptrs[layer - 1], WIDTHS[layer - 1], WIDTHS[layer], DTYPE, PRECISION,
                BLOCK_N, TILES[layer - 1], TILES[layer])  # fmt: skip
        # Features that are not there must not move the next layer.
        # A name out of a tuple is no constant to Triton 3.6 unless it is told so.
        moved = _activated(
            change, output_ptrs[layer], n, mask_n, 0, tl.constexpr(ACTIVATIONS[layer]), WIDTHS[layer],
            BLOCK_N, TILES[layer])  # fmt: skip
    losses = sample_losses(
        moved, output_ptrs[DEPTH - 1], target_ptr, n, mask_n, smoothing, SQUARED, WIDTHS[DEPTH - 1], BLOCK_N,
        TILES[DEPTH - 1])  # fmt: skip
    tl.store(out_ptr + p.to(tl.int64) * stride_op + n * stride_on, losses, mask=mask_n)


def node_mlp_differences(
    out: Tensor,
    outputs: list[Tensor],
    weights: list[Tensor],
    activations: list[str],
    target: Tensor,
    directions: Directions,
    applications: list[int],
    firsts: list[int],
    signed_eps: Tensor,
    label_smoothing: float,
    *,
    precision: str | None = None,
    config: Mapping[str, int] | None = None,
) -> None:
    """Each sample's loss difference through a whole MLP whose layers' outputs are perturbed, in one launch.

    A network of other widths, applications or first columns is another kernel to compile.

    Args:
        out: [P, N] float32; with the rest as in :func:`zo_triton.reference.node_mlp_differences`.
        outputs: [N, out_l] each.
        weights: [out_l, out_(l-1)] of each layer but the first.
        activations: What follows each layer.
        target: [N] int64 class indices, or [N, C] of any floating dtype for the squared error.
        directions: Names the K directions.
        applications: Number of each layer's application in the closure.
        firsts: Column index of each one's first node.
        signed_eps: [P].
        label_smoothing: In [0, 1]; of cross-entropy alone.
        precision: How float32 operands are multiplied, as :mod:`zo_triton.kernels.precision` names it, or
            ``"bf16"`` of operands that are rounded to it.
        config: Tile sizes and launch options, as from :func:`default_config`.

    Raises:
        ValueError: The network doesn't fit (see :func:`node_mlp_fits`), an activation or the precision is unknown,
            an activation stands after the last layer, the target doesn't belong to the logits, the label smoothing
            is no share, P is not K or 2K, or nodes are not perturbed by this distribution.
    """
    sides = check_arguments(out, None, directions, signed_eps, "none")
    widths = tuple(output.shape[1] for output in outputs)
    _check_network(widths, weights, activations)
    check_loss(outputs[-1], target, label_smoothing)
    places = [place_of(*place) for place in zip(applications, firsts, strict=True)]
    squared, samples = target.is_floating_point(), out.shape[1]
    precision = "bf16" if precision == "bf16" else precision_for(out, precision)
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    key = situation(
        "node_mlp_differences", torch.float32, distribution=directions.distribution, precision=precision,
        widest=upper(max(widths), 32, 64, 128),
    )  # fmt: skip
    config = config or pick(out.device, key, default_config(max(widths), chip_of(out), precision))
    launch(
        _node_mlp_kernel,
        blocks(out.numel(), config["BLOCK_N"]),
        out,
        out_ptr=out,
        output_ptrs=packed(outputs),
        weight_ptrs=tuple(weight.detach().to(dtype).contiguous() for weight in weights),
        target_ptr=packed([target])[0] if squared else target.contiguous(),
        signed_eps_ptr=signed_eps.contiguous(),
        rows=out.numel(),
        samples=samples,
        smoothing=float(label_smoothing),
        stride_op=out.stride(0),
        stride_on=out.stride(1),
        **step_of_nodes(directions),
        WIDTHS=widths,
        TILES=tuple(max(LEAST_WIDTH, power_of_two(width)) for width in widths),
        WORDS=tuple(word for word, _ in places),
        COLUMNS=tuple(column for _, column in places),
        ACTIVATIONS=tuple(activations),
        DEPTH=len(widths),
        SQUARED=squared,
        SIDES=sides,
        DTYPE=compute_dtype(dtype),
        PRECISION="ieee" if precision == "bf16" else precision,
        **config,
    )


def _check_network(widths: tuple[int, ...], weights: list[Tensor], activations: list[str]) -> None:
    for activation in activations:
        check_activation(activation)
    if activations[-1] != "none":
        raise ValueError(f"the last layer's outputs are logits, got activation {activations[-1]!r} after it.")
    if not node_mlp_fits(widths):
        raise ValueError(
            f"only networks of up to {MAX_DEPTH} layers with up to {MAX_WIDTH} outputs each go in one launch, got "
            f"outputs {list(widths)}; evaluate it layer by layer."
        )
    shapes = [tuple(weight.shape) for weight in weights]
    wanted = [(outer, inner) for inner, outer in pairwise(widths)]
    if shapes != wanted:
        raise ValueError(
            f"outputs {list(widths)} need weights {wanted} from the second layer on, got {shapes}."
        )
