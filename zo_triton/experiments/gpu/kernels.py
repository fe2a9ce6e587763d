"""Each kernel's time on the device, and the share of what it could reach."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F

import zo_triton as zo
from zo_triton import ops
from zo_triton.experiments.gpu.clock import milliseconds_of

HALF, SINGLE = torch.bfloat16, torch.float32


@dataclass(frozen=True)
class Shape:
    """Sizes of the timed layers.

    Args:
        batch: Samples.
        width: Features in and out.
        directions: K.
        images: (samples, channels, side) of the convolution, whose window is 3 × 3.
        tensor: Side of the square matrix that is drawn, updated and measured.
    """

    batch: int
    width: int
    directions: int
    images: tuple[int, int, int]
    tensor: int


FULL = Shape(256, 4096, 16, (64, 64, 28), 8192)
TINY = Shape(16, 64, 2, (1, 4, 6), 64)


@dataclass(frozen=True)
class Measured:
    """One call.

    Args:
        name: In tables.
        call: Runs it.
        flops: Of its products, 0 if it has none.
        values: Random values that it needs; a value that both sides share counts once.
        bytes: That it must move, 0 where arithmetic bounds it.
        ceiling: Name of the row of the ceilings that bounds it, or "".
    """

    name: str
    call: Callable[[], object]
    flops: float = 0.0
    values: float = 0.0
    bytes: float = 0.0
    ceiling: str = ""


def run_kernels(device: torch.device, ceilings: Mapping[str, float], tiny: bool) -> list[dict[str, Any]]:
    """Times every kernel.

    Args:
        device: Where.
        ceilings: Measured ones by name, TFLOP/s or GB/s.
        tiny: Small shapes.

    Returns:
        Rows of ``name``, ``ms``, ``tflops``, ``values_per_second`` (10⁹), ``gb_per_second``, ``ceiling``,
        ``fraction`` of it, and ``problem``; what has no meaning for a kernel is None.
    """
    return [_row(each, device, ceilings) for each in _kernels(TINY if tiny else FULL, device)]


def _row(each: Measured, device: torch.device, ceilings: Mapping[str, float]) -> dict[str, Any]:
    row: dict[str, Any] = dict.fromkeys(("ms", "tflops", "values_per_second", "gb_per_second", "fraction"))
    row = {"name": each.name, **row, "ceiling": each.ceiling, "problem": ""}
    try:
        taken = milliseconds_of(each.call, device)
    # A kernel may fail in any way, and the others are still to be timed.
    except Exception as problem:
        row["problem"] = f"{type(problem).__name__}: {problem}".splitlines()[0]
        return row
    reached = {"tflops": each.flops / taken / 1e9, "gb_per_second": each.bytes / taken / 1e6}
    row |= {"ms": taken, "values_per_second": each.values / taken / 1e6 or None}
    row |= {name: value or None for name, value in reached.items()}
    if each.ceiling in ceilings:
        found = reached["gb_per_second"] if each.bytes else reached["tflops"]
        row["fraction"] = found / ceilings[each.ceiling]
    return row


def layer_call(
    shape: Shape,
    device: torch.device,
    sides: int,
    first: bool,
    distribution: str = "rademacher",
    dtype: torch.dtype = HALF,
) -> Callable[[], object]:
    """A linear layer's differences for all directions."""
    base = torch.randn(shape.batch, shape.width, device=device)
    weight = torch.randn(shape.width, shape.width, device=device) / shape.width**0.5
    count = sides * shape.directions
    delta = None
    if not first:
        delta = (1e-3 * torch.randn(count, *base.shape, device=device)).to(dtype)
    steps = 1e-3 * torch.tensor([1.0, -1.0][:sides], device=device).repeat(shape.directions)
    directions = zo.Directions(0, 0, shape.directions, distribution)
    return lambda: ops.perturbed_linear(
        base, delta, weight, directions, steps, weight_id=0, bias_id=1, dtype=dtype
    )


