"""A small MLP and its loss for every direction in one launch on tensor cores that never leaves the chip.

A program takes a block of samples through all layers in one evaluation. Between layers the differences stay in
registers, a whole layer to a tile; the loss, too, is taken there. What all evaluations share, base inputs and
weights, a first small launch takes apart into what tensor cores multiply.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.activation import check_activation
from zo_triton.kernels.arguments import check_arguments
from zo_triton.kernels.choices import pick, situation, upper
from zo_triton.kernels.exact_products import write_parts
from zo_triton.kernels.field import UNSPECIALISED, counter_arguments, counter_of, drawn_by, word_argument
from zo_triton.kernels.launch import blocks, chip_of, launch, power_of_two
from zo_triton.kernels.mlp_layer import LEAST, layer_difference
from zo_triton.kernels.mlp_loss import losses_of_columns

MAX_WIDTH, MAX_DEPTH = 128, 4
"""Features of a layer's output, and layers (each is compiled for itself).

With 256 features and both sides the kernel for sm_90 spills registers, with 128 it does not.
"""


def mlp_fits(weights: Sequence[Tensor]) -> bool:
    """Whether a network goes in one launch: up to four layers of up to 128 outputs each."""
    return len(weights) <= MAX_DEPTH and max(weight.shape[0] for weight in weights) <= MAX_WIDTH


def default_config(widest: int, chip: str) -> dict[str, int]:
    """Samples of a program and launch options, for a network whose widest output is this; none timed yet.

    Four warps hold 64 features of 32 samples, with 64 samples they spill, as do eight of 128 features unless the
    chip is Hopper. On AMD's chips eight spill with 32 samples, too; four, with twice the registers each, don't.
    """
    samples = 32 if 32 < widest <= 64 or chip != "sm_90" else 64
    warps = 8 if widest > 64 and chip != "gfx942" else 4
    return {"BLOCK_N": samples, "BLOCK_I": 64, "num_warps": warps, "num_stages": 3}


@triton.jit(do_not_specialize=UNSPECIALISED)
def _mlp_kernel(
        out_ptr, input_ptrs, output_ptrs, weight_ptrs, target_ptr, signed_eps_ptr,
        samples, sample_tiles, smoothing, stride_op, stride_on, key0, key1, step, first,
        WIDTHS: tl.constexpr, TILES: tl.constexpr, WEIGHT_WORDS: tl.constexpr, BIAS_WORDS: tl.constexpr,
        ACTIVATIONS: tl.constexpr, DEPTH: tl.constexpr, SQUARED: tl.constexpr, SIDES: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, SETTLED: tl.constexpr, BLOCK_N: tl.constexpr,
        BLOCK_I: tl.constexpr,
):  # fmt: skip
    """Program = evaluation·sample_tiles + sample tile; writes out [P, samples], P = SIDES·K.

    Tuples with one entry a layer, contiguous: inputs [3, samples, TILES[l]] and, from the second layer on, weights
    [3, TILES[l+1], TILES[l]] in parts (see :mod:`zo_triton.kernels.exact_products`), outputs [samples, WIDTHS[l+1]]
    float32; TILES: the widths of the tiles; words of -1 are not trained. target as in :func:`losses_of_columns`,
    signed_eps [P]. Counters: (block, tensor word, first + k, step).
    """
    pid = tl.program_id(0)
    # Without a sign the upper halves of these numbers are zeros and take no registers.
    p = (pid // sample_tiles).to(tl.uint32).to(tl.int64)
    counter = counter_of(first + pid // sample_tiles // SIDES, step, key0, key1)
    epsilon = tl.load(signed_eps_ptr + p)
    start = (pid % sample_tiles).to(tl.uint32).to(tl.int64) * BLOCK_N
    mask_n = tl.arange(0, BLOCK_N) < samples - start
    # Rows beyond the last sample read the tile's first one: never stored, and no load needs a mask for them.
    rows = tl.where(mask_n, tl.arange(0, BLOCK_N), 0)
    moved = tl.zeros((LEAST, BLOCK_N), tl.float32)
    for layer in tl.static_range(DEPTH):
        # A name out of a tuple is no constant to Triton 3.6 unless it is told so.
        moved = layer_difference(
            input_ptrs[layer], output_ptrs[layer], weight_ptrs[layer], moved, start, rows, samples, epsilon,
            counter, layer == 0, WIDTHS[layer], WIDTHS[layer + 1], TILES[layer], TILES[layer + 1],
            WEIGHT_WORDS[layer], BIAS_WORDS[layer], tl.constexpr(ACTIVATIONS[layer]), DISTRIBUTION, ROUNDS, SETTLED,
            BLOCK_N, BLOCK_I)  # fmt: skip
    logits_ptr = output_ptrs[DEPTH - 1] + start * WIDTHS[DEPTH]
    target_ptr += start * (WIDTHS[DEPTH] if SQUARED else 1)
    change = losses_of_columns(
        moved, logits_ptr, target_ptr, rows, mask_n, smoothing, SQUARED, WIDTHS[DEPTH], BLOCK_N, TILES[DEPTH]
    )
    tl.store(out_ptr + p * stride_op + (start + rows) * stride_on, change, mask=mask_n)


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
    config: Mapping[str, int] | None = None,
) -> None:
    """Each sample's loss difference through a whole MLP, in one launch and a small one before it, in float32.

    A network of other widths or tensor ids is another kernel to compile.

    Args:
        out: [P, N] float32; with the rest as in :func:`zo_triton.reference.mlp_differences`.
        inputs: [N, in_l] each.
        outputs: [N, out_l] each.
        weights: [out_l, in_l] each.
        weight_ids: Tensor id or -1 each.
        bias_ids: Tensor id or -1 each.
        activations: What follows each layer.
        target: [N] int64 class indices, or [N, C] of any floating dtype for the squared error.
        directions: Names the K directions.
        signed_eps: [P].
        label_smoothing: In [0, 1]; of cross-entropy alone.
        config: Tile sizes and launch options, as from :func:`default_config`.

    Raises:
        ValueError: The network doesn't fit (see :func:`mlp_fits`), directions are of low rank, an activation is
            unknown or stands after the last layer, the target doesn't belong to the logits, the label smoothing
            is no share, or P is not K or 2K.
    """
    sides = check_arguments(out, None, directions, signed_eps, "none")
    _check_network(weights, activations, directions)
    check_loss(outputs[-1], target, label_smoothing)
    squared = target.is_floating_point()
    widths = (weights[0].shape[1], *(weight.shape[0] for weight in weights))
    widest = max(widths[1:])
    key = situation(
        "mlp_differences", torch.float32, distribution=directions.elementwise,
        widest=upper(widest, 32, 64, 128),
    )  # fmt: skip
    config = config or pick(out.device, key, default_config(widest, chip_of(out)))
    samples = out.shape[1]
    sample_tiles = blocks(samples, config["BLOCK_N"])
    tiles = (
        config["BLOCK_I"] * blocks(widths[0], config["BLOCK_I"]),
        *(max(LEAST.value, power_of_two(width)) for width in widths[1:]),
    )
    of_inputs, of_weights = _operands(inputs, weights, tiles)
    launch(
        _mlp_kernel,
        len(out) * sample_tiles,
        out,
        out_ptr=out,
        input_ptrs=of_inputs,
        output_ptrs=packed(outputs),
        weight_ptrs=of_weights,
        target_ptr=packed([target])[0] if squared else target.contiguous(),
        signed_eps_ptr=signed_eps.contiguous(),
        samples=samples,
        sample_tiles=sample_tiles,
        smoothing=float(label_smoothing),
        stride_op=out.stride(0),
        stride_on=out.stride(1),
        **counter_arguments(directions),
        WIDTHS=widths,
        TILES=tiles,
        WEIGHT_WORDS=_words(directions, weight_ids),
        BIAS_WORDS=_words(directions, bias_ids),
        ACTIVATIONS=tuple(activations),
        DEPTH=len(weights),
        SQUARED=squared,
        SIDES=sides,
        DISTRIBUTION=drawn_by(directions),
        ROUNDS=directions.rounds,
        SETTLED=chip_of(out) == "sm_90",
        **config,
    )


def _operands(
    inputs: list[Tensor], weights: list[Tensor], tiles: tuple[int, ...]
) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
    """Inputs and weights in parts, padded to the kernel's tiles; nobody reads the first layer's weight."""
    samples = inputs[0].shape[0]
    parts = write_parts(
        [*packed(inputs), *packed(weights[1:])],
        [
            *((samples, tile) for tile in tiles[:-1]),
            *((outer, inner) for inner, outer in pairwise(tiles[1:])),
        ],
    )
    return tuple(parts[: len(inputs)]), (parts[0], *parts[len(inputs) :])


def packed(tensors: list[Tensor]) -> tuple[Tensor, ...]:
    """Contiguous and float32, as a kernel takes them."""
    return tuple(tensor.detach().to(torch.float32).contiguous() for tensor in tensors)


def _words(directions: Directions, tensor_ids: list[int]) -> tuple[int, ...]:
    return tuple(word_argument(directions, tensor_id) if tensor_id >= 0 else -1 for tensor_id in tensor_ids)


def _check_network(weights: list[Tensor], activations: list[str], directions: Directions) -> None:
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


def check_loss(logits: Tensor, target: Tensor, label_smoothing: float) -> None:
    """Refuses a target that does not belong to the logits.

    Raises:
        ValueError: Its shape is another, or the label smoothing is no share.
    """
    wanted = logits.shape if target.is_floating_point() else logits.shape[:1]
    if target.shape != wanted:
        raise ValueError(
            f"logits with shape {tuple(logits.shape)} need a target with shape {tuple(wanted)}, that is class "
            f"indices [N] or floats [N, C], got {target.dtype} with shape {tuple(target.shape)}."
        )
    if not 0.0 <= label_smoothing <= 1.0:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}.")
