"""Each fused op over directions, batch and width, against plain torch and the machine's ceilings.

Torch gets operands of the same shape that already lie in memory: the fused op draws its noise as well.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from benchmarks.contenders.fused import hardware_dtype
from benchmarks.measure.gates import GateError
from zo_triton import Directions, nzk, ops

DTYPE = hardware_dtype()
BYTES = DTYPE.itemsize
# A few roundings of the compute dtype, relative to the largest value.
TOLERANCE = 2e-2 if torch.bfloat16 == DTYPE else 1e-4
EPS = 1e-3


@dataclass(frozen=True)
class Point:
    """Where an op is timed: ``width`` is that of a layer, and a quarter of an image's side times channels."""

    K: int
    batch: int
    width: int


MIDDLE, TINY = Point(32, 128, 256), Point(2, 32, 40)
AXES = {"K": (8, 128), "batch": (32, 512), "width": (64, 1024)}
POINTS = {
    "middle": MIDDLE,
    **{
        f"{axis}={value}": replace(MIDDLE, **{axis: value})
        for axis, values in AXES.items()
        for value in values
    },
}


@dataclass(frozen=True)
class Work:
    """An op at one point.

    ``fused(K)`` evaluates the first K directions; ``plain`` is what torch does for all of them. ``gflop`` counts
    two for a multiply-add, nothing for the noise; ``megabytes`` is what must be read and written once.
    """

    fused: Callable[[int], Tensor]
    plain: Callable[[], object]
    gflop: float
    megabytes: float


def normal(*size: int, seed: int = 0) -> Tensor:
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def first_layer(at: Point) -> Work:
    base, weight, noise = linear_operands(at)
    output = base @ weight.T
    plain = base.to(DTYPE)

    def fused(K: int) -> Tensor:
        return ops.perturbed_linear(
            base, None, weight, Directions(0, 0, K), torch.full((K,), EPS), weight_id=0, bias_id=1,
            base_output=output, activation="relu", dtype=DTYPE,
        )  # fmt: skip

    gflop = 2e-9 * at.K * at.batch * at.width**2
    megabytes = 1e-6 * at.batch * at.width * (4 + BYTES * at.K)
    return Work(fused, lambda: plain @ noise.transpose(1, 2), gflop, megabytes)


def hidden_layer(at: Point, rank: int | None = None) -> Work:
    base, weight, noise = linear_operands(at)
    difference = 1e-2 * normal(at.K, at.batch, at.width, seed=1).to(DTYPE)
    output, plain = base @ weight.T, weight.to(DTYPE)
    rows = difference.reshape(-1, at.width)

    def fused(K: int) -> Tensor:
        return ops.perturbed_linear(
            base, difference[:K], weight, Directions(0, 0, K, rank=rank), torch.full((K,), EPS), weight_id=0,
            bias_id=1, base_output=output, activation="relu", dtype=DTYPE,
        )  # fmt: skip

    def full() -> tuple[Tensor, Tensor]:
        return F.linear(rows, plain), difference @ noise.transpose(1, 2)

    left, right = noise[:, :, : rank or 1], noise[:, : rank or 1]

    def thin() -> tuple[Tensor, Tensor]:
        return F.linear(rows, plain), difference @ right.transpose(1, 2) @ left.transpose(1, 2)

    products = at.width**2 * (2 if rank is None else 1) + (0 if rank is None else 2 * at.width * rank)
    gflop = 2e-9 * at.K * at.batch * products
    megabytes = 1e-6 * at.K * at.batch * at.width * 2 * BYTES
    return Work(fused, full if rank is None else thin, gflop, megabytes)


def linear_operands(at: Point) -> tuple[Tensor, Tensor, Tensor]:
    """Base [N, F], weight [F, F], noise [K, F, F]."""
    noise = normal(at.K, at.width, at.width, seed=3).to(DTYPE)
    return normal(at.batch, at.width), normal(at.width, at.width, seed=2) / at.width**0.5, noise


