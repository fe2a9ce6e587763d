"""Draws the figures of the documentation into docs/figures: ``PYTHONPATH=. python docs/tools/figures.py``."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor, nn

import zo_triton as zo
from benchmarks.report.labels import Label, label_ends
from benchmarks.report.ticks import plain_ticks
from zo_triton._figures import BLUE, INK, PAPER, QUIET, RULE, VERMILION, WIDTH, save_figure

FOLDER = Path(__file__).resolve().parents[1] / "figures"


def save(name: str, height: float, plot: Callable[[Any], None]) -> None:
    """Writes what is plotted into empty axes as ``name.svg``, in the house style; ``height`` in inches."""

    def draw(figure: Any, _: dict[str, Any]) -> None:
        figure.set_size_inches(WIDTH, height)
        plot(figure.subplots())

    save_figure(draw, {}, FOLDER, name)


def draw_cancellation() -> None:
    """Median relative error of a loss difference against ε, by three ways, with float64 as the truth."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(1, 8, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(),
        nn.Linear(72, 32), nn.ReLU(), nn.Linear(32, 10),
    )  # fmt: skip
    wide = deepcopy(model).double()
    x, y = torch.randn(64, 1, 8, 8), torch.randint(10, (64,))
    directions = zo.Directions(seed=0, step=0, num=32)
    radii = [10.0**power for power in range(-1, -8, -1)]
    curves: dict[str, list[float]] = {}
    for eps in radii:
        truth = _subtracted(wide, x, y, directions, eps)
        found = {
            "direct, float32": _subtracted(model, x, y, directions, eps),
            "propagated, bfloat16": _propagated(model, x, y, directions, eps, torch.bfloat16),
            "propagated, float32": _propagated(model, x, y, directions, eps, torch.float32),
        }
        for name, values in found.items():
            error = ((values - truth).abs() / truth.abs()).median().item()
            curves.setdefault(name, []).append(error)

    def plot(axes: Any) -> None:
        ends = []
        for (name, errors), colour in zip(curves.items(), (QUIET, VERMILION, BLUE), strict=True):
            axes.loglog(radii, errors, "o-", color=colour, markersize=4)
            ends.append(Label(name, (radii[-1], errors[-1]), colour, name.startswith("propagated")))
        axes.set(xlabel="ε", ylabel="median relative error")
        axes.invert_xaxis()
        label_ends(axes, ends, width=11)

    save("cancellation", 3.4, plot)


def _subtracted(model: nn.Module, x: Tensor, y: Tensor, directions: zo.Directions, eps: float) -> Tensor:
    """[K] float64: the loss at the moved weights less the loss, in the model's own precision."""
    params = list(model.parameters())
    x = x.to(params[0].dtype)
    drawn = [zo.sample(directions, place, param.shape) for place, param in enumerate(params)]
    with torch.no_grad():
        base, saved = F.cross_entropy(model(x), y), [param.clone() for param in params]
        losses = []
        for k in range(directions.num):
            for param, old, z in zip(params, saved, drawn, strict=True):
                param.copy_(old + eps * z[k].to(old.dtype))
            losses.append((F.cross_entropy(model(x), y) - base).double())
        for param, old in zip(params, saved, strict=True):
            param.copy_(old)
    return torch.stack(losses)


def _propagated(
    model: nn.Module, x: Tensor, y: Tensor, directions: zo.Directions, eps: float, dtype: torch.dtype
) -> Tensor:
    return zo.differences(
        lambda: F.cross_entropy(model(x), y), model.parameters(), directions, eps, compute_dtype=dtype
    )[1].double()


def _box(axes: Any, x: float, y: float, text: str, colour: str) -> None:
    axes.add_patch(Rectangle((x, y), 1.5, 0.5, facecolor=PAPER, edgecolor=colour, linewidth=1.2))
    axes.text(x + 0.75, y + 0.25, text, ha="center", va="center")


def _arrow(axes: Any, start: tuple[float, float], stop: tuple[float, float], colour: str) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, stop, color=colour, **style))


def _blank(axes: Any, across: tuple[float, float], up: tuple[float, float]) -> None:
    """Nothing but a plane."""
    axes.set(xlim=across, ylim=up)
    axes.axis("off")


