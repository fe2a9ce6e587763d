"""A small MLP and its cross-entropy for every direction in one launch that never leaves the chip.

A program takes a block of samples through all layers along one direction and both its sides. Between layers the
differences stay in registers, a whole layer to a tile. A layer is folded,
Δz = δ(W+sεU)ᵀ + sε·(aUᵀ + v): the second product belongs to the base alone and serves both sides, and one tile of
U serves both products. The first layer has no δ, so its inputs are streamed and may be as many as they like.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions, tensor_word
from zo_triton.kernels.activation import activation_change, check_activation
from zo_triton.kernels.arguments import check_arguments
from zo_triton.kernels.cross_entropy import add_classes, loss_change, no_classes
from zo_triton.kernels.epilogue import vector_tile
from zo_triton.kernels.field import UNSPECIALISED, counter_arguments, counter_of, draw_tile
from zo_triton.kernels.launch import blocks, launch
from zo_triton.kernels.numeric import dot

MAX_WIDTH, MAX_DEPTH = 128, 4
"""Features of a layer's output, and layers (each is compiled for itself).

With 256 features and both sides the kernel for sm_90 spills registers, with 128 it does not.
"""


CHUNK = tl.constexpr(32)
"""In-features of a tile: a word of signs."""


def mlp_fits(weights: Sequence[Tensor]) -> bool:
    """Whether a network goes through :func:`mlp_differences`: up to four layers of up to 128 outputs each."""
    return len(weights) <= MAX_DEPTH and max(weight.shape[0] for weight in weights) <= MAX_WIDTH


def default_config(widest: int) -> dict[str, int]:
    """Samples of a program and launch options, for a network whose widest output is this; none timed yet."""
    return {"BLOCK_N": 16, "num_warps": 4 if widest <= 32 else 8, "num_stages": 2}


@triton.jit
def _chunk_of(tile, index, ROWS: tl.constexpr, COLS: tl.constexpr):
    """Columns 32·index … 32·index + 31 of a tile in registers, which can't be addressed by a loop's counter."""
    chunks = tl.reshape(tile, (ROWS, COLS // CHUNK, CHUNK))
    own = tl.arange(0, COLS // CHUNK)[None, :, None] == index
    return tl.sum(tl.where(own, chunks, 0.0), axis=1)


@triton.jit
def _layer(
    base_ptr,
    before_ptr,
    weight_ptr,
    moved0,
    moved1,
    rows,
    mask_n,
    epsilon0,
    epsilon1,
    counter,
    FIRST: tl.constexpr,
    INNER: tl.constexpr,
    OUTER: tl.constexpr,
    INNER_TILE: tl.constexpr,
    OUTER_TILE: tl.constexpr,
    WEIGHT_WORD: tl.constexpr,
    BIAS_WORD: tl.constexpr,
    ACTIVATION: tl.constexpr,
    SIDES: tl.constexpr,
    DISTRIBUTION: tl.constexpr,
    ROUNDS: tl.constexpr,
    PRECISION: tl.constexpr,
    BLOCK_N: tl.constexpr,
):
    """Both sides' differences after a layer, [BLOCK_N, OUTER_TILE]; those before it [BLOCK_N, INNER_TILE]."""
    outer = tl.arange(0, OUTER_TILE)
    product = tl.zeros((BLOCK_N, OUTER_TILE), tl.float32)
    change0 = product
    change1 = product
    if WEIGHT_WORD >= 0 or not FIRST:
        for column in range(0, INNER, CHUNK):
            inner = column + tl.arange(0, CHUNK)
            if WEIGHT_WORD >= 0:
                mask = mask_n[:, None] & (inner < INNER)[None, :]
                base = tl.load(base_ptr + (rows * INNER)[:, None] + inner[None, :], mask=mask, other=0.0)
                word = tl.full((), WEIGHT_WORD, tl.uint32)
                row_blocks = tl.arange(0, OUTER_TILE // 4)
                u = draw_tile(
                    row_blocks,
                    column,
                    INNER,
                    word,
                    counter,
                    DISTRIBUTION,
                    ROUNDS,
                    OUTER_TILE,
                    CHUNK,
                    tl.float32,
                )
                u = tl.trans(u)
                product = dot(base, u, product, PRECISION)
            if not FIRST:
                mask = (inner < INNER)[:, None] & (outer < OUTER)[None, :]
                weight = tl.load(weight_ptr + (outer * INNER)[None, :] + inner[:, None], mask=mask, other=0.0)
                part0 = _chunk_of(moved0, column // CHUNK, BLOCK_N, INNER_TILE)
                if WEIGHT_WORD >= 0:
                    change0 = dot(part0, weight + epsilon0 * u, change0, PRECISION)
                else:
                    change0 = dot(part0, weight, change0, PRECISION)
                if SIDES == 2:
                    part1 = _chunk_of(moved1, column // CHUNK, BLOCK_N, INNER_TILE)
                    if WEIGHT_WORD >= 0:
                        change1 = dot(part1, weight + epsilon1 * u, change1, PRECISION)
                    else:
                        change1 = dot(part1, weight, change1, PRECISION)
    if BIAS_WORD >= 0:
        word = tl.full((), BIAS_WORD, tl.uint32)
        product += vector_tile(0, OUTER, word, counter, DISTRIBUTION, ROUNDS, OUTER_TILE, tl.float32)[None, :]
    change0 += epsilon0 * product
    change1 += epsilon1 * product
    mask = mask_n[:, None] & (outer < OUTER)[None, :]
    if ACTIVATION != "none":
        before = tl.load(before_ptr + (rows * OUTER)[:, None] + outer[None, :], mask=mask, other=0.0)
        change0 = activation_change(before, change0, ACTIVATION)
        if SIDES == 2:
            change1 = activation_change(before, change1, ACTIVATION)
    # Features that are not there must not move the next layer.
    return tl.where(mask, change0, 0.0), tl.where(mask, change1, 0.0)


@triton.jit
def _cross_entropy(
    change,
    logits_ptr,
    rows,
    mask_n,
    target,
    smoothing,
    CLASSES: tl.constexpr,
    BLOCK_N: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """[BLOCK_N] loss differences from the logits' [BLOCK_N, BLOCK_C] and the base logits [samples, CLASSES]."""
    classes = tl.arange(0, BLOCK_C)
    there = (classes < CLASSES)[None, :]
    mask = mask_n[:, None] & there
    logits = tl.load(logits_ptr + (rows * CLASSES)[:, None] + classes[None, :], mask=mask, other=0.0)
    logits -= tl.max(tl.where(there, logits, -3.0e38), axis=1)[:, None]
    total = tl.log(tl.sum(tl.where(there, tl.exp(tl.minimum(logits, 0.0)), 0.0), axis=1))
    log_p = tl.where(mask, logits - total[:, None], -1.0e4)
    own = tl.sum(tl.where(classes[None, :] == target[:, None], change, 0.0), axis=1)
    relative = tl.where(mask, change - own[:, None], 0.0)
    return loss_change(add_classes(no_classes(BLOCK_N), log_p, relative, mask), smoothing, CLASSES)


@triton.jit(do_not_specialize=UNSPECIALISED)
def _mlp_kernel(
        out_ptr, input_ptrs, output_ptrs, weight_ptrs, target_ptr, signed_eps_ptr,
        samples, sample_tiles, smoothing, stride_op, stride_on, key0, key1, step, first,
        WIDTHS: tl.constexpr, TILES: tl.constexpr, WEIGHT_WORDS: tl.constexpr, BIAS_WORDS: tl.constexpr,
        ACTIVATIONS: tl.constexpr, DEPTH: tl.constexpr, SIDES: tl.constexpr, DISTRIBUTION: tl.constexpr,
        ROUNDS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Program = direction·sample_tiles + sample tile; writes out [P, samples], P = SIDES·K.

    Tuples with one entry a layer, contiguous float32: inputs [samples, WIDTHS[l]], outputs [samples, WIDTHS[l+1]],
    weights [WIDTHS[l+1], WIDTHS[l]]; TILES: the widths of the tiles; words of -1 are not trained. target [samples]
    int64, signed_eps [P]. Counters: (block, tensor word, first + k, step).
    """
    pid = tl.program_id(0)
    k = pid // sample_tiles
    counter = counter_of(first + k, step, key0, key1)
    p0, p1 = tl.cast(k, tl.int64) * SIDES, tl.cast(k, tl.int64) * SIDES + SIDES - 1
    epsilon0, epsilon1 = tl.load(signed_eps_ptr + p0), tl.load(signed_eps_ptr + p1)
    rows = ((pid % sample_tiles) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    mask_n = rows < samples
    moved0 = tl.zeros((BLOCK_N, CHUNK), tl.float32)
    moved1 = moved0
    for layer in tl.static_range(DEPTH):
        moved0, moved1 = _layer(
            input_ptrs[layer], output_ptrs[layer], weight_ptrs[layer], moved0, moved1, rows, mask_n,
            epsilon0, epsilon1, counter, layer == 0, WIDTHS[layer], WIDTHS[layer + 1],
            TILES[layer], TILES[layer + 1], WEIGHT_WORDS[layer], BIAS_WORDS[layer], ACTIVATIONS[layer],
            SIDES, DISTRIBUTION, ROUNDS, PRECISION, BLOCK_N)  # fmt: skip
    target = tl.load(target_ptr + rows, mask=mask_n, other=0)
    logits_ptr, out_ptr = output_ptrs[DEPTH - 1], out_ptr + rows * stride_on
    change = _cross_entropy(
        moved0, logits_ptr, rows, mask_n, target, smoothing, WIDTHS[DEPTH], BLOCK_N, TILES[DEPTH]
    )
    tl.store(out_ptr + p0 * stride_op, change, mask=mask_n)
    if SIDES == 2:
        change = _cross_entropy(
            moved1, logits_ptr, rows, mask_n, target, smoothing, WIDTHS[DEPTH], BLOCK_N, TILES[DEPTH]
        )
        tl.store(out_ptr + p1 * stride_op, change, mask=mask_n)


def mlp_differences(
    out: Tensor,
    inputs: list[Tensor],
    outputs: list[Tensor],
    weights: list[Tensor],
    weight_ids: list[int],
    bias_ids: list[int],
    activations: list[str],
    target: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    label_smoothing: float,
) -> None:
    """Each sample's cross-entropy difference through a whole MLP, in one launch, computed in float32.

    Shapes and meaning are those of :func:`zo_triton.reference.mlp_differences`. A network of other widths or
    tensor ids is another kernel to compile.

    Raises:
        ValueError: The network doesn't fit (see :func:`mlp_fits`), directions are of low rank, an activation is
            unknown or stands after the last layer, the label smoothing is no share, or P is not K or 2K.
    """
    if target.is_floating_point():
        raise ValueError(
            "this kernel computes cross-entropy alone, got float targets; go layer by layer for squared error."
        )
    launch_mlp_differences(
        out, inputs, outputs, weights, weight_ids, bias_ids, activations, target, directions, signed_eps,
        label_smoothing,
    )  # fmt: skip


def launch_mlp_differences(
    out: Tensor,
    inputs: list[Tensor],
    outputs: list[Tensor],
    weights: list[Tensor],
    weight_ids: list[int],
    bias_ids: list[int],
    activations: list[str],
    target: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    label_smoothing: float,
    *,
    precision: str = "ieee",
    config: Mapping[str, int] | None = None,
) -> None:
    """:func:`mlp_differences` with the choices that measurements make.

    Args:
        out: [P, N] float32; with the rest as in :func:`zo_triton.reference.mlp_differences`.
        inputs: [N, in_l] each.
        outputs: [N, out_l] each.
        weights: [out_l, in_l] each.
        weight_ids: Tensor id or -1 each.
        bias_ids: Tensor id or -1 each.
        activations: What follows each layer.
        target: [N] int64.
        directions: Names the K directions.
        signed_eps: [P].
        label_smoothing: In [0, 1].
        precision: How the products are taken: ``"ieee"`` or ``"tf32x3"``.
        config: Tile sizes and launch options, as from :func:`default_config`.

    Raises:
        ValueError: As :func:`mlp_differences`.
    """
    sides = check_arguments(out, None, directions, signed_eps, "none")
    _check_network(weights, activations, directions, label_smoothing)
    widths = (weights[0].shape[1], *(weight.shape[0] for weight in weights))
    config = config or default_config(max(widths[1:]))
    sample_tiles = blocks(out.shape[1], config["BLOCK_N"])
    launch(
        _mlp_kernel,
        directions.num * sample_tiles,
        out,
        out_ptr=out,
        input_ptrs=_packed(inputs),
        output_ptrs=_packed(outputs),
        weight_ptrs=_packed(weights),
        target_ptr=target.contiguous(),
        signed_eps_ptr=signed_eps.contiguous(),
        samples=out.shape[1],
        sample_tiles=sample_tiles,
        smoothing=float(label_smoothing),
        stride_op=out.stride(0),
        stride_on=out.stride(1),
        **counter_arguments(directions),
        WIDTHS=widths,
        TILES=tuple(max(CHUNK.value, int(triton.next_power_of_2(width))) for width in widths),
        WEIGHT_WORDS=_words(weight_ids),
        BIAS_WORDS=_words(bias_ids),
        ACTIVATIONS=tuple(activations),
        DEPTH=len(weights),
        SIDES=sides,
        DISTRIBUTION=directions.elementwise,
        ROUNDS=directions.rounds,
        PRECISION=precision,
        **config,
    )


def _packed(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().to(torch.float32).contiguous() for tensor in tensors)


def _words(tensor_ids: list[int]) -> tuple[int, ...]:
    return tuple(tensor_word(tensor_id) if tensor_id >= 0 else -1 for tensor_id in tensor_ids)


def _check_network(
    weights: list[Tensor], activations: list[str], directions: Directions, label_smoothing: float
) -> None:
    for activation in activations:
        check_activation(activation)
    if activations[-1] != "none":
        raise ValueError(f"the last layer's outputs are logits, got activation {activations[-1]!r} after it.")
    if not mlp_fits(weights):
        raise ValueError(
            f"only networks of up to {MAX_DEPTH} layers with up to {MAX_WIDTH} outputs each go in one launch, got "
            f"outputs {[weight.shape[0] for weight in weights]}; evaluate it layer by layer."
        )
    if directions.rank is not None:
        raise ValueError(
            f"one launch takes directions of full rank only, got rank {directions.rank}; evaluate layer by layer."
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}.")
