"""One call of each kernel on operands of a size worth timing, and how much work it is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.gpu.ceilings import COPY, HALF_PRODUCT, TF32_PRODUCT
from benchmarks.gpu.results import StageContext
from benchmarks.gpu.settings import Layer
from benchmarks.timing import Action
from zo_triton import ops
from zo_triton.directions import Directions
from zo_triton.ops.registry import call

FLOAT, HALF = torch.float32, torch.bfloat16
UPDATE_DIRECTIONS = 8
"""K of the update, small enough that the memory's bandwidth and not the generator should be its limit."""


@dataclass(frozen=True)
class Work:
    """One call of a kernel, ready to be timed.

    Attributes:
        action: The call.
        result: What it writes; full of NaN before the first call.
        flops: Multiplications and additions of its products, by definition and not as folded.
        values: Elements of the field that it draws.
        bytes: That it must read and write, whatever it keeps on the chip.
        ceiling: Name of what its rate is held against.
    """

    action: Action
    result: Tensor
    ceiling: str
    flops: float = 0.0
    values: float = 0.0
    bytes: float = 0.0


def linear_work(
    context: StageContext,
    layer: Layer,
    dtype: torch.dtype,
    sides: int = 1,
    first: bool = False,
    distribution: str = "rademacher",
    rank: int | None = None,
) -> Work:
    """A linear layer with bias and ReLU, all directions in one call."""
    K, N, I, O = layer.directions, layer.samples, layer.inputs, layer.outputs  # noqa: E741
    evaluations, device = sides * K, context.device
    directions = Directions(context.seed, 0, K, distribution, rank=rank)
    base, weight = torch.randn(N, I, device=device), torch.randn(O, I, device=device) / I**0.5
    difference = None if first else (1e-3 * torch.randn(evaluations, N, I, device=device)).to(dtype)
    epsilon = 1e-3 * torch.tensor([1.0, -1.0][:sides], device=device).repeat(K)
    before = F.linear(base, weight)
    out = torch.full((evaluations, N, O), torch.nan, dtype=dtype, device=device)

    def action() -> None:
        call(
            "perturbed_linear",
            device,
            out,
            base,
            difference,
            weight,
            before,
            directions,
            0,
            1,
            epsilon,
            "relu",
        )

    products = K if first else 2 * evaluations
    drawn = (I + O) * (rank or 0) if rank else I * O
    return Work(
        action,
        out,
        HALF_PRODUCT if dtype == HALF else TF32_PRODUCT,
        2.0 * products * N * I * O,
        float(K * drawn),
    )


def linear(dtype: torch.dtype, **options: Any) -> Callable[[StageContext], Work]:
    """As :func:`linear_work`, on the context's layer."""
    return lambda context: linear_work(context, context.shapes.layer, dtype, **options)


def convolution(context: StageContext) -> Work:
    """A middle layer of 3 × 3 windows, one side."""
    N, C, H = context.shapes.images
    K, device = 4, context.device
    directions = Directions(context.seed, 0, K)
    base, weight = (
        torch.randn(N, C, H, H, device=device),
        torch.randn(C, C, 3, 3, device=device) / (9 * C) ** 0.5,
    )
    difference = (1e-3 * torch.randn(K, N, C, H, H, device=device)).to(context.dtype)
    epsilon, before = torch.full((K,), 1e-3, device=device), F.conv2d(base, weight, padding=1)
    out = torch.full_like(difference, torch.nan)

    def action() -> None:
        call(
            "perturbed_conv2d", device, out, base, difference, weight, before, directions, 0, 1, epsilon, [1, 1],
            [1, 1], [1, 1], 1, "relu",
        )  # fmt: skip

    ceiling = HALF_PRODUCT if context.dtype == HALF else TF32_PRODUCT
    return Work(action, out, ceiling, 4.0 * K * N * H * H * C * C * 9, float(K * C * C * 9))


def mlp(context: StageContext) -> Work:
    """A whole ReLU network with its cross-entropy in one launch, one side."""
    widths, K, N, device = context.shapes.mlp, context.shapes.mlp_directions, 128, context.device
    layers = list(pairwise(widths))
    inputs = [torch.randn(N, inner, device=device) for inner, _ in layers]
    weights = [torch.randn(rows, inner, device=device) / inner**0.5 for inner, rows in layers]
    outputs = [F.linear(a, weight) for a, weight in zip(inputs, weights, strict=True)]
    ids = list(range(0, 2 * len(layers), 2)), list(range(1, 2 * len(layers), 2))
    activations = [*["relu"] * (len(layers) - 1), "none"]
    target = torch.randint(widths[-1], (N,), device=device)
    directions, epsilon = Directions(context.seed, 0, K), torch.full((K,), 1e-3, device=device)
    out = torch.full((K, N), torch.nan, device=device)

    def action() -> None:
        call(
            "mlp_differences", device, out, inputs, outputs, weights, *ids, activations, target, directions,
            epsilon, 0.0,
        )  # fmt: skip

    sizes = [weight.numel() for weight in weights]
    return Work(action, out, TF32_PRODUCT, 2.0 * K * N * (2 * sum(sizes) - sizes[0]), float(K * sum(sizes)))