def draw_flow() -> None:
    """What travels through a network in one step: the base once, the differences of all directions beside it."""
    layers = (
        ("input", "x", "0"),
        ("linear", "a = xWᵀ + b", "δ"),
        ("ReLU", "h = max(a, 0)", "Δh"),
        ("linear", "f = hWᵀ", "Δf"),
        ("loss", "L(θ)", "ΔL  [K]"),
    )

    def plot(axes: Any) -> None:
        _blank(axes, (0, WIDTH), (-0.1, 5.0))
        axes.text(1.65, 4.75, "base, once", ha="center", color=QUIET)
        axes.text(4.1, 4.75, "differences,\nall K directions", ha="center", va="center", color=BLUE)
        for place, (name, base, change) in enumerate(layers):
            y = 3.85 - 0.92 * place
            axes.text(0.0, y + 0.25, name, va="center", color=QUIET)
            _box(axes, 0.9, y, base, QUIET)
            for shift in (0.16, 0.08) if place else ():
                _box(axes, 3.2 + shift, y + shift, "", BLUE)
            _box(axes, 3.2, y, change, BLUE if place else RULE)
            if place:
                _arrow(axes, (1.65, y + 0.92), (1.65, y + 0.5), QUIET)
                _arrow(axes, (2.4, y + 0.25), (3.2, y + 0.25), QUIET)
                _arrow(axes, (3.95, y + 0.92), (3.95, y + 0.66), BLUE)

    save("flow", 4.6, plot)


def draw_field() -> None:
    """Which Philox block, word and bit hold the sign of an element."""

    def plot(axes: Any) -> None:
        _blank(axes, (-2.1, 12.1), (-4.6, 9.4))
        for row in range(8):
            axes.text(-0.2, 7.5 - row, f"row {row}", ha="right", va="center")
            for col in range(3):
                axes.text(4 * col + 3.85, 7.5 - row, f"word {row % 4}", ha="right", va="center", color=QUIET)
        for block in range(6):
            left, bottom = 4 * (block % 3), 4 - 4 * (block // 3)
            axes.add_patch(Rectangle((left, bottom), 4, 4, fill=False, edgecolor=BLUE, linewidth=1.2))
            axes.text(left + 0.15, bottom + 3.5, f"block {block}", va="center", color=BLUE)
        for col in range(3):
            axes.text(4 * col + 2, 8.3, f"columns\n{32 * col}…{32 * col + 31}", ha="center")
        told = (
            "bit b of a word is column 32·⌊col/32⌋ + b:\n1 → +1,  0 → −1\n"
            "counter = (block, tensor, direction, step)\nkey = (low, high) of the seed"
        )
        axes.text(5, -0.5, told, ha="center", va="top", linespacing=1.5)

    save("field", 4.8, plot)


def draw_stability() -> None:
    """The largest stable learning rate against K, for a spectrum that falls as 1/i, between its two limits."""
    eigenvalues = 1 / np.arange(1.0, 201.0)
    counts = 2 ** np.arange(13)
    limits = [zo.nzk.max_stable_lr(eigenvalues, num_directions=int(count)) for count in counts]
    trace, largest = eigenvalues.sum(), eigenvalues.max()

    def plot(axes: Any) -> None:
        last = counts[-1]
        axes.loglog(counts, limits, "o-", color=BLUE, markersize=4)
        axes.axhline(2 / largest, color=INK, linestyle="--", linewidth=0.9)
        axes.axhline(2 / trace, color=VERMILION, linestyle=":", linewidth=1.2)
        axes.set(xlabel="directions K", ylabel="learning rate", ylim=(0.2, 3))
        plain_ticks(axes.yaxis)
        ends = [
            Label("η* of K averaged directions", (last, limits[-1]), BLUE, bold=True),
            Label("2/λ_max, gradient descent", (last, 2 / largest), INK),
            Label("2/Tr H, above η* at K = 1", (last, 2 / trace), VERMILION),
        ]
        label_ends(axes, ends, width=13)

    save("stability", 3.4, plot)


FIGURES: tuple[Callable[[], None], ...] = (draw_cancellation, draw_flow, draw_field, draw_stability)

if __name__ == "__main__":
    for draw in FIGURES:
        draw()
