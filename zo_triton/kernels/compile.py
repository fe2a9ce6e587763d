"""Static figures of the kernels: compiled for a GPU that need not be there, read from the machine code.

``python -m zo_triton.kernels.compile`` prints one JSON object a line. A variant is an ordinary call of an
operation on tensors nobody reads; what its launcher would have passed decides what is compiled.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from itertools import pairwise

import torch
import triton
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zo_triton.directions import Directions
from zo_triton.kernels.accumulate import accumulate
from zo_triton.kernels.activation import activation_difference
from zo_triton.kernels.conv2d import launch_perturbed_conv2d
from zo_triton.kernels.cross_entropy import cross_entropy_difference
from zo_triton.kernels.gram import gram
from zo_triton.kernels.launch import recording
from zo_triton.kernels.mlp import launch_mlp_differences
from zo_triton.kernels.perturbed_linear import launch_perturbed_linear
from zo_triton.kernels.sample import sample

TARGET = GPUTarget("cuda", 90, 32)
POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
}


def _linear(
    dtype: torch.dtype,
    bits: str,
    *,
    sides: int = 1,
    distribution: str = "rademacher",
    rank: int | None = None,
    features: int = 1024,
    first_layer: bool = False,
    activation: str = "relu",
) -> None:
    """A layer of ``features`` × 512 on 256 samples with a trained bias; 784 features leave a ragged edge."""
    directions = Directions(0, 0, 2, distribution, rank=rank)
    out = torch.empty(2 * sides, 256, 512, dtype=dtype)
    difference = None if first_layer else torch.empty(2 * sides, 256, features, dtype=dtype)
    base, before, weight = torch.empty(256, features), torch.empty(256, 512), torch.empty(512, features)
    epsilons = torch.ones(2 * sides)
    launch_perturbed_linear(
        out, base, difference, weight, before, directions, 0, 1, epsilons, activation, bits=bits
    )


def _convolution(
    dtype: torch.dtype,
    bits: str,
    *,
    sides: int = 1,
    channels: tuple[int, int] = (64, 64),
    kernel: int = 3,
    groups: int = 1,
    distribution: str = "rademacher",
    rank: int | None = None,
    first_layer: bool = False,
    activation: str = "relu",
) -> None:
    """A padded layer on 8 samples of 28 × 28 with a trained bias."""
    directions, padding = Directions(0, 0, 2, distribution, rank=rank), kernel // 2
    inputs, outputs = channels
    base, before = torch.empty(8, inputs, 28, 28), torch.empty(8, outputs, 28, 28)
    difference = None if first_layer else torch.empty(2 * sides, *base.shape, dtype=dtype)
    launch_perturbed_conv2d(
        torch.empty(2 * sides, *before.shape, dtype=dtype), base, difference,
        torch.empty(outputs, inputs // groups, kernel, kernel), before, directions, 0, 1, torch.ones(2 * sides),
        [1, 1], [padding, padding], [1, 1], groups, activation, bits=bits,
    )  # fmt: skip


def _network(widths: tuple[int, ...], sides: int) -> None:
    """A whole network with trained biases on 128 samples."""
    pairs, depth = list(pairwise(widths)), len(widths) - 1
    launch_mlp_differences(
        torch.empty(2 * sides, 128), [torch.empty(128, inner) for inner, _ in pairs],
        [torch.empty(128, outer) for _, outer in pairs], [torch.empty(outer, inner) for inner, outer in pairs],
        [2 * layer for layer in range(depth)], [2 * layer + 1 for layer in range(depth)],
        ["relu"] * (depth - 1) + ["none"], torch.zeros(128, dtype=torch.int64), Directions(0, 0, 2),
        torch.ones(2 * sides), 0.0,
    )  # fmt: skip


def _update(distribution: str, rank: int | None = None) -> None:
    directions = Directions(0, 0, 2, distribution, rank=rank)
    accumulate([torch.empty(1024, 1024)], [0], torch.ones(2), directions, torch.float32)


def _gram(distribution: str) -> None:
    out = torch.empty(32, 32, dtype=torch.float64)
    gram(out, [torch.empty(1024, 1024)], [0], Directions(0, 0, 32, distribution), torch.float32)


def _activation(name: str) -> None:
    activation_difference(torch.empty(4, 256, 512), torch.empty(256, 512), torch.empty(4, 256, 512), name)


def _cross_entropy() -> None:
    target = torch.zeros(256, dtype=torch.int64)
    cross_entropy_difference(torch.empty(4, 256), torch.zeros(256, 10), torch.empty(4, 256, 10), target, 0.1)


_HALF, _SINGLE = torch.bfloat16, torch.float32
VARIANTS: dict[str, Callable[[], None]] = {
    "linear bf16 staged": partial(_linear, _HALF, "staged"),
    "linear bf16 staged both sides ragged": partial(_linear, _HALF, "staged", sides=2, features=784),
    "linear bf16 staged first layer": partial(_linear, _HALF, "staged", sides=2, first_layer=True),
    "linear bf16 inline": partial(_linear, _HALF, "inline"),
    "linear bf16 inline both sides ragged": partial(_linear, _HALF, "inline", sides=2, features=784),
    "linear bf16 1000 features": partial(_linear, _HALF, "staged", features=1000),
    "linear bf16 gaussian gelu": partial(
        _linear, _HALF, "inline", distribution="gaussian", activation="gelu"
    ),
    "linear bf16 rank 4": partial(_linear, _HALF, "inline", sides=2, rank=4),
    "linear fp32 inline both sides": partial(_linear, _SINGLE, "inline", sides=2),
    "linear fp32 gaussian": partial(_linear, _SINGLE, "inline", distribution="gaussian"),
    "linear fp32 rank 4 both sides": partial(_linear, _SINGLE, "inline", sides=2, rank=4),
    "conv bf16 staged": partial(_convolution, _HALF, "staged"),
    "conv bf16 inline both sides": partial(_convolution, _HALF, "inline", sides=2),
    "conv bf16 staged both sides 1x1": partial(_convolution, _HALF, "staged", sides=2, kernel=1),
    "conv bf16 gaussian": partial(_convolution, _HALF, "inline", distribution="gaussian"),
    "depthwise bf16 both sides": partial(_convolution, _HALF, "staged", sides=2, groups=64),
    "conv bf16 groups of 6 gelu": partial(
        _convolution, _HALF, "inline", sides=2, channels=(12, 12), groups=2, activation="gelu"
    ),
    "depthwise fp32 gaussian": partial(_convolution, _SINGLE, "inline", groups=64, distribution="gaussian"),
    "conv fp32 inline": partial(_convolution, _SINGLE, "inline"),
    "conv fp32 staged both sides": partial(_convolution, _SINGLE, "staged", sides=2),
    "conv fp32 inline both sides": partial(_convolution, _SINGLE, "inline", sides=2),
    "conv fp32 gaussian both sides": partial(
        _convolution, _SINGLE, "inline", sides=2, distribution="gaussian"
    ),
    "conv bf16 gaussian both sides": partial(_convolution, _HALF, "inline", sides=2, distribution="gaussian"),
    "conv fp32 rank 4 both sides": partial(_convolution, _SINGLE, "inline", sides=2, rank=4),
    "conv bf16 rank 4 both sides": partial(_convolution, _HALF, "inline", sides=2, rank=4),
    "conv fp32 6 to 16 channels": partial(
        _convolution, _SINGLE, "staged", sides=2, channels=(6, 16), kernel=5
    ),
    "conv fp32 first layer": partial(
        _convolution, _SINGLE, "inline", sides=2, channels=(1, 6), kernel=5, first_layer=True
    ),
    "mlp 64-32-10": partial(_network, (64, 32, 10), 1),
    "mlp 784-128-128-10 both sides": partial(_network, (784, 128, 128, 10), 2),
    "mlp 784-64-64-64-10 both sides": partial(_network, (784, 64, 64, 64, 10), 2),
    "accumulate rademacher": partial(_update, "rademacher"),
    "accumulate gaussian": partial(_update, "gaussian"),
    "accumulate rank 4": partial(_update, "rademacher", rank=4),
    "accumulate gaussian rank 4": partial(_update, "gaussian", rank=4),
    "gram rademacher": partial(_gram, "rademacher"),
    "gram gaussian": partial(_gram, "gaussian"),
    "sample laplace": lambda: sample(torch.empty(2, 64, 64), Directions(0, 0, 2, "laplace"), 0, _SINGLE),
    "activation gelu": partial(_activation, "gelu"),
    "cross entropy": _cross_entropy,
}


def figures(name: str) -> dict[str, object]:
    """Compiles a variant's main kernel (the last one its call launches) for sm_90.

    Returns:
        The variant's name and kernel, registers a thread, shared memory and stack in bytes, the numbers of
        local-memory instructions (spills) and of warpgroup matrix instructions in the machine code.

    Raises:
        RuntimeError: The process runs Triton's interpreter, whose kernels can't be compiled.
    """
    if knobs.runtime.interpret:
        raise RuntimeError("kernels can't be compiled under TRITON_INTERPRET=1; unset it for this process.")
    with recording() as launches:
        VARIANTS[name]()
    kernel, arguments = launches[-1]
    compiled = triton.compile(*_source(kernel, arguments))
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run(knobs.nvidia.cuobjdump.path, "--dump-resource-usage", file.name)
        code = _run(knobs.nvidia.nvdisasm.path, "-c", file.name)
    return {
        "variant": name,
        "kernel": kernel.__name__,
        "registers": int(re.search(r"REG:(\d+)", usage)[1]),  # type: ignore[index]
        "shared": compiled.metadata.shared,
        "stack": int(re.search(r"STACK:(\d+)", usage)[1]),  # type: ignore[index]
        "spills": len(re.findall(r"\b(?:LDL|STL)\b", code)),
        "wgmma": code.count("HGMMA"),
    }


def _source(kernel: Callable, arguments: dict[str, object]) -> tuple[ASTSource, GPUTarget, dict[str, object]]:
    """What Triton's own launcher would compile for these arguments: ones and constants are built in."""
    signature: dict[str, object] = {}
    constants: dict[tuple[int, ...], object] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for parameter in kernel.params:
        value, position = arguments[parameter.name], (parameter.num,)
        if isinstance(value, tuple) and not parameter.is_constexpr:
            signature[parameter.name] = tuple(POINTERS[tensor.dtype] for tensor in value)
            for index in range(len(value)):
                attributes[(*position, index)] = [["tt.divisibility", 16]]
        elif isinstance(value, Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            attributes[position] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or (value == 1 and not parameter.do_not_specialize):
            signature[parameter.name] = "constexpr"
            constants[position] = value
        else:
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i32"
            if isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize:
                attributes[position] = [["tt.divisibility", 16]]
    options = {name: value for name, value in arguments.items() if name not in signature}
    return ASTSource(kernel, signature, constants, attributes), TARGET, options


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


if __name__ == "__main__":
    for variant in sys.argv[1:] or VARIANTS:
        sys.stdout.write(json.dumps(figures(variant)) + "\n")
