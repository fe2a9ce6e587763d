"""Layers whose outputs are perturbed, against float64: signs bit for bit, products as those of the other layers."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from benchmarks.gpu.layer_checks import WHOLE_ERROR
from benchmarks.gpu.trial import Check, Trial, relative_error, share_of_unequal
from benchmarks.timing import round_digits
from zo_triton import reference
from zo_triton.opcases import (
    Arguments,
    NodeConvolutionCase,
    NodeEpilogueCase,
    NodeGradientCase,
    NodeLinearCase,
    NodeNetworkCase,
    NodeSampleCase,
)
from zo_triton.opcases.nodes import NodeLayerCase

FLOAT, HALF = torch.float32, torch.bfloat16
GRADIENT_ERROR = 1e-6
"""Of a sum over directions in float32, relative to the largest."""

Run = Callable[[Trial], tuple[float, float]]
Make = Callable[..., NodeLayerCase]

LINEAR: Make = partial(NodeLinearCase, samples=33, inputs=77, outputs=37)
TOKENS: Make = partial(NodeLinearCase, samples=11, rows=3, inputs=77, outputs=37)
ALIGNED: Make = partial(NodeLinearCase, samples=256, inputs=512, outputs=256)
SMALL: Make = partial(NodeLinearCase, samples=64, inputs=64, outputs=64)
"""As for the other layers: ragged, and whole tiles, of the interpreter too."""

CONVOLUTION: Make = partial(
    NodeConvolutionCase, samples=3, channels=(6, 14), size=(11, 13), kernel=(3, 2), stride=(1, 2), padding=(1, 2),
    dilation=(2, 1), groups=2,
)  # fmt: skip
DEPTHWISE: Make = partial(
    NodeConvolutionCase, samples=2, channels=(10, 10), size=(7, 7), padding=(1, 1), groups=10
)


def _products(make: Make, distribution: str, dtype: torch.dtype, sides: int = 1) -> Run:
    """Without an activation: at most twice as far off as torch's own in the same dtype, the noise given."""

    def run(trial: Trial) -> tuple[float, float]:
        case = (SMALL if make is ALIGNED and trial.tiny else make)(
            directions=trial.directions(distribution), dtype=dtype, sides=sides, activation="none"
        )
        arguments = case.arguments(trial.operands)
        exact = case.exact(arguments)
        theirs = _rms(_by_torch(case, arguments, trial.device) - exact) / _rms(exact)
        ours = _rms(trial.run(case, arguments).cpu().double() - exact) / _rms(exact)
        return ours.nan_to_num(nan=float("inf")).item(), round_digits(2 * theirs.item(), 3)

    return run


def _by_torch(case: NodeLayerCase, arguments: Arguments, device: torch.device) -> Tensor:
    """δW + sε·ξ by torch in the case's dtype, on a device; the result in float64 on the CPU."""
    out, difference, weight, *others = arguments
    noise = torch.empty(out.shape, dtype=torch.float64)
    getattr(reference, case.op)(noise, torch.zeros_like(difference), weight, *others)
    w = weight.to(device, case.dtype)
    products = torch.stack([case.product(delta.to(device), w) for delta in difference])
    return (products + noise.to(device, case.dtype)).double().cpu()


def _finished(make: Make, activation: str) -> Run:
    """With an activation, in float32."""

    def run(trial: Trial) -> tuple[float, float]:
        case = make(directions=trial.directions("hadamard"), sides=2, activation=activation)
        return relative_error(*trial.compare(case)), WHOLE_ERROR

    return run


def _sample(distribution: str) -> Run:
    def run(trial: Trial) -> tuple[float, float]:
        case = NodeSampleCase(directions=trial.directions(distribution), samples=37, positions=67)
        return share_of_unequal(*trial.compare(case)), 0.0

    return run


def _epilogue(trial: Trial) -> tuple[float, float]:
    case = NodeEpilogueCase(
        directions=trial.directions("hadamard"), samples=37, positions=67, sides=2, activation="gelu"
    )
    return relative_error(*trial.compare(case)), WHOLE_ERROR


def _gradient(distribution: str, tokens: int) -> Run:
    def run(trial: Trial) -> tuple[float, float]:
        directions = trial.directions(distribution)
        if directions.order is not None and not trial.tiny:
            directions = replace(directions, num=100, order=128)
        case = NodeGradientCase(directions=directions, samples=37, positions=67 * tokens, tokens=tokens)
        return relative_error(*trial.compare(case)), GRADIENT_ERROR

    return run


def _network(squared: bool, sides: int) -> Run:
    """A network of four layers in one launch."""

    def run(trial: Trial) -> tuple[float, float]:
        case = NodeNetworkCase(
            directions=trial.directions("hadamard"), widths=(65, 37, 13, 67, 40), samples=17, sides=sides,
            activation="gelu", squared=squared,
        )  # fmt: skip
        return relative_error(*trial.compare(case)), WHOLE_ERROR

    return run


def _rms(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()


_linear = partial(Check, "node_linear")
_image = partial(Check, "node_conv2d")
_whole = partial(Check, "node_mlp_differences")

NODES = (
    Check("node_sample", "orthogonal signs", FLOAT, _sample("hadamard")),
    Check("node_sample", "independent signs", FLOAT, _sample("rademacher")),
    Check("node_epilogue", "both sides, GELU", FLOAT, _epilogue),
    _linear("orthogonal signs", FLOAT, _products(LINEAR, "hadamard", FLOAT)),
    _linear("orthogonal signs, both sides, bfloat16", HALF, _products(LINEAR, "hadamard", HALF, sides=2)),
    _linear("independent signs, bfloat16", HALF, _products(LINEAR, "rademacher", HALF)),
    _linear("whole tiles, bfloat16", HALF, _products(ALIGNED, "hadamard", HALF)),
    _linear("three rows a sample, bfloat16", HALF, _products(TOKENS, "hadamard", HALF)),
    _linear("tanh", FLOAT, _finished(LINEAR, "tanh")),
    _image("groups, strides", FLOAT, _products(CONVOLUTION, "hadamard", FLOAT)),
    _image("both sides, bfloat16", HALF, _products(CONVOLUTION, "hadamard", HALF, sides=2)),
    _image("depthwise, bfloat16", HALF, _products(DEPTHWISE, "hadamard", HALF)),
    _image("SiLU", FLOAT, _finished(CONVOLUTION, "silu")),
    Check("node_gradient", "orthogonal signs", FLOAT, _gradient("hadamard", 1)),
    Check("node_gradient", "of tokens", FLOAT, _gradient("hadamard", 3)),
    Check("node_gradient", "independent signs", FLOAT, _gradient("rademacher", 1)),
    _whole("cross-entropy, both sides", FLOAT, _network(False, 2)),
    _whole("squared error", FLOAT, _network(True, 1)),
)
