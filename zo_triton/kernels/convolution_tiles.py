"""Which tiles a perturbed convolution takes, by how it sums: plain data, and the rules that pick from it.

``taps`` is the sum tap by tap (:mod:`zo_triton.kernels.tap_products`), ``terms`` the one through the field's
columns (:mod:`zo_triton.kernels.window_products`), ``depthwise`` is for one input channel a group. Tiles are
positions × channels out × terms, or channels in; then warps and stages. They are those that the static model bounds
least among what compiles without spilling a register; none has been timed yet.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch

from zo_triton.kernels.launch import power_of_two
from zo_triton.kernels.layer import tiles
from zo_triton.kernels.numeric import INTERPRETED

HALF, SINGLE = torch.bfloat16, torch.float32

TERMS = {
    (1, HALF): tiles(128, 64, 32, 8, 2),
    (2, HALF): tiles(128, 64, 32, 8, 2),
    (1, SINGLE): tiles(64, 64, 32, 8, 1),
    (2, SINGLE): tiles(32, 32, 32, 8, 1),
}
"""By sides and compute dtype."""

IN_PARTS = tiles(32, 32, 32, 8, 1)
"""Of the same sum where float32 numbers are taken apart for NVIDIA's tensor cores."""

TERMS_OVERRIDES = {
    "sm_80": {(2, HALF): tiles(64, 64, 32, 8, 2)},
    # With two stages ptxas takes eight bytes of stack there, and more clocks.
    "sm_100": {
        (1, HALF): tiles(128, 64, 32, 8, 1),
        (2, HALF): tiles(128, 64, 32, 8, 1),
        # In larger ones Triton 3.6 has the tensor cores multiply float32 numbers, in TF32.
        (1, SINGLE): tiles(32, 32, 32, 8, 1),
    },
    "gfx942": dict.fromkeys([(1, HALF), (2, HALF)], tiles(64, 64, 32, 8, 1)),
}
"""Chips that the configs above don't fit."""

TAPS = {
    (1, HALF, "signs"): tiles(128, 128, 64, 8, 3),
    (2, HALF, "signs"): tiles(128, 128, 64, 8, 3),
    (1, HALF, "real"): tiles(256, 64, 32, 4, 3),
    (2, HALF, "real"): tiles(128, 64, 32, 4, 3),
    (1, SINGLE, "signs"): tiles(64, 128, 32, 4, 1),
    (2, SINGLE, "signs"): tiles(32, 128, 32, 4, 2),
    (1, SINGLE, "real"): tiles(64, 64, 32, 4, 1),
    (2, SINGLE, "real"): tiles(64, 64, 32, 4, 1),
    (1, HALF, "low_rank"): tiles(256, 128, 64, 8, 3),
    (2, HALF, "low_rank"): tiles(128, 128, 64, 8, 3),
    (1, SINGLE, "low_rank"): tiles(64, 128, 32, 4, 2),
    (2, SINGLE, "low_rank"): tiles(64, 64, 32, 4, 2),
    (1, SINGLE, "ieee"): tiles(64, 64, 32, 4, 1),
    (2, SINGLE, "ieee"): tiles(64, 64, 32, 8, 1),
    (1, SINGLE, "low_rank ieee"): tiles(64, 64, 32, 4, 1),
    (2, SINGLE, "low_rank ieee"): tiles(32, 64, 32, 8, 1),
}
"""By sides, compute dtype and what U's values are, or that it is no factor of the sum but of low rank; ``ieee``:
float32 without NVIDIA's tensor cores."""

NARROW_TAPS = {
    (1, HALF, "signs"): tiles(128, 64, 64, 4, 2),
    (2, HALF, "signs"): tiles(64, 64, 64, 4, 3),
    (1, SINGLE, "signs"): tiles(64, 64, 32, 4, 1),
    (2, SINGLE, "signs"): tiles(64, 64, 32, 4, 1),
}
"""Of up to 64 channels out: a tile of more would be half empty."""

