"""What the launchers of the perturbed layers, linear and convolution, share: everything but the geometry."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

from zo_triton.directions import Directions, matrix_shape
from zo_triton.kernels.arguments import check_arguments, field_constants
from zo_triton.kernels.field import counter_arguments, word_argument, word_arguments
from zo_triton.kernels.launch import compute_dtype
from zo_triton.kernels.stage import stage
from zo_triton.kernels.stage_taps import stage_taps

BITS = ("inline", "staged")
TILE = 128
"""Samples that share a tile of signs in most configs."""


class Layer(NamedTuple):
    """A layer's arguments as a kernel takes them.

    Attributes:
        sides: Of each direction.
        rank: Of the weight's perturbation, 0 if that is full or there is none.
        bits: ``"inline"`` or ``"staged"``.
        weight: In the compute dtype where it meets a difference.
        moved: The difference in the compute dtype, [P, *base.shape]; the base, [1, *base.shape], if there is none.
        before: The base output; one evaluation of the output where no activation reads it.
        arguments: Of the kernel, by name: all but ``weight_ptr``, sizes, strides and tiles.
    """

    sides: int
    rank: int
    bits: str
    weight: Tensor
    moved: Tensor
    before: Tensor
    arguments: dict[str, object]


def tiles(samples: int, features: int, terms: int, warps: int, stages: int) -> dict[str, int]:
    """A program's tile, output rows (samples or positions) × columns (features or channels) × terms of the sum."""
    sizes = {"BLOCK_N": samples, "BLOCK_F": features, "BLOCK_I": terms}
    return {**sizes, "num_warps": warps, "num_stages": stages}


def default_bits(directions: Directions, low_rank: bool, samples: int) -> str:
    """Where a tile's signs come from unless the caller says: a rule that no measurement has confirmed yet.

    Staged words cost one launch and d/8 bytes of traffic a direction, and save every tile but the first along
    the samples from running the generator again: staged from two tiles of 128 samples on.
    """
    staged = directions.signs and not low_rank and samples > TILE
    return "staged" if staged else "inline"


def check_bits(bits: str, directions: Directions, rank: int) -> str:
    """The bits themselves, if these directions can be had that way.

    Raises:
        ValueError: The name is unknown, or only full-rank signs can be staged.
    """
    if bits not in BITS:
        raise ValueError(f"unknown bits {bits!r}; choose one of {BITS}.")
    if bits == "staged" and (not directions.signs or rank):
        raise ValueError(
            f"staged bits need full-rank 'rademacher' or 'hadamard' directions, got {directions.distribution!r} "
            f"with rank {rank or None}; use bits='inline'."
        )
    return bits


def prepare_layer(
    out: Tensor,
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    activation: str,
    bits: str | None,
    precision: str,
    samples: int,
    by_taps: bool = False,
) -> Layer:
    """Checks the arguments, decides on the bits, and writes the signs if they are staged: the one extra launch.

    Args:
        out: [P, …]; with those up to ``activation`` as the two operations take them.
        base: Input of the base.
        difference: [P, *base.shape] or None.
        weight: Its first axis counts the field's rows.
        base_output: ``out[0]``'s shape, or None.
        directions: Names the K directions.
        weight_id: The weight's tensor id or -1.
        bias_id: The bias's tensor id or -1.
        signed_eps: [P].
        activation: Its name.
        bits: ``"inline"``, ``"staged"`` or None for :func:`default_bits`.
        precision: How float32 operands are multiplied, in the launcher's words.
        samples: Rows that share the weight's signs: samples, or positions of a window.
        by_taps: Staged signs of a convolution are wanted in the order of its taps.

    Raises:
        TypeError: ``out`` is neither float32 nor bfloat16.
        ValueError: As :func:`check_arguments` and :func:`check_bits`.
    """
    dtype = compute_dtype(out.dtype)
    sides = check_arguments(out, base_output, directions, signed_eps, activation)
    perturbed = weight_id >= 0
    rank = directions.rank or 0 if perturbed and directions.is_low_rank(weight.shape) else 0
    bits = check_bits(bits or default_bits(directions, bool(rank), samples), directions, rank)
    staged = None
    if bits == "staged" and perturbed and out.numel():
        if by_taps:
            staged = stage_taps(directions, weight_id, weight.shape, out.device)
        else:
            staged = stage(directions, weight_id, *matrix_shape(weight.shape), out.device)
    if difference is not None:
        # One rounding of W for all directions: its tiles reach the tensor cores without passing registers.
        difference, weight = difference.to(out.dtype), weight.to(out.dtype)
    moved = base[None] if difference is None else difference
    before = out[0] if base_output is None else base_output
    arguments = {
        "out_ptr": out,
        "base_ptr": base,
        "difference_ptr": moved,
        "base_output_ptr": before,
        "signed_eps_ptr": signed_eps.contiguous(),
        "staged_ptr": base if staged is None else staged,
        **counter_arguments(directions),
        **word_arguments(directions, weight_id),
        "bias_word": word_argument(directions, bias_id),
        "SIDES": sides,
        "HAS_DIFFERENCE": difference is not None,
        "PERTURB_WEIGHT": perturbed,
        "PERTURB_BIAS": bias_id >= 0,
        "ACTIVATION": activation,
        **field_constants(directions, rank),
        "STAGED": staged is not None,
        "DTYPE": dtype,
        "PRECISION": precision,
    }
    return Layer(sides, rank, bits, weight, moved, before, arguments)
