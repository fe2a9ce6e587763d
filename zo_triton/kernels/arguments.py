"""What the launchers of the perturbed layers have in common: their choice of bits, checks, and field constants."""

from __future__ import annotations

from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.activation import check_activation
from zo_triton.kernels.field import padded_rank

BITS = ("inline", "staged")


def default_bits(directions: Directions, low_rank: bool, samples: int) -> str:
    """Where a tile's signs come from unless the caller says: a rule that no measurement has confirmed yet.

    Staged words cost one launch and d/8 bytes of traffic a direction, and save every tile but the first along
    the samples from running the generator again: staged from four tiles of 128 samples on.
    """
    staged = directions.elementwise == "rademacher" and not low_rank and samples > 3 * 128
    return "staged" if staged else "inline"


def check_bits(bits: str, directions: Directions, rank: int) -> str:
    """The bits themselves, if these directions can be had that way.

    Raises:
        ValueError: The name is unknown, or only full-rank signs can be staged.
    """
    if bits not in BITS:
        raise ValueError(f"unknown bits {bits!r}; choose one of {BITS}.")
    if bits == "staged" and (directions.elementwise != "rademacher" or rank):
        raise ValueError(
            f"staged bits need full-rank 'rademacher' directions, got {directions.distribution!r} with rank "
            f"{rank or None}; use bits='inline'."
        )
    return bits


def check_arguments(
    out: Tensor, base_output: Tensor | None, directions: Directions, signed_eps: Tensor, activation: str
) -> int:
    """The number of sides, once the arguments fit each other.

    Raises:
        ValueError: The activation is unknown or lacks its ``base_output``; P is not a multiple of K up to 2K.
    """
    check_activation(activation)
    if activation != "none" and base_output is None:
        raise ValueError(
            f"activation {activation!r} needs base_output, the unperturbed pre-activation, got None."
        )
    evaluations, sides = signed_eps.numel(), signed_eps.numel() // directions.num
    if sides not in (1, 2) or evaluations != sides * directions.num or out.shape[0] != evaluations:
        raise ValueError(
            f"signed_eps must name one or two evaluations for each of {directions.num} directions and out as "
            f"many, got {evaluations} and out with shape {tuple(out.shape)}."
        )
    return sides


def strides(letter: str, axes: str, tensor: Tensor) -> dict[str, int]:
    """A tensor's strides as kernel arguments ``stride_`` + letter + axis."""
    return {f"stride_{letter}{axis}": stride for axis, stride in zip(axes, tensor.stride(), strict=True)}


def field_constants(directions: Directions, rank: int) -> dict[str, object]:
    """What of the field is built into a kernel."""
    return {
        "DISTRIBUTION": directions.elementwise,
        "ROUNDS": directions.rounds,
        "RANK": rank,
        "RANK_BLOCK": padded_rank(rank, directions.elementwise),
    }