def conv_layer(at: Point) -> Work:
    """A 3 × 3 convolution of width / 16 channels on 8 × 8 images."""
    C, N = max(1, at.width // 16), at.batch
    base, weight = normal(N, C, 8, 8), normal(C, C, 3, 3, seed=2) / (9 * C) ** 0.5
    difference = 1e-2 * normal(at.K, N, C, 8, 8, seed=1).to(DTYPE)
    output, noise = F.conv2d(base, weight, padding=1), normal(at.K * C, C, 3, 3, seed=3).to(DTYPE)
    side_by_side = difference.transpose(0, 1).reshape(N, at.K * C, 8, 8)
    images, plain = difference.view(-1, C, 8, 8), weight.to(DTYPE)

    def fused(K: int) -> Tensor:
        return ops.perturbed_conv2d(
            base, difference[:K], weight, Directions(0, 0, K), torch.full((K,), EPS), padding=(1, 1), weight_id=0,
            bias_id=1, base_output=output, activation="relu", dtype=DTYPE,
        )  # fmt: skip

    def two() -> tuple[Tensor, Tensor]:
        return F.conv2d(images, plain, padding=1), F.conv2d(side_by_side, noise, padding=1, groups=at.K)

    gflop = 4e-9 * at.K * N * C * C * 9 * 64
    return Work(fused, two, gflop, 1e-6 * difference.numel() * 2 * BYTES)


def gelu(at: Point) -> Work:
    base = normal(at.batch, at.width)
    difference = 1e-2 * normal(at.K, at.batch, at.width, seed=1).to(DTYPE)
    return Work(
        lambda K: ops.activation_difference(base, difference[:K], "gelu"),
        lambda: F.gelu(base + difference) - F.gelu(base),
        0.0,
        1e-6 * difference.numel() * 2 * BYTES,
    )


def loss(at: Point) -> Work:
    """Cross-entropy over width / 16 classes."""
    classes = max(2, at.width // 16)
    logits, target = normal(at.batch, classes), torch.arange(at.batch) % classes
    difference = 1e-2 * normal(at.K, at.batch, classes, seed=1).to(DTYPE)
    rows, labels = (logits + difference).view(-1, classes), target.repeat(at.K)
    return Work(
        lambda K: ops.cross_entropy_difference(logits, difference[:K], target),
        lambda: F.cross_entropy(rows, labels, reduction="none"),
        0.0,
        1e-6 * difference.numel() * BYTES,
    )


def small_network(at: Point) -> Work:
    """64-(width / 8)-10 with ReLU and cross-entropy in one call, float32."""
    inner = max(4, at.width // 8)
    first, second = normal(inner, 64, seed=2) / 8, normal(10, inner, seed=3) / inner**0.5
    x, target = normal(at.batch, 64), torch.arange(at.batch) % 10
    z = x @ first.T
    a = z.relu()
    moved = first + EPS * normal(at.K, inner, 64, seed=4), second + EPS * normal(at.K, 10, inner, seed=5)

    def fused(K: int) -> Tensor:
        return ops.mlp_differences(
            [x, a], [z, a @ second.T], [first, second], [0, 2], [1, 3], ["relu", "none"], target,
            Directions(0, 0, K), torch.full((K,), EPS),
        )  # fmt: skip

    def plain() -> Tensor:
        logits = (x @ moved[0].transpose(1, 2)).relu() @ moved[1].transpose(1, 2)
        return F.cross_entropy(logits.view(-1, 10), target.repeat(at.K), reduction="none")

    return Work(fused, plain, 4e-9 * at.K * at.batch * inner * 74, 1e-6 * 4 * at.K * at.batch)


def update(at: Point) -> Work:
    """Into zeros, so that every call does the same."""
    tensor, coefficients = torch.zeros(at.width, at.width), normal(at.K, seed=4)
    noise = normal(at.K, tensor.numel())

    def fused(K: int) -> Tensor:
        ops.accumulate([tensor.zero_()], [0], coefficients[:K], Directions(0, 0, K), DTYPE)
        return tensor

    gflop = 2e-9 * at.K * tensor.numel()
    return Work(fused, lambda: coefficients @ noise, gflop, 1e-6 * 3 * tensor.numel() * 4)


def gram(at: Point) -> Work:
    tensor, noise = torch.zeros(at.width, at.width), normal(at.K, at.width**2)
    return Work(
        lambda K: ops.gram([tensor], [0], Directions(0, 0, K), DTYPE),
        lambda: noise @ noise.T,
        1e-9 * at.K * (at.K + 1) * tensor.numel(),
        1e-6 * 4 * at.K**2,
    )


def nzk_draws(at: Point) -> Work:
    """The field's values as the reference of the NZK takes them, float64."""
    generator = torch.Generator().manual_seed(0)

    def fused(K: int) -> Tensor:
        return torch.from_numpy(nzk.draw("rademacher", num=K, size=at.width**2, seed=0))

    def plain() -> Tensor:
        return torch.randn(at.K, at.width**2, generator=generator, dtype=torch.float64)

    return Work(fused, plain, 0.0, 1e-6 * 8 * at.K * at.width**2)


OPS: dict[str, tuple[Callable[[Point], Work], tuple[str, ...]]] = {
    "first layer": (first_layer, ("K", "batch", "width")),
    "hidden layer": (hidden_layer, ("K", "batch", "width")),
    "hidden layer of rank 1": (lambda at: hidden_layer(at, 1), ("K", "batch", "width")),
    "convolution": (conv_layer, ("K", "batch", "width")),
    "gelu": (gelu, ("K", "batch", "width")),
    "loss": (loss, ("K", "batch", "width")),
    "small network": (small_network, ("K", "batch", "width")),
    "update": (update, ("K", "width")),
    "gram": (gram, ("K", "width")),
    "NZK draws": (nzk_draws, ("K", "width")),
}
"""By name: what it is, and the axes that change its work."""

TURNS = [
    (name, contender, place)
    for name, (_, axes) in OPS.items()
    for place in POINTS
    for contender in ("fused", "torch")
    if place == "middle" or place.split("=")[0] in axes
]


def gate(name: str, work: Work) -> None:
    """The device's engine and the float64 reference must agree on the first two directions."""
    fast = work.fused(2).clone()  # an update writes to the same tensor again
    with ops.use_engine("reference"):
        exact = work.fused(2)
    error = ((fast.double() - exact.double()).abs().max() / exact.double().abs().max()).item()
    if not error <= TOLERANCE:
        raise GateError(f"{name} differs from the reference by {error:.2g} of the largest value.")


@pytest.mark.parametrize(("name", "contender", "place"), TURNS, ids=["-".join(turn) for turn in TURNS])
def bench_op(measure, peaks, tiny, name, contender, place):
    if tiny and place != "middle":
        pytest.skip("one point is enough to prove that it runs")
    at, make = TINY if tiny else POINTS[place], OPS[name][0]
    work = make(at)
    extra = {"op": name, "contender": contender, "K": at.K, "batch": at.batch, "width": at.width}
    if contender == "torch":
        measure(f"op: {name}, {place}", work.plain, **extra)
        return
    gate(name, work)
    done = measure(f"op: {name}, {place}", lambda: work.fused(at.K), gflop=work.gflop, **extra)
    if done.stats is not None:
        least = peaks.seconds(work.gflop, work.megabytes)
        done.extra_info["roofline"] = float(f"{least / done.stats.stats.median:.3g}")
