"""Every kernel in the shapes that make different code of it, as ordinary calls on tensors that nobody reads.

A call takes a tuning config, plain data as the launchers take them, or None for the launcher's own rule.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import pairwise

import torch

from zo_triton.directions import Directions
from zo_triton.kernels.accumulate import accumulate
from zo_triton.kernels.activation import activation_difference
from zo_triton.kernels.choices import CANDIDATES, Config
from zo_triton.kernels.conv2d import launch_perturbed_conv2d
from zo_triton.kernels.cross_entropy import cross_entropy_difference
from zo_triton.kernels.field import step_on_device
from zo_triton.kernels.gram import gram
from zo_triton.kernels.launch import recording
from zo_triton.kernels.mlp import launch_mlp_differences
from zo_triton.kernels.perturbed_linear import launch_perturbed_linear
from zo_triton.kernels.rounding import stochastic_add
from zo_triton.kernels.sample import sample
from zo_triton.kernels.stage import stage
from zo_triton.kernels.windows import largest_difference


@dataclass(frozen=True)
class Variant:
    """One shape of one kernel.

    Attributes:
        kernel: The operation's name.
        call: Runs the operation with a config, or with the launcher's own for None.
        configs: Configs worth compiling beside the launcher's own.
        backends: Triton's names of those that the call makes sense on.
    """

    kernel: str
    call: Callable[[Config | None], object]
    configs: Sequence[Config] = ()
    backends: Sequence[str] = ("cuda", "hip")

    def launch(self, config: Config | None = None) -> tuple[Callable, dict[str, object]]:
        """The kernel that the call launches last, and its arguments.

        Raises:
            ValueError: The call launches nothing.
        """
        with recording() as launches:
            self.call(config)
        if not launches:
            raise ValueError(f"this call of {self.kernel} launches no kernel.")
        return launches[-1]


def _linear(
    dtype: torch.dtype,
    bits: str,
    config: Config | None,
    *,
    sides: int = 1,
    distribution: str = "rademacher",
    rank: int | None = None,
    features: int = 1024,
    first_layer: bool = False,
    activation: str = "relu",
    precision: str = "ieee",
) -> None:
    """A layer of ``features`` × 512 on 256 samples with a trained bias; 784 features leave a ragged edge."""
    directions = Directions(0, 0, 2, distribution, rank=rank)
    out = torch.empty(2 * sides, 256, 512, dtype=dtype)
    difference = None if first_layer else torch.empty(2 * sides, 256, features, dtype=dtype)
    base, before, weight = torch.empty(256, features), torch.empty(256, 512), torch.empty(512, features)
    launch_perturbed_linear(
        out, base, difference, weight, before, directions, 0, 1, torch.ones(2 * sides), activation, bits=bits,
        precision=precision, config=config,
    )  # fmt: skip


def _convolution(
    dtype: torch.dtype,
    bits: str,
    config: Config | None,
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
        [1, 1], [padding, padding], [1, 1], groups, activation, bits=bits, config=config,
    )  # fmt: skip


def _captured(config: Config | None) -> None:
    """A layer of a step in a CUDA graph: its number is read from memory."""
    with step_on_device(torch.empty(1, dtype=torch.int32)):
        _linear(torch.bfloat16, "inline", config)


def _network(
    widths: tuple[int, ...],
    sides: int,
    config: Config | None,
    *,
    precision: str = "ieee",
    squared: bool = False,
) -> None:
    """A whole network with trained biases on 128 samples, under cross-entropy or squared error."""
    target = torch.empty(128, widths[-1]) if squared else torch.zeros(128, dtype=torch.int64)
    pairs, depth = list(pairwise(widths)), len(widths) - 1
    launch_mlp_differences(
        torch.empty(2 * sides, 128), [torch.empty(128, inner) for inner, _ in pairs],
        [torch.empty(128, outer) for _, outer in pairs], [torch.empty(outer, inner) for inner, outer in pairs],
        [2 * layer for layer in range(depth)], [2 * layer + 1 for layer in range(depth)],
        ["relu"] * (depth - 1) + ["none"], target, Directions(0, 0, 2),
        torch.ones(2 * sides), 0.0, precision=precision, config=config,
    )  # fmt: skip


def _update(distribution: str, config: Config | None, *, rank: int | None = None) -> None:
    directions, tile = Directions(0, 0, 2, distribution, rank=rank), dict(config) if config else None
    accumulate([torch.empty(1024, 1024)], [0], torch.ones(2), directions, torch.float32, tile=tile)


def _gram(distribution: str, config: Config | None, *, rank: int | None = None) -> None:
    directions, out = Directions(0, 0, 32, distribution, rank=rank), torch.empty(32, 32, dtype=torch.float64)
    config = dict(config) if config else None
    gram(out, [torch.empty(1024, 1024)], [0], directions, torch.float32, config=config)


def _sample(distribution: str, config: Config | None) -> None:
    sample(torch.empty(2, 64, 64), Directions(0, 0, 2, distribution), 0, torch.float32)


def _stage(config: Config | None) -> None:
    stage(Directions(0, 0, 2), 0, 512, 1024, torch.device("cpu"))


def _rounded(dtype: torch.dtype, config: Config | None) -> None:
    stochastic_add(torch.empty(1024, 1024, dtype=dtype), torch.empty(1024, 1024), Directions(0, 0, 2), 0)


def _activation(name: str, config: Config | None) -> None:
    activation_difference(torch.empty(4, 256, 512), torch.empty(256, 512), torch.empty(4, 256, 512), name)


def _windows(config: Config | None) -> None:
    gaps, places = torch.empty(384, 9, 196), torch.zeros(9, 196, dtype=torch.int64)
    largest_difference(torch.empty(4, 384, 196), torch.empty(4, 384, 784), gaps, places)


def _cross_entropy(config: Config | None) -> None:
    target = torch.zeros(256, dtype=torch.int64)
    cross_entropy_difference(torch.empty(4, 256), torch.zeros(256, 10), torch.empty(4, 256, 10), target, 0.1)


_HALF, _SINGLE = torch.bfloat16, torch.float32
_LINEAR_HALF = CANDIDATES["perturbed_linear", "bfloat16"]
_CONVOLUTION_HALF = CANDIDATES["perturbed_conv2d", "bfloat16"]
# AMD's matrix units multiply float32 themselves.
_NVIDIA = ("cuda",)


def _linear_variant(
    dtype: torch.dtype, bits: str, configs: Sequence[Config] = (), **shape: object
) -> Variant:
    return Variant("perturbed_linear", partial(_linear, dtype, bits, **shape), configs)  # type: ignore[arg-type]


def _image_variant(dtype: torch.dtype, bits: str, configs: Sequence[Config] = (), **shape: object) -> Variant:
    return Variant("perturbed_conv2d", partial(_convolution, dtype, bits, **shape), configs)  # type: ignore[arg-type]


VARIANTS: dict[str, Variant] = {
    "linear bf16 staged": _linear_variant(_HALF, "staged", _LINEAR_HALF),
    "linear bf16 staged both sides": _linear_variant(_HALF, "staged", sides=2),
    "linear bf16 staged both sides ragged": _linear_variant(_HALF, "staged", sides=2, features=784),
    "linear bf16 staged first layer": _linear_variant(_HALF, "staged", sides=2, first_layer=True),
    "linear bf16 inline": _linear_variant(_HALF, "inline"),
    "linear bf16 inline both sides": _linear_variant(_HALF, "inline", _LINEAR_HALF, sides=2),
    "linear bf16 inline both sides ragged": _linear_variant(_HALF, "inline", sides=2, features=784),
    "linear bf16 1000 features": _linear_variant(_HALF, "staged", features=1000),
    "linear bf16 gaussian": _linear_variant(_HALF, "inline", _LINEAR_HALF, distribution="gaussian"),
    "linear bf16 gaussian both sides": _linear_variant(_HALF, "inline", sides=2, distribution="gaussian"),
    "linear bf16 gaussian gelu": _linear_variant(_HALF, "inline", distribution="gaussian", activation="gelu"),
    "linear bf16 inline captured": Variant("perturbed_linear", _captured),
    "linear bf16 rank 4": _linear_variant(_HALF, "inline", sides=2, rank=4),
    "linear fp32 inline both sides": _linear_variant(
        _SINGLE, "inline", CANDIDATES["perturbed_linear", "float32"], sides=2
    ),
    "linear fp32 gaussian": _linear_variant(_SINGLE, "inline", distribution="gaussian"),
    "linear fp32 rank 4 both sides": _linear_variant(_SINGLE, "inline", sides=2, rank=4),
    "linear tf32x3 inline": replace(_linear_variant(_SINGLE, "inline", precision="tf32x3"), backends=_NVIDIA),
    "conv bf16 staged": _image_variant(_HALF, "staged", _CONVOLUTION_HALF),
    "conv bf16 inline both sides": _image_variant(_HALF, "inline", sides=2),
    "conv bf16 staged both sides 1x1": _image_variant(_HALF, "staged", sides=2, kernel=1),
    "conv bf16 gaussian": _image_variant(_HALF, "inline", distribution="gaussian"),
    "conv bf16 gaussian both sides": _image_variant(_HALF, "inline", sides=2, distribution="gaussian"),
    "conv bf16 rank 4 both sides": _image_variant(_HALF, "inline", sides=2, rank=4),
    "conv bf16 groups of 6 gelu": _image_variant(
        _HALF, "inline", sides=2, channels=(12, 12), groups=2, activation="gelu"
    ),
    "depthwise bf16 both sides": _image_variant(_HALF, "staged", sides=2, groups=64),
    "depthwise fp32 gaussian": _image_variant(_SINGLE, "inline", groups=64, distribution="gaussian"),
    "conv fp32 inline": _image_variant(_SINGLE, "inline"),
    "conv fp32 staged both sides": _image_variant(_SINGLE, "staged", sides=2),
    "conv fp32 inline both sides": _image_variant(_SINGLE, "inline", sides=2),
    "conv fp32 gaussian both sides": _image_variant(_SINGLE, "inline", sides=2, distribution="gaussian"),
    "conv fp32 rank 4 both sides": _image_variant(_SINGLE, "inline", sides=2, rank=4),
    "conv fp32 6 to 16 channels": _image_variant(_SINGLE, "staged", sides=2, channels=(6, 16), kernel=5),
    "conv fp32 first layer": _image_variant(
        _SINGLE, "inline", sides=2, channels=(1, 6), kernel=5, first_layer=True
    ),
    "mlp 64-32-10": Variant("mlp_differences", partial(_network, (64, 32, 10), 1)),
    "mlp 784-128-128-10 both sides": Variant(
        "mlp_differences",
        partial(_network, (784, 128, 128, 10), 2),
        CANDIDATES["mlp_differences", "float32"],
    ),
    "mlp 784-128-128-10 tf32x3": Variant(
        "mlp_differences", partial(_network, (784, 128, 128, 10), 2, precision="tf32x3"), backends=_NVIDIA
    ),
    "mlp 784-100-100-10 both sides": Variant("mlp_differences", partial(_network, (784, 100, 100, 10), 2)),
    "mlp 784-128-10 squared error": Variant(
        "mlp_differences", partial(_network, (784, 128, 10), 1, squared=True)
    ),
    "mlp 784-64-64-64-10 both sides": Variant("mlp_differences", partial(_network, (784, 64, 64, 64, 10), 2)),
    "accumulate rademacher": Variant(
        "accumulate", partial(_update, "rademacher"), CANDIDATES["accumulate", "float32"]
    ),
    "accumulate gaussian": Variant("accumulate", partial(_update, "gaussian")),
    "accumulate uniform": Variant("accumulate", partial(_update, "uniform")),
    "accumulate rank 4": Variant("accumulate", partial(_update, "rademacher", rank=4)),
    "accumulate gaussian rank 4": Variant("accumulate", partial(_update, "gaussian", rank=4)),
    "gram rademacher": Variant("gram", partial(_gram, "rademacher"), CANDIDATES["gram", "float32"]),
    "gram gaussian": Variant("gram", partial(_gram, "gaussian")),
    "gram rank 4": Variant("gram", partial(_gram, "rademacher", rank=4)),
    "sample laplace": Variant("sample", partial(_sample, "laplace")),
    "sample gaussian": Variant("sample", partial(_sample, "gaussian")),
    "stage signs": Variant("stage", _stage),
    "stochastic add bf16": Variant("stochastic_add", partial(_rounded, torch.bfloat16)),
    "stochastic add fp16": Variant("stochastic_add", partial(_rounded, torch.float16)),
    "activation gelu": Variant("activation_difference", partial(_activation, "gelu")),
    "largest of 3x3": Variant("largest_difference", _windows),
    "cross entropy": Variant("cross_entropy_difference", _cross_entropy),
}
"""From a variant's name to it; the operation's options are in the name."""
