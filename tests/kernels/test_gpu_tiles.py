"""The tiles that launchers take on GPUs, in the interpreter, which otherwise takes tiles of its own."""

from collections.abc import Iterable
from importlib import import_module

import pytest
import torch

import zo_triton as zo
from zo_triton.directions import Directions
from zo_triton.kernels.choices import CANDIDATES, asking, trying
from zo_triton.kernels.launch import recording
from zo_triton.opcases import ConvolutionCase, LinearCase, NodeConvolutionCase, NodeLinearCase, RandomOperands

FLOAT, HALF = torch.float32, torch.bfloat16
WINDOW = {"samples": 3, "channels": (6, 14), "size": (5, 4), "kernel": (3, 2), "padding": (1, 1), "groups": 2}
ROWS = {"samples": 33, "inputs": 77, "outputs": 37}
"""Ragged in every direction of every tile."""

CASES = {
    "perturbed_linear": lambda **options: LinearCase(**ROWS, **options),
    "perturbed_conv2d": lambda **options: ConvolutionCase(**WINDOW, **options),
    "node_linear": lambda **options: NodeLinearCase(**ROWS, **options),
    "node_conv2d": lambda **options: NodeConvolutionCase(**WINDOW, **options),
}
MODULES = {
    "perturbed_linear": "perturbed_linear", "perturbed_conv2d": "conv2d", "node_linear": "node_linear",
    "node_conv2d": "node_conv2d",
}  # fmt: skip
SIZES = ("BLOCK_N", "BLOCK_F", "BLOCK_I")


def dtype_of(key) -> torch.dtype:
    """The compute dtype in the key of a table of configs."""
    return next(part for part in key if part in (FLOAT, HALF)) if isinstance(key, tuple) else key


def configs(op: str) -> Iterable:
    """Every tile that an operation's launcher may take, and every candidate for tuning, once each."""
    module = import_module(f"zo_triton.kernels.{MODULES[op]}")
    single = (
        getattr(module, name, {}) for name in ("TRANSPOSED", "INVOLVED", "TENSOR_CORES", "SMALL_TENSOR_CORES")
    )
    others = (*getattr(module, "OVERRIDES", {}).values(), *single)
    found = [(dtype_of(key), config) for table in (module.CONFIGS, *others) for key, config in table.items()]
    for dtype in (FLOAT, HALF):
        found += [(dtype, config) for config in CANDIDATES[op, str(dtype).removeprefix("torch.")]]
    # Warps and stages mean nothing to the interpreter.
    sizes = ((dtype, *(config[name] for name in SIZES)) for dtype, config in found)
    for dtype, *tile in dict.fromkeys(sizes):
        label = "x".join(map(str, tile))
        yield pytest.param(
            op,
            dtype,
            dict(zip(SIZES, tile, strict=True)),
            id=f"{op} {str(dtype).removeprefix('torch.')} {label}",
        )


def rms(tensor):
    return tensor.square().mean().sqrt()


@pytest.mark.parametrize(("op", "dtype", "sizes"), [each for op in CASES for each in configs(op)])
@pytest.mark.parametrize("sides", [1, 2])
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
    assert found <= 2 * own + 1e-12