def _kernels(shape: Shape, device: torch.device) -> list[Measured]:
    listed = []
    product = 2.0 * shape.batch * shape.width**2 * shape.directions
    drawn = float(shape.width**2 * shape.directions)
    for sides, first, distribution, dtype in (
        (1, False, "rademacher", HALF),
        (2, False, "rademacher", HALF),
        (1, True, "rademacher", HALF),
        (1, False, "gaussian", HALF),
        (2, False, "gaussian", HALF),
        (1, False, "rademacher", SINGLE),
    ):
        place = "first layer" if first else "both sides" if sides == 2 else "one side"
        name = f"linear, {str(dtype).removeprefix('torch.')}, {distribution}, {place}"
        ceiling = "bfloat16 product" if dtype == HALF else "tf32 product"
        flops = product * (1 if first else 2 * sides)
        call = layer_call(shape, device, sides, first, distribution, dtype)
        listed.append(Measured(name, call, flops, drawn, ceiling=ceiling))
    listed += [_convolution(shape, device), *_streams(shape, device)]
    return listed


def _convolution(shape: Shape, device: torch.device) -> Measured:
    samples, channels, side = shape.images
    base = torch.randn(samples, channels, side, side, device=device)
    weight = torch.randn(channels, channels, 3, 3, device=device) / (3 * channels**0.5)
    delta = (1e-3 * torch.randn(shape.directions, *base.shape, device=device)).to(HALF)
    steps, directions = (
        torch.full((shape.directions,), 1e-3, device=device),
        zo.Directions(0, 0, shape.directions),
    )
    flops = 2 * 2.0 * base.numel() * channels * 9 * shape.directions
    return Measured(
        f"convolution, bfloat16, {channels} channels, 3 × 3",
        lambda: ops.perturbed_conv2d(
            base, delta, weight, directions, steps, padding=(1, 1), weight_id=0, bias_id=1, dtype=HALF
        ),
        flops, float(weight.numel() * shape.directions), ceiling="bfloat16 product",
    )  # fmt: skip


def _streams(shape: Shape, device: torch.device) -> list[Measured]:
    """Kernels that draw and move rather than multiply."""
    matrix, size, count = torch.zeros(shape.tensor, shape.tensor, device=device), shape.tensor**2, 8
    small = matrix[: max(8, shape.tensor // 8)]
    weights = torch.ones(count, device=device)

    def update(distribution: str) -> Callable[[], object]:
        directions = zo.Directions(0, 0, count, distribution)
        return lambda: zo.accumulate([matrix], [0], weights, directions)

    def products(distribution: str) -> Callable[[], object]:
        directions = zo.Directions(0, 0, 32, distribution)
        return lambda: zo.gram([small], [0], directions)

    listed = []
    for name in ("rademacher", "gaussian"):
        moved, drawn = 8.0 * size, float(count * size)
        listed += [
            Measured(f"accumulate, {name}, K = {count}", update(name), 0.0, drawn, moved, "copy"),
            Measured(f"gram, {name}, K = 32", products(name), values=32.0 * small.numel()),
        ]
    one = zo.Directions(0, 0, 1)
    listed += [
        Measured(
            "sample, rademacher",
            lambda: zo.sample(one, 0, matrix.shape, device=device),
            values=float(size), bytes=4.0 * size, ceiling="copy",
        ),
        Measured("stage", lambda: ops.stage(one, 0, matrix.shape, device), values=float(size)),
    ]  # fmt: skip
    return listed


def run_goals(device: torch.device, kernels: list[dict[str, Any]], tiny: bool) -> list[dict[str, Any]]:
    """The project's own marks beside what was measured.

    Evaluations a second through one layer are counted in plain bfloat16 passes of it a second: a perturbed layer
    multiplies twice, so a half is the limit, one in a first layer, and a third for central pairs, whose sides share
    a product.

    Returns:
        Rows of ``name``, ``goal`` and ``measured`` (None where it did not run).
    """
    shape = TINY if tiny else FULL
    x = torch.randn(shape.batch, shape.width, device=device).to(HALF)
    weight = torch.randn(shape.width, shape.width, device=device).to(HALF)
    plain = milliseconds_of(lambda: F.linear(x, weight), device)
    rows = []
    for name, goal, sides, first in (
        ("evaluations of a middle layer, in plain passes", 0.42, 1, False),
        ("evaluations of a first layer, in plain passes", 0.8, 1, True),
        ("central pairs of a middle layer, in plain passes", 0.28, 2, False),
    ):
        taken = milliseconds_of(layer_call(shape, device, sides, first), device)
        rows.append({"name": name, "goal": goal, "measured": shape.directions * plain / taken})
    update = next(row for row in kernels if row["name"].startswith("accumulate, rademacher"))
    rows.append({"name": "accumulate, of the copy's bandwidth", "goal": 0.6, "measured": update["fraction"]})
    return rows
