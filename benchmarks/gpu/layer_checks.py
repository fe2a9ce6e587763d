"""The fused layers against float64: products at most twice as far off as torch's own in the same dtype."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from math import prod
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.trial import Check, Trial, relative_error
from benchmarks.timing import round_digits
from zo_triton import reference
from zo_triton.directions import Directions
from zo_triton.ops.registry import call
from zo_triton.reference.operations import ACTIVATIONS

FLOAT, HALF = torch.float32, torch.bfloat16
WHOLE_ERROR = 2e-6
"""Of a float32 layer with bias and activation, and of a whole network's loss, relative to the largest value."""

Run = Callable[[Trial], tuple[float, float]]
Product = Callable[[Tensor, Tensor], Tensor]
Shapes = tuple[tuple[int, ...], tuple[int, ...]]
LINEAR = ((33, 77), (37, 77))
"""Shapes of input and weight: a row past a tile, features that no block divides, a prime number of outputs."""

ALIGNED, SMALL = ((256, 512), (256, 512)), ((64, 64), (64, 64))
"""Whole tiles, and whole tiles of the interpreter."""

CONVOLUTION = ((3, 6, 11, 13), (14, 3, 3, 2))
STRIDE, PADDING, DILATION, GROUPS = (1, 2), (1, 2), (2, 1), 2


class _Layer:
    """One call's operands, on the CPU."""

    def __init__(
        self,
        trial: Trial,
        shapes: Shapes,
        directions: Directions,
        dtype: torch.dtype,
        sides: int,
        first: bool,
    ) -> None:
        self.trial, self.directions, self.dtype, self.sides = trial, directions, dtype, sides
        inputs, weights = shapes
        self.base, self.weight = trial.normal(*inputs), trial.normal(*weights) / prod(weights[1:]) ** 0.5
        evaluations = sides * directions.num
        self.difference = None if first else (1e-3 * trial.normal(evaluations, *inputs)).to(dtype)
        self.epsilon = 1e-3 * torch.tensor([1.0, -0.9] if sides == 2 else [0.7]).repeat(directions.num)
        self.is_convolution = len(weights) == 4
        self.product: Product = F.linear
        if self.is_convolution:
            self.product = partial(F.conv2d, stride=STRIDE, padding=PADDING, dilation=DILATION, groups=GROUPS)
        self.before = trial.normal(*self.product(self.base, self.weight).shape)

    def run(self, bias_id: int, activation: str) -> Tensor:
        """The kernel's result."""
        place = self.trial.place
        out = self.trial.poisoned(len(self.epsilon), *self.before.shape, dtype=self.dtype)
        operands = [place(one) for one in (self.base, self.difference, self.weight, self.before)]
        ids = (self.directions, 0, bias_id, place(self.epsilon))
        if self.is_convolution:
            window = [list(pair) for pair in (STRIDE, PADDING, DILATION)]
            arguments = (*operands, *ids, *window, GROUPS, activation)
            call("perturbed_conv2d", self.trial.device, out, *arguments)
        else:
            call("perturbed_linear", self.trial.device, out, *operands, *ids, activation)
        return out

    def field(self, tensor_id: int, shape: tuple[int, ...]) -> Tensor:
        """[P, *shape] float64, rounded as the compute dtype asks."""
        z = torch.empty(self.directions.num, *shape, dtype=torch.float64)
        reference.sample(z, self.directions, tensor_id, self.dtype)
        return z.repeat_interleave(self.sides, dim=0)

    def products(self, dtype: torch.dtype, device: torch.device) -> Tensor:
        """δW + ε(a+δ)U by torch in a dtype, on a device; the result in float64 on the CPU."""
        base, weight = self.base.to(device, dtype), self.weight.to(device, dtype)
        result = []
        for p, u in enumerate(self.field(0, tuple(self.weight.shape))):
            step = self.epsilon[p].to(device, dtype)
            if self.difference is None:
                result.append(step.double() * self.product(base, u.to(device, dtype)).double())
                continue
            delta = self.difference[p].to(device, dtype)
            moved = step * (base + delta)
            result.append((self.product(delta, weight) + self.product(moved, u.to(device, dtype))).double())
        return torch.stack(result).cpu()


def _products(
    shapes: Shapes,
    distribution: str,
    dtype: torch.dtype,
    sides: int = 1,
    first: bool = False,
    rank: int | None = None,
) -> Run:
    def run(trial: Trial) -> tuple[float, float]:
        sizes = SMALL if shapes == ALIGNED and trial.tiny else shapes
        layer = _Layer(trial, sizes, trial.directions(distribution, rank), dtype, sides, first)
        exact = layer.products(torch.float64, torch.device("cpu"))
        theirs = _rms(layer.products(dtype, trial.device) - exact) / _rms(exact)
        ours = _rms(layer.run(-1, "none").cpu().double() - exact) / _rms(exact)
        return ours.nan_to_num(nan=float("inf")).item(), round_digits(2 * theirs.item(), 3)

    return run


