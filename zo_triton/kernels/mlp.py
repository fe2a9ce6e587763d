"""A small MLP and its loss for every direction in one launch that never leaves the chip.

A program takes a block of samples through all layers along one direction and both its sides. Between layers the
differences stay in registers, a whole layer to a tile; the loss, too, is taken there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.activation import check_activation
from zo_triton.kernels.arguments import check_arguments
from zo_triton.kernels.choices import pick, situation, upper
from zo_triton.kernels.epilogue import evaluations_of
from zo_triton.kernels.field import UNSPECIALISED, counter_arguments, counter_of, drawn_by, word_argument
from zo_triton.kernels.launch import blocks, chip_of, launch
from zo_triton.kernels.mlp_layer import CHUNK, layer_differences
from zo_triton.kernels.mlp_loss import sample_losses

MAX_WIDTH, MAX_DEPTH = 128, 4
"""Features of a layer's output, and layers (each is compiled for itself).

With 256 features and both sides the kernel for sm_90 spills registers, with 128 it does not.
"""


def mlp_fits(weights: Sequence[Tensor]) -> bool:
    """Whether a network goes in one launch: up to four layers of up to 128 outputs each."""
    return len(weights) <= MAX_DEPTH and max(weight.shape[0] for weight in weights) <= MAX_WIDTH


def default_config(widest: int, sides: int, chip: str) -> dict[str, int]:
    """Samples of a program and launch options, for a network whose widest output is this; none timed yet.

    Both sides of more than 64 features leave registers for 8 samples: with 16 most such networks spill. On AMD's
    chips those of more than 32 do.
    """
    samples = 8 if sides == 2 and widest > (32 if chip == "gfx942" else 64) else 16
    return {"BLOCK_N": samples, "num_warps": 4 if widest <= 32 else 8, "num_stages": 2}


@triton.jit(do_not_specialize=UNSPECIALISED)
def _mlp_kernel(
        out_ptr, input_ptrs, output_ptrs, weight_ptrs, target_ptr, signed_eps_ptr,
        samples, sample_tiles, smoothing, stride_op, stride_on, key0, key1, step, first,
        WIDTHS: tl.constexpr, TILES: tl.constexpr, WEIGHT_WORDS: tl.constexpr, BIAS_WORDS: tl.constexpr,
        ACTIVATIONS: tl.constexpr, DEPTH: tl.constexpr, SQUARED: tl.constexpr, SIDES: tl.constexpr,
        DISTRIBUTION: tl.constexpr, ROUNDS: tl.constexpr, PRECISION: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """Program = direction·sample_tiles + sample tile; writes out [P, samples], P = SIDES·K.

    Tuples with one entry a layer, contiguous float32: inputs [samples, WIDTHS[l]], outputs [samples, WIDTHS[l+1]],
    weights [WIDTHS[l+1], WIDTHS[l]]; TILES: the widths of the tiles; words of -1 are not trained. target as in
    :func:`sample_losses`, signed_eps [P]. Counters: (block, tensor word, first + k, step).
    """
    pid = tl.program_id(0)
    k = pid // sample_tiles
    counter = counter_of(first + k, step, key0, key1)
    p0, p1, epsilon0, epsilon1 = evaluations_of(k, signed_eps_ptr, SIDES)
    rows = ((pid % sample_tiles) * BLOCK_N + tl.arange(0, BLOCK_N)).to(tl.int64)
    mask_n = rows < samples
    moved0 = tl.zeros((BLOCK_N, CHUNK), tl.float32)
    moved1 = moved0
    for layer in tl.static_range(DEPTH):
        moved0, moved1 = layer_differences(
            input_ptrs[layer], output_ptrs[layer], weight_ptrs[layer], moved0, moved1, rows, mask_n,
            epsilon0, epsilon1, counter, layer == 0, WIDTHS[layer], WIDTHS[layer + 1],
            TILES[layer], TILES[layer + 1], WEIGHT_WORDS[layer], BIAS_WORDS[layer],
            tl.constexpr(ACTIVATIONS[layer]), SIDES, DISTRIBUTION, ROUNDS, PRECISION, BLOCK_N)  # fmt: skip
    logits_ptr, out_ptr = output_ptrs[DEPTH - 1], out_ptr + rows * stride_on
    change = sample_losses(
        moved0, logits_ptr, target_ptr, rows, mask_n, smoothing, SQUARED, WIDTHS[DEPTH], BLOCK_N, TILES[DEPTH]
    )
    tl.store(out_ptr + p0 * stride_op, change, mask=mask_n)
    if SIDES == 2:
        change = sample_losses(
            moved1, logits_ptr, target_ptr, rows, mask_n, smoothing, SQUARED, WIDTHS[DEPTH], BLOCK_N, TILES[DEPTH]
        )  # fmt: skip
        tl.store(out_ptr + p1 * stride_op, change, mask=mask_n)


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
    """Each sample's loss difference through a whole MLP, in one launch, computed in float32.

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
        precision: How the products are taken: ``"ieee"`` or ``"tf32x3"``.
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
        "mlp_differences", torch.float32, sides=sides, distribution=directions.elementwise, precision=precision,
        widest=upper(widest, 32, 64, 128),
    )  # fmt: skip
    config = config or pick(out.device, key, default_config(widest, sides, chip_of(out)))
    sample_tiles = blocks(out.shape[1], config["BLOCK_N"])
    launch(
        _mlp_kernel,
        directions.num * sample_tiles,
        out,
        out_ptr=out,
        input_ptrs=packed(inputs),
        output_ptrs=packed(outputs),
        weight_ptrs=packed(weights),
        target_ptr=packed([target])[0] if squared else target.contiguous(),
        signed_eps_ptr=signed_eps.contiguous(),
        samples=out.shape[1],
        sample_tiles=sample_tiles,
        smoothing=float(label_smoothing),
        stride_op=out.stride(0),
        stride_on=out.stride(1),
        **counter_arguments(directions),
        WIDTHS=widths,
        TILES=tuple(max(CHUNK.value, int(triton.next_power_of_2(width))) for width in widths),
        WEIGHT_WORDS=_words(directions, weight_ids),
        BIAS_WORDS=_words(directions, bias_ids),
        ACTIVATIONS=tuple(activations),
        DEPTH=len(weights),
        SQUARED=squared,
        SIDES=sides,
        DISTRIBUTION=drawn_by(directions),
        ROUNDS=directions.rounds,
        PRECISION=precision,
        **config,
    )


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
