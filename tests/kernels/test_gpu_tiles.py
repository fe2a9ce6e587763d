"""The tiles that launchers take on GPUs, in the interpreter, which otherwise takes tiles of its own."""

import os
from collections.abc import Iterable
from importlib import import_module

import pytest
import torch
from root_mean_square import rms

import zo_triton as zo
from zo_triton.directions import Directions
from zo_triton.kernels import convolution_tiles
from zo_triton.kernels.choices import CANDIDATES, asking, trying
from zo_triton.kernels.launch import recording
from zo_triton.opcases import ConvolutionCase, LinearCase, NodeConvolutionCase, NodeLinearCase, RandomOperands

# The package's names of these two are their launchers.
linear_tiles = import_module("zo_triton.kernels.perturbed_linear")
node_linear_tiles = import_module("zo_triton.kernels.node_linear")

NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
FLOAT, HALF = torch.float32, torch.bfloat16
WINDOW = {"samples": 3, "channels": (6, 14), "size": (5, 4), "kernel": (3, 2), "padding": (1, 1), "groups": 2}
TAPS = {**WINDOW, "samples": 6, "channels": (34, 14)}
"""Channels enough for a sum tap by tap, and positions for staged signs."""
ROWS = {"samples": 33, "inputs": 77, "outputs": 37}
"""Ragged in every direction of every tile."""

CASES = {
    "perturbed_linear": lambda **options: LinearCase(**ROWS, **options),
    "perturbed_conv2d": lambda **options: ConvolutionCase(**WINDOW, **options),
    "perturbed_conv2d by taps": lambda **options: ConvolutionCase(**TAPS, **options),
    "node_linear": lambda **options: NodeLinearCase(**ROWS, **options),
    "node_conv2d": lambda **options: NodeConvolutionCase(**WINDOW, **options),
    "node_conv2d by taps": lambda **options: NodeConvolutionCase(**TAPS, **options),
}
TABLES = {
    "perturbed_linear": (
        linear_tiles.CONFIGS, linear_tiles.TRANSPOSED, linear_tiles.INVOLVED, *linear_tiles.OVERRIDES.values(),
        linear_tiles.TENSOR_CORES, linear_tiles.SMALL_TENSOR_CORES,
    ),
    "perturbed_conv2d": (
        convolution_tiles.TERMS, {FLOAT: convolution_tiles.IN_PARTS},
        *convolution_tiles.TERMS_OVERRIDES.values(),
    ),
    "perturbed_conv2d by taps": (
        convolution_tiles.TAPS, convolution_tiles.NARROW_TAPS,
        *convolution_tiles.TAPS_OVERRIDES.values(), *convolution_tiles.SMALLER_TAPS.values(),
    ),
    "node_linear": (
        node_linear_tiles.CONFIGS, *({FLOAT: config} for config in node_linear_tiles.TENSOR_CORES.values()),
    ),
    "node_conv2d": (
        convolution_tiles.NODE_TERMS, {FLOAT: convolution_tiles.IN_PARTS},
        *convolution_tiles.NODE_TERMS_OVERRIDES.values(),
    ),
    "node_conv2d by taps": (
        convolution_tiles.NODE_TAPS, convolution_tiles.NARROW_NODE_TAPS,
        *convolution_tiles.NODE_TAPS_OVERRIDES.values(),
        *({FLOAT: config} for config in convolution_tiles.NODE_TENSOR_CORES.values()),
    ),
}  # fmt: skip
ROUNDING = {FLOAT: 1e-5, HALF: 2**-7}
"""Of the result; Gaussian draws agree to 1e-5 with float64's."""
SIZES = ("BLOCK_N", "BLOCK_F", "BLOCK_I")


def dtype_of(key) -> torch.dtype:
    """The compute dtype in the key of a table of configs."""
    return next(part for part in key if part in (FLOAT, HALF)) if isinstance(key, tuple) else key


def configs(op: str) -> Iterable:
    """Every tile that an operation's launcher may take, and every candidate for tuning.

    With one side and with two at night; by day with either in turn.
    """
    found = [(dtype_of(key), config) for table in TABLES[op] for key, config in table.items()]
    for dtype in (FLOAT, HALF):
        found += [(dtype, config) for config in CANDIDATES[op.split()[0], str(dtype).removeprefix("torch.")]]
    # Warps and stages mean nothing to the interpreter.
    sizes = ((dtype, *(config[name] for name in SIZES)) for dtype, config in found)
    for number, (dtype, *tile) in enumerate(dict.fromkeys(sizes)):
        label = "x".join(map(str, tile))
        for sides in (1, 2) if NIGHTLY else (1 + number % 2,):
            yield pytest.param(
                sides,
                op,
                dtype,
                dict(zip(SIZES, tile, strict=True)),
                id=f"{sides} {op} {str(dtype).removeprefix('torch.')} {label}",
            )


@pytest.mark.parametrize(("sides", "op", "dtype", "sizes"), [each for op in CASES for each in configs(op)])
def test_the_tiles_of_a_gpu_are_no_less_exact(sides, op, dtype, sizes):
    """Tiles decide the order of sums and nothing else."""
    real = sides == 2 and op.startswith("perturbed")
    directions = Directions(7, 3, 1, "gaussian" if real else "hadamard" if "node" in op else "rademacher")
    case = CASES[op](directions=directions, dtype=dtype, sides=sides, activation="relu")
    arguments = case.arguments(RandomOperands("cpu", 5))
    exact, results = case.exact(arguments).double(), []
    with zo.use_engine("triton"):
        with recording(), asking() as asked:
            case.run(arguments)
        for chosen in ({}, {key: {**sizes, "num_warps": 4, "num_stages": 1} for key in asked}):
            arguments[0].fill_(torch.nan)
            with trying(chosen):
                case.run(arguments)
            results.append(rms(case.result(arguments).double() - exact))
    own, found = results
    assert asked
    assert own <= ROUNDING[dtype] * rms(exact), "what is compared with must be right itself"
    assert found <= 2 * own + 1e-12