def _finished(shapes: Shapes, activation: str, distribution: str) -> Run:
    """With bias and activation, in float32."""

    def run(trial: Trial) -> tuple[float, float]:
        layer = _Layer(trial, shapes, trial.directions(distribution), FLOAT, 2, False)
        bias = layer.field(1, (len(layer.weight),)) * layer.epsilon.double()[:, None]
        bias = bias.view(len(bias), 1, -1, *[1] * (layer.before.dim() - 2))
        change = layer.products(torch.float64, torch.device("cpu")) + bias
        function, before = ACTIVATIONS[activation], layer.before.double()
        wanted = function(before + change) - function(before)
        drawn = 0.0 if distribution == "rademacher" else 1e-5
        return relative_error(layer.run(1, activation), wanted), WHOLE_ERROR + drawn

    return run


def _mlp(squared: bool, sides: int) -> Run:
    """A network of four layers in one launch, its second weight not trained."""

    def run(trial: Trial) -> tuple[float, float]:
        widths, activations = (65, 37, 13, 67, 40), ["tanh", "gelu", "relu", "none"]
        a, inputs, outputs, weights = trial.normal(17, widths[0]), [], [], []
        for inner, rows, name in zip(widths[:-1], widths[1:], activations, strict=True):
            weights.append(trial.normal(rows, inner) / inner**0.5)
            inputs.append(a)
            outputs.append(a @ weights[-1].T)
            a = ACTIVATIONS[name](outputs[-1])
        target = trial.normal(17, 40) if squared else torch.randint(40, (17,), generator=trial.generator)
        directions = trial.directions("rademacher")
        epsilon = 1e-3 * torch.tensor([1.0, -0.9][:sides]).repeat(directions.num)
        ids = [0, -1, 4, 6], [1, 3, 5, 7], activations
        out, wanted = trial.poisoned(len(epsilon), 17), torch.empty(len(epsilon), 17)
        placed = [[trial.place(one) for one in part] for part in (inputs, outputs, weights)]
        call(
            "mlp_differences", trial.device, out, *placed, *ids, trial.place(target), directions,
            trial.place(epsilon), 0.0,
        )  # fmt: skip
        reference.mlp_differences(wanted, inputs, outputs, weights, *ids, target, directions, epsilon, 0.0)
        return relative_error(out, wanted.double()), WHOLE_ERROR

    return run


def _rms(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()


def _linear(
    label: str, dtype: torch.dtype, distribution: str, *, shapes: Shapes = LINEAR, **options: Any
) -> Check:
    return Check("perturbed_linear", label, dtype, _products(shapes, distribution, dtype, **options))


LAYERS = (
    _linear("middle layer, signs", FLOAT, "rademacher"),
    _linear("middle layer, both sides", FLOAT, "rademacher", sides=2),
    _linear("first layer, both sides", FLOAT, "rademacher", sides=2, first=True),
    _linear("middle layer, signs, bfloat16", HALF, "rademacher"),
    _linear("middle layer, both sides, bfloat16", HALF, "rademacher", sides=2),
    _linear("first layer, bfloat16", HALF, "rademacher", first=True),
    _linear("whole tiles, signs, bfloat16", HALF, "rademacher", shapes=ALIGNED),
    _linear("whole tiles, both sides, bfloat16", HALF, "rademacher", sides=2, shapes=ALIGNED),
    _linear("Gaussian, bfloat16", HALF, "gaussian"),
    _linear("signs of rank 3, bfloat16", HALF, "rademacher", rank=3),
    Check("perturbed_linear", "bias and GELU", FLOAT, _finished(LINEAR, "gelu", "rademacher")),
    Check("perturbed_linear", "Gaussian, bias and tanh", FLOAT, _finished(LINEAR, "tanh", "gaussian")),
    Check("perturbed_conv2d", "groups, strides", FLOAT, _products(CONVOLUTION, "rademacher", FLOAT)),
    Check(
        "perturbed_conv2d", "both sides, bfloat16", HALF,
        _products(CONVOLUTION, "rademacher", HALF, 2),
    ),
    Check("perturbed_conv2d", "bias and SiLU", FLOAT, _finished(CONVOLUTION, "silu", "rademacher")),
    Check("mlp_differences", "cross-entropy, both sides", FLOAT, _mlp(False, 2)),
    Check("mlp_differences", "squared error", FLOAT, _mlp(True, 1)),
)  # fmt: skip
