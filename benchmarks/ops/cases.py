"""The ops that are timed: a case of the catalogue, the function a user calls, and what torch does in its place.

Torch gets operands of the same shape that already lie in memory: the fused op draws its noise as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders.fused import hardware_dtype
from zo_triton import Directions, nzk, ops
from zo_triton.opcases import (
    ActivationCase,
    Arguments,
    Case,
    ConvolutionCase,
    CrossEntropyCase,
    GramCase,
    LinearCase,
    NetworkCase,
    Operands,
    RandomOperands,
    SampleCase,
    UpdateCase,
)

DTYPE = hardware_dtype()


@dataclass(frozen=True)
class Point:
    """Where an op is timed: ``width`` is that of a layer, and a quarter of an image's side times channels."""

    K: int
    batch: int
    width: int


@dataclass(frozen=True)
class Op:
    """An op to be timed.

    Attributes:
        case: From a point to the operands.
        fused: From its arguments to the op's result, allocated as a user's would be.
        plain: From the case and its arguments to what torch does in its place.
        axes: That change its work.
    """

    case: Callable[[Point], Case]
    fused: Callable[[Arguments], Tensor]
    plain: Callable[[Any, Arguments], Callable[[], object]]
    axes: tuple[str, ...] = ("K", "batch", "width")


def lying_noise(*size: int, dtype: torch.dtype = torch.float32) -> Tensor:
    """What torch multiplies by: values that somebody has drawn before."""
    return RandomOperands("cpu", seed=1).normal(*size, dtype=dtype)


def linear(at: Point, first: bool = False, rank: int | None = None) -> LinearCase:
    directions = Directions(0, 0, at.K, rank=rank)
    return LinearCase(
        directions=directions, samples=at.batch, inputs=at.width, outputs=at.width, first=first, dtype=DTYPE
    )


def fused_linear(arguments: Arguments) -> Tensor:
    _, base, difference, weight, before, directions, weight_id, bias_id, eps, activation, _ = arguments
    return ops.perturbed_linear(
        base, difference, weight, directions, eps, weight_id=weight_id, bias_id=bias_id, base_output=before,
        activation=activation, dtype=DTYPE,
    )  # fmt: skip


def plain_linear(case: LinearCase, arguments: Arguments) -> Callable[[], object]:
    _, base, difference, weight, *_ = arguments
    noise = lying_noise(case.directions.num, *weight.shape, dtype=DTYPE)
    base, weight, rank = base.to(DTYPE), weight.to(DTYPE), case.directions.rank
    if case.first:
        return lambda: base @ noise.transpose(1, 2)
    rows = difference.reshape(-1, case.inputs)
    if rank is None:
        return lambda: (F.linear(rows, weight), difference @ noise.transpose(1, 2))
    left, right = noise[:, :, :rank], noise[:, :rank]
    return lambda: (F.linear(rows, weight), difference @ right.transpose(1, 2) @ left.transpose(1, 2))