TAPS_OVERRIDES = {
    "sm_80": {
        (1, HALF, "signs"): tiles(64, 128, 64, 8, 3),
        (2, HALF, "signs"): tiles(64, 128, 32, 8, 3),
        (1, HALF, "real"): tiles(128, 64, 32, 8, 3),
        (2, HALF, "real"): tiles(64, 64, 32, 8, 3),
        (1, SINGLE, "signs"): tiles(32, 128, 32, 4, 2),
        (2, SINGLE, "signs"): tiles(32, 128, 32, 4, 2),
        (2, SINGLE, "real"): tiles(32, 64, 32, 4, 1),
        (2, SINGLE, "ieee"): tiles(32, 32, 32, 8, 1),
        (1, HALF, "low_rank"): tiles(128, 128, 32, 8, 3),
        (2, HALF, "low_rank"): tiles(64, 128, 32, 8, 3),
        (1, SINGLE, "low_rank"): tiles(32, 64, 32, 4, 2),
        (2, SINGLE, "low_rank"): tiles(32, 64, 32, 4, 2),
    },
    "sm_100": {
        (2, HALF, "signs"): tiles(64, 128, 64, 8, 3),
        (1, SINGLE, "signs"): tiles(64, 128, 32, 4, 2),
        (2, SINGLE, "signs"): tiles(64, 128, 32, 4, 2),
        (1, SINGLE, "real"): tiles(64, 64, 32, 4, 2),
        (2, SINGLE, "real"): tiles(64, 64, 32, 4, 2),
    },
    "gfx942": {
        **dict.fromkeys(
            [(sides, HALF, source) for sides in (1, 2) for source in ("signs", "real")],
            tiles(64, 64, 32, 8, 1),
        ),
        (1, HALF, "low_rank"): tiles(128, 128, 64, 8, 2),
        (2, HALF, "low_rank"): tiles(64, 128, 64, 8, 2),
    },
}
"""Chips that those don't fit."""

SMALLER_TAPS = {
    "sm_100": {(2, SINGLE, "signs"): tiles(32, 128, 32, 4, 2)},
}
"""By chip, in TF32 and before an activation whose intermediates take many registers: those above spill there."""

NODE_TERMS = {HALF: tiles(128, 64, 32, 8, 2), SINGLE: tiles(64, 64, 32, 8, 1)}
NODE_TERMS_OVERRIDES = {
    # With two stages ptxas takes eight bytes of stack there.
    "sm_100": {HALF: tiles(128, 64, 32, 8, 1)},
}
NODE_TAPS = {HALF: tiles(128, 128, 64, 8, 3), SINGLE: tiles(64, 64, 32, 4, 1)}
NARROW_NODE_TAPS = {HALF: tiles(128, 64, 64, 8, 3)}
NODE_TAPS_OVERRIDES = {"gfx942": {HALF: tiles(64, 64, 32, 8, 1)}}
"""The same where outputs are perturbed, by compute dtype."""

NODE_TENSOR_CORES = {
    "sm_80": tiles(32, 128, 32, 4, 2),
    "sm_100": tiles(128, 128, 32, 8, 2),
    "": tiles(64, 128, 32, 4, 2),
}
"""Of float32 operands that NVIDIA's tensor cores multiply tap by tap, by chip."""

DEPTHWISE = tiles(64, 16, 32, 4, 1)

INTERPRETED_TILES = {
    "taps": tiles(128, 32, 32, 4, 1),
    "terms": tiles(128, 32, 64, 4, 1),
    "depthwise": tiles(128, 16, 32, 4, 1),
}
"""In Triton's interpreter."""

FEWEST_INPUTS = 16
"""Channels in of a group that a tap's tile is worth: what a dot asks for."""

SIMPLE = ("none", "relu")
"""Activations whose differences take few registers."""

NARROW = 64
FEWEST_OUTPUTS = {"taps": 64, "terms": 16, "depthwise": 16}
"""Channels out of a tile: a dot asks for 16, Hopper's tensor cores for 64 rows of a left factor."""

TERMS_ONLY = {("sm_100", SINGLE, "ieee")}
"""Chips, dtypes and precisions without a sum tap by tap: its tiles spill, or Triton 3.6 takes TF32 unasked."""


