"""What one iteration of each kernel's inner loop is for: values drawn and multiply-adds, from its arguments.

A kernel that is not here has no such loop, or several of different sizes (the whole network).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from zo_triton.compilation.roofline import Work


def work_of(kernel: str, arguments: Mapping[str, Any]) -> Work | None:
    """The work of an iteration, or None.

    Args:
        kernel: Name of the Triton function.
        arguments: What its launcher passes.
    """
    rule = _RULES.get(kernel)
    return rule(arguments) if rule else None


def _products(arguments: Mapping[str, Any], drawn: bool = False) -> int:
    """How many products of the tensor cores one product is; where the other factor is drawn, signs are one part."""
    if arguments["PRECISION"] != "bf16x6":
        return 1
    return 3 if drawn and arguments["DISTRIBUTION"] == "rademacher" else 6


def _layer(arguments: Mapping[str, Any], rows: int) -> Work:
    columns, terms, sides = arguments["BLOCK_F"], arguments["BLOCK_I"], arguments["SIDES"]
    differs = arguments["HAS_DIFFERENCE"]
    of_weight, of_u = _products(arguments), _products(arguments, drawn=True)
    tile = rows * columns * terms
    return Work(columns * terms, tile * ((of_weight + of_u) * sides if differs else of_u))


def _linear(arguments: Mapping[str, Any]) -> Work:
    if arguments["RANK"]:
        # What is drawn is added behind the loop.
        tile = arguments["BLOCK_N"] * arguments["BLOCK_F"] * arguments["BLOCK_I"]
        return Work(0, tile * _products(arguments) * arguments["SIDES"] * arguments["HAS_DIFFERENCE"])
    return _layer(arguments, arguments["BLOCK_N"])


def _projection(arguments: Mapping[str, Any]) -> Work:
    sums = 1 + arguments["SIDES"] * arguments["HAS_DIFFERENCE"]
    tile = arguments["BLOCK_N"] * arguments["RANK_BLOCK"] * arguments["BLOCK_I"]
    return Work(arguments["BLOCK_I"] * arguments["RANK"], tile * _products(arguments, drawn=True) * sums)


def _convolution(arguments: Mapping[str, Any]) -> Work | None:
    rows = arguments["BLOCK_N"]
    if arguments["DEPTHWISE"]:
        # One place of the window an iteration.
        products = 2 * arguments["SIDES"] if arguments["HAS_DIFFERENCE"] else 1
        return Work(arguments["BLOCK_F"], products * rows * arguments["BLOCK_F"])
    if arguments["RANK"] and arguments["BY_TAPS"]:
        return _linear(arguments)
    if arguments["RANK"]:
        # The factors' products come on top of the layer's own.
        columns, terms, block = arguments["BLOCK_F"], arguments["BLOCK_I"], arguments["RANK_BLOCK"]
        layer = _layer({**arguments, "RANK": 0}, rows)
        values = (columns + terms) * arguments["RANK"]
        return Work(values, layer.multiply_adds + columns * terms * block)
    return _layer(arguments, rows)


def _node_layer(arguments: Mapping[str, Any]) -> Work | None:
    if arguments.get("DEPTHWISE"):
        return Work(0, arguments["BLOCK_N"] * arguments["BLOCK_F"])
    tile = arguments["BLOCK_N"] * arguments["BLOCK_F"] * arguments["BLOCK_I"]
    return Work(0, _products(arguments) * tile)


def _accumulate(arguments: Mapping[str, Any]) -> Work:
    rows, columns, rank = arguments["ROWS"], arguments["COLS"], arguments["RANK"]
    if rank:
        return Work((rows + columns) * rank, rows * columns * arguments["RANK_BLOCK"])
    return Work(rows * columns, 0)


def _gram(arguments: Mapping[str, Any]) -> Work:
    directions, elements = arguments["BLOCK_K"], arguments["ROWS"] * arguments["COLS"]
    return Work(2 * directions * elements, directions**2 * elements)


def _tile(arguments: Mapping[str, Any]) -> Work:
    return Work(arguments["ROWS"] * arguments["COLS"], 0)


def _stage(arguments: Mapping[str, Any]) -> Work:
    return Work(32 * arguments["ROWS"] * arguments["WORDS"], 0)


_RULES: dict[str, Callable[[Mapping[str, Any]], Work | None]] = {
    "_perturbed_linear_kernel": _linear,
    "_projection_kernel": _projection,
    "_perturbed_conv2d_kernel": _convolution,
    "_window_projection_kernel": _projection,
    "_node_linear_kernel": _node_layer,
    "_node_conv2d_kernel": _node_layer,
    "_accumulate_kernel": _accumulate,
    "_gram_kernel": _gram,
    "_sample_kernel": _tile,
    "_stage_kernel": _stage,
}