def convolution(at: Point) -> ConvolutionCase:
    """3 × 3, of width / 16 channels on 8 × 8 images."""
    channels = max(1, at.width // 16)
    return ConvolutionCase(
        directions=Directions(0, 0, at.K), samples=at.batch, channels=(channels, channels), size=(8, 8),
        padding=(1, 1), dtype=DTYPE,
    )  # fmt: skip


def fused_convolution(arguments: Arguments) -> Tensor:
    (
        _, base, difference, weight, before, directions, weight_id, bias_id, eps, stride, padding, dilation,
        groups, activation,
    ) = arguments  # fmt: skip
    return ops.perturbed_conv2d(
        base, difference, weight, directions, eps, stride=stride, padding=padding, dilation=dilation,
        groups=groups, weight_id=weight_id, bias_id=bias_id, base_output=before, activation=activation,
        dtype=DTYPE,
    )  # fmt: skip


def plain_convolution(case: ConvolutionCase, arguments: Arguments) -> Callable[[], object]:
    _, _, difference, weight, *_ = arguments
    K, N, C, height, width = difference.shape
    noise, weight = lying_noise(K * C, C, 3, 3, dtype=DTYPE), weight.to(DTYPE)
    side_by_side = difference.transpose(0, 1).reshape(N, K * C, height, width)
    images = difference.view(-1, C, height, width)
    return lambda: (F.conv2d(images, weight, padding=1), F.conv2d(side_by_side, noise, padding=1, groups=K))


def gelu(at: Point) -> ActivationCase:
    return ActivationCase(
        evaluations=at.K, samples=at.batch, features=at.width, activation="gelu", dtype=DTYPE
    )


def plain_gelu(case: ActivationCase, arguments: Arguments) -> Callable[[], object]:
    _, base, difference, _ = arguments
    return lambda: F.gelu(base + difference) - F.gelu(base)


def loss(at: Point) -> CrossEntropyCase:
    """Over width / 16 classes."""
    return CrossEntropyCase(evaluations=at.K, samples=at.batch, classes=max(2, at.width // 16), dtype=DTYPE)


def plain_loss(case: CrossEntropyCase, arguments: Arguments) -> Callable[[], object]:
    _, logits, difference, target, _ = arguments
    rows, labels = (logits + difference).view(-1, case.classes), target.repeat(case.evaluations)
    return lambda: F.cross_entropy(rows, labels, reduction="none")


def small_network(at: Point) -> NetworkCase:
    """64-(width / 8)-10 with ReLU and cross-entropy in one call, float32."""
    widths = 64, max(4, at.width // 8), 10
    return NetworkCase(directions=Directions(0, 0, at.K), widths=widths, samples=at.batch)


def plain_network(case: NetworkCase, arguments: Arguments) -> Callable[[], object]:
    _, (x, _), _, weights, _, _, _, target, directions, _, _ = arguments
    first, second = (weight + 1e-3 * lying_noise(directions.num, *weight.shape) for weight in weights)
    labels = target.repeat(directions.num)

    def evaluate() -> Tensor:
        logits = (x @ first.transpose(1, 2)).relu() @ second.transpose(1, 2)
        return F.cross_entropy(logits.view(-1, 10), labels, reduction="none")

    return evaluate


def update(at: Point) -> UpdateCase:
    return UpdateCase(directions=Directions(0, 0, at.K), shapes=[(at.width, at.width)], dtype=DTYPE)


def fused_update(arguments: Arguments) -> Tensor:
    """Into zeros, so that every call does the same."""
    (tensor,), ids, coefficients, directions, dtype = arguments
    ops.accumulate([tensor.zero_()], ids, coefficients, directions, dtype)
    return tensor


def plain_update(case: UpdateCase, arguments: Arguments) -> Callable[[], object]:
    (tensor,), _, coefficients, *_ = arguments
    noise = lying_noise(len(coefficients), tensor.numel())
    return lambda: coefficients @ noise


def gram(at: Point) -> GramCase:
    return GramCase(directions=Directions(0, 0, at.K), shapes=[(at.width, at.width)], dtype=DTYPE)


def plain_gram(case: GramCase, arguments: Arguments) -> Callable[[], object]:
    noise = lying_noise(case.directions.num, arguments[1][0].numel())
    return lambda: noise @ noise.T


@dataclass(frozen=True, kw_only=True)
class DrawCase(SampleCase):
    """The field's values as the reference of the NZK takes them, float64."""

    def arguments(self, operands: Operands) -> Arguments:
        """As :meth:`SampleCase.arguments`."""
        out, *others = super().arguments(operands)
        return out.double(), *others


def nzk_draws(at: Point) -> DrawCase:
    return DrawCase(directions=Directions(0, 0, at.K), rows=1, cols=at.width**2)


def fused_draws(arguments: Arguments) -> Tensor:
    K, _, size = arguments[0].shape
    return torch.from_numpy(nzk.draw("rademacher", num=K, size=size, seed=0))


def plain_draws(case: DrawCase, arguments: Arguments) -> Callable[[], object]:
    generator = torch.Generator().manual_seed(0)
    return lambda: torch.randn(case.directions.num, case.cols, generator=generator, dtype=torch.float64)


OPS = {
    "first layer": Op(lambda at: linear(at, first=True), fused_linear, plain_linear),
    "hidden layer": Op(linear, fused_linear, plain_linear),
    "hidden layer of rank 1": Op(lambda at: linear(at, rank=1), fused_linear, plain_linear),
    "convolution": Op(convolution, fused_convolution, plain_convolution),
    "gelu": Op(gelu, lambda arguments: ops.activation_difference(*arguments[1:]), plain_gelu),
    "loss": Op(loss, lambda arguments: ops.cross_entropy_difference(*arguments[1:]), plain_loss),
    "small network": Op(small_network, lambda arguments: ops.mlp_differences(*arguments[1:]), plain_network),
    "update": Op(update, fused_update, plain_update, ("K", "width")),
    "gram": Op(gram, lambda arguments: ops.gram(*arguments[1:]), plain_gram, ("K", "width")),
    "NZK draws": Op(nzk_draws, fused_draws, plain_draws, ("K", "width")),
}
"""By the name that ids and tables have."""