def accumulate(distribution: str) -> Callable[[StageContext], Work]:
    """The update of one matrix."""

    def make(context: StageContext) -> Work:
        size, K = context.shapes.update, UPDATE_DIRECTIONS
        tensor = torch.zeros(size, size, device=context.device)
        coefficients = torch.full((K,), 1e-6, device=context.device)
        directions = Directions(context.seed, 0, K, distribution)

        def action() -> None:
            call("accumulate", context.device, [tensor], [0], coefficients, directions, FLOAT)

        return Work(action, tensor, COPY, values=float(K * size**2), bytes=8.0 * size**2)

    return make


def sample(distribution: str) -> Callable[[StageContext], Work]:
    """Directions of one matrix, written out."""

    def make(context: StageContext) -> Work:
        size, K = context.shapes.field, 4
        out = torch.full((K, size, size), torch.nan, device=context.device)
        directions = Directions(context.seed, 0, K, distribution)

        def action() -> None:
            call("sample", context.device, out, directions, 0, FLOAT, None)

        return Work(action, out, COPY, values=float(out.numel()), bytes=4.0 * out.numel())

    return make


def stage(context: StageContext) -> Work:
    """Packed signs of one matrix."""
    size, K = context.shapes.field, 32
    directions = Directions(context.seed, 0, K)
    result = ops.stage(directions, 0, (size, size), context.device)

    def action() -> None:
        ops.stage(directions, 0, (size, size), context.device)

    return Work(action, result, COPY, values=32.0 * result.numel(), bytes=4.0 * result.numel())


def gram(context: StageContext) -> Work:
    """Inner products of the directions of one matrix."""
    size, K = context.shapes.field // 4, 32
    tensor = torch.empty(size, size, device=context.device)
    out = torch.full((K, K), torch.nan, dtype=torch.float64, device=context.device)
    directions = Directions(context.seed, 0, K)

    def action() -> None:
        call("gram", context.device, out, [tensor], [0], directions, FLOAT)

    return Work(action, out, TF32_PRODUCT, 2.0 * K**2 * size**2, float(K * size**2))


def activation(context: StageContext) -> Work:
    """GELU's difference on its own."""
    layer = context.shapes.layer
    base = torch.randn(layer.samples, layer.inputs, device=context.device)
    difference = (1e-3 * torch.randn(layer.directions, *base.shape, device=context.device)).to(context.dtype)
    out = torch.full_like(difference, torch.nan)

    def action() -> None:
        call("activation_difference", context.device, out, base, difference, "gelu")

    moved = 2.0 * out.numel() * out.element_size() + 4.0 * base.numel()
    return Work(action, out, COPY, bytes=moved)


def cross_entropy(context: StageContext) -> Work:
    """The loss of every evaluation and sample."""
    N, C, P = context.shapes.layer.samples, context.shapes.classes, 4 * context.shapes.layer.directions
    logits, target = torch.randn(N, C, device=context.device), torch.randint(C, (N,), device=context.device)
    difference = 1e-3 * torch.randn(P, N, C, device=context.device)
    out = torch.full((P, N), torch.nan, device=context.device)

    def action() -> None:
        call("cross_entropy_difference", context.device, out, logits, difference, target, 0.0)

    return Work(action, out, COPY, bytes=4.0 * (difference.numel() + logits.numel() + out.numel()))


def largest(context: StageContext) -> Work:
    """Max pooling of 2 × 2 windows."""
    N, C, H = context.shapes.images
    P, half = 4, H // 2
    grid = torch.arange(H * H).view(half, 2, half, 2).permute(1, 3, 0, 2).reshape(4, -1).to(context.device)
    difference = 1e-3 * torch.randn(P, N * C, H * H, device=context.device)
    gaps = -torch.rand(N * C, 4, half * half, device=context.device)
    out = torch.full((P, N * C, half * half), torch.nan, device=context.device)

    def action() -> None:
        call("largest_difference", context.device, out, difference, gaps, grid)

    return Work(action, out, COPY, bytes=4.0 * (difference.numel() + gaps.numel() + out.numel()))