def order_of(
    weight: torch.Size,
    groups: int,
    dtype: torch.dtype,
    chip: str,
    precision: str = "ieee",
    only_terms: bool = False,
) -> str:
    """How a convolution sums: ``"taps"``, ``"terms"`` or ``"depthwise"``.

    Args:
        weight: Its shape, [O, C / groups, kernel height, kernel width].
        groups: Into which the channels fall.
        dtype: The compute dtype.
        chip: Its name.
        precision: How float32 operands are multiplied.
        only_terms: U is to be had in the field's order alone.
    """
    if groups > 1 and weight[1] == 1:
        return "depthwise"
    few = weight[1] < FEWEST_INPUTS
    return "terms" if only_terms or few or (chip, dtype, precision) in TERMS_ONLY else "taps"


def precision_in(order: str, precision: str, source: str) -> str:
    """How an order of the sum multiplies float32 operands, when it is asked for a precision.

    Term by term the parts of real values take registers that the images' own leave in few tiles (for low rank with
    both sides in none that was tried), so that such a layer takes the chip's own float32 products.

    Args:
        order: From :func:`order_of`.
        precision: Of :mod:`zo_triton.kernels.precision`.
        source: ``"signs"`` or ``"real"``, what U's values are.
    """
    return "ieee" if order == "terms" and precision == "bf16x6" and source == "real" else precision


def perturbed_tiles(
    order: str,
    sides: int,
    dtype: torch.dtype,
    source: str,
    outputs: int,
    chip: str,
    precision: str = "ieee",
    activation: str = "none",
) -> Mapping[str, int]:
    """Of :mod:`zo_triton.kernels.conv2d`, unless the caller says.

    Args:
        order: From :func:`order_of`.
        sides: Of each direction.
        dtype: The compute dtype.
        source: ``"signs"`` or ``"real"``, what U's values are, or ``"low_rank"``.
        outputs: Channels out of a group.
        chip: Its name.
        precision: How float32 operands are multiplied.
        activation: That follows.
    """
    if INTERPRETED:
        return INTERPRETED_TILES[order]
    if order == "depthwise":
        return DEPTHWISE
    if order == "terms":
        if precision == "bf16x6":
            return IN_PARTS
        # The overrides of float32 are for products that must not be TF32; it spills in them.
        overrides = {} if precision == "tf32" else TERMS_OVERRIDES.get(chip, {})
        return {**TERMS, **overrides}[sides, dtype]
    narrow = NARROW_TAPS if outputs <= NARROW else {}
    kind = source
    if dtype == SINGLE and precision == "ieee":
        kind = "low_rank ieee" if source == "low_rank" else "ieee"
    smaller = SMALLER_TAPS.get(chip, {}) if precision == "tf32" or activation not in SIMPLE else {}
    return {**TAPS, **narrow, **TAPS_OVERRIDES.get(chip, {}), **smaller}[sides, dtype, kind]


def node_tiles(
    order: str,
    dtype: torch.dtype,
    outputs: int,
    chip: str,
    precision: str = "ieee",
    activation: str = "none",
) -> Mapping[str, int]:
    """Of :mod:`zo_triton.kernels.node_conv2d`, as :func:`perturbed_tiles`.

    An involved activation takes the narrow tiles: beside wide ones its intermediates don't fit the registers.
    """
    if INTERPRETED:
        return INTERPRETED_TILES[order]
    if order == "depthwise":
        return DEPTHWISE
    if order == "terms":
        own = {**NODE_TERMS, **NODE_TERMS_OVERRIDES.get(chip, {})}
        return IN_PARTS if precision == "bf16x6" else own[dtype]
    if dtype == SINGLE and precision != "ieee":
        return NODE_TENSOR_CORES.get(chip, NODE_TENSOR_CORES[""])
    narrow = NARROW_NODE_TAPS if outputs <= NARROW or activation not in SIMPLE else {}
    return {**NODE_TAPS, **narrow, **NODE_TAPS_OVERRIDES.get(chip, {})}[dtype]


def no_wider(
    config: Mapping[str, int], order: str, channels: int, dtype: torch.dtype, precision: str = "ieee"
) -> dict[str, int]:
    """A config with no more channels a tile than a group has use for."""
    fewest = FEWEST_OUTPUTS["terms" if dtype == SINGLE and precision == "ieee" else order]
    wanted = max(fewest, power_of_two(channels))
    return {**config, "BLOCK_F": min(config["BLOCK_F"], wanted)}
