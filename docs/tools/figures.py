"""Draws the figures of the documentation into docs/figures: ``python docs/tools/figures.py``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("svg")
import matplotlib.pyplot as plt
import numpy as np
import torch
import torch.nn.functional as F
from matplotlib.patches import FancyArrowPatch, Rectangle
from torch import Tensor, nn

import zo_triton as zo

FOLDER = Path(__file__).resolve().parents[1] / "figures"
INK, BASE, MOVED, NOISE = "#263238", "#546e7a", "#1565c0", "#c62828"


@contextmanager
def figure(name: str, width: float, height: float) -> Iterator[Any]:
    """An axes that is written as ``name.svg``, the same bytes each time."""
    plt.rcParams.update({"svg.hashsalt": "zo_triton", "svg.fonttype": "path", "font.size": 9})
    drawn, axes = plt.subplots(figsize=(width, height), layout="constrained")
    yield axes
    drawn.savefig(FOLDER / f"{name}.svg", metadata={"Date": None}, facecolor="white")
    plt.close(drawn)


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
    with figure("cancellation", 6.4, 3.2) as axes:
        for (name, errors), colour in zip(curves.items(), (NOISE, BASE, MOVED), strict=True):
            axes.loglog(radii, errors, "o-", label=name, color=colour, markersize=4)
        axes.axhline(1.0, color=INK, linewidth=0.6, linestyle=":")
        axes.set(xlabel="ε", ylabel="median relative error")
        axes.invert_xaxis()
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="center right")


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


def _box(axes: Any, x: float, y: float, width: float, height: float, text: str, colour: str) -> None:
    axes.add_patch(Rectangle((x, y), width, height, facecolor="white", edgecolor=colour, linewidth=1.2))
    axes.text(x + width / 2, y + height / 2, text, ha="center", va="center", color=INK)


def _arrow(axes: Any, start: tuple[float, float], stop: tuple[float, float], colour: str) -> None:
    style = {"arrowstyle": "-|>", "mutation_scale": 9, "linewidth": 1, "shrinkA": 0, "shrinkB": 0}
    axes.add_patch(FancyArrowPatch(start, stop, color=colour, **style))


def draw_flow() -> None:
    """What travels through a network in one step: the base once, the differences of all directions beside it."""
    with figure("flow", 7.6, 2.3) as axes:
        axes.set(xlim=(0, 15.2), ylim=(-0.4, 4.2))
        axes.axis("off")
        names = ["x", "linear", "ReLU", "linear", "loss"]
        bases = ["x", "a = xWᵀ+b", "h = max(a,0)", "f = hWᵀ", "L(θ)"]
        moved = ["0", "δ", "Δh", "Δf", "ΔL\n[K]"]
        for place, (name, base, change) in enumerate(zip(names, bases, moved, strict=True)):
            x = 0.9 + 2.9 * place
            axes.text(x + 1.0, 4.0, name, ha="center", color=BASE)
            _box(axes, x, 2.6, 2.0, 0.9, base, BASE)
            for shift in (0.28, 0.14, 0.0) if place else ():
                _box(axes, x + shift, 0.3 + shift, 2.0, 0.9, "", MOVED)
            if place:
                axes.text(x + 1.0, 0.75, change, ha="center", va="center", color=INK)
            if place:
                _arrow(axes, (x - 0.9, 3.05), (x, 3.05), BASE)
                _arrow(axes, (x + 1.0, 2.6), (x + 1.0, 1.5), BASE)
            if place > 1:
                _arrow(axes, (x - 0.62, 0.75), (x, 0.75), MOVED)
        axes.text(0.0, 3.05, "base\n(once)", ha="left", va="center", color=BASE)
        axes.text(0.0, 0.85, "differences\n(all K directions)", ha="left", va="center", color=MOVED)


def draw_field() -> None:
    """Which Philox block, word and bit hold the sign of an element."""
    with figure("field", 7.2, 2.9) as axes:
        axes.set(xlim=(-1.6, 13), ylim=(-3.1, 8.9))
        axes.axis("off")
        for row in range(8):
            for col in range(3):
                block = (row // 4) * 3 + col
                colour = "#e3f2fd" if block % 2 else "#eceff1"
                axes.add_patch(Rectangle((4 * col, 7 - row), 4, 1, facecolor=colour, edgecolor="white"))
                axes.text(
                    4 * col + 2,
                    7.5 - row,
                    f"word {row % 4}",
                    ha="center",
                    va="center",
                    color=BASE,
                    fontsize=7,
                )
        for block in range(6):
            left, bottom = 4 * (block % 3), 4 - 4 * (block // 3)
            axes.add_patch(Rectangle((left, bottom), 4, 4, fill=False, edgecolor=INK, linewidth=1.2))
            axes.text(left + 0.12, bottom + 3.93, f"block {block}", va="top", color=INK, fontsize=8)
        for row in range(8):
            axes.text(-0.2, 7.5 - row, f"row {row}", ha="right", va="center", color=INK, fontsize=8)
        for col in range(3):
            axes.text(
                4 * col + 2, 8.3, f"columns {32 * col}…{32 * col + 31}", ha="center", color=INK, fontsize=8
            )
        axes.text(
            6, -1.0, "bit b of a word is column 32·⌊col/32⌋ + b:  1 → +1,  0 → −1", ha="center", color=INK
        )
        counter = "counter = (block, tensor, direction, step)     key = (low, high) of the seed"
        axes.text(6, -2.3, counter, ha="center", color=INK)


def draw_stability() -> None:
    """The largest stable learning rate against K, for a spectrum that falls as 1/i, between its two limits."""
    eigenvalues = 1 / np.arange(1.0, 201.0)
    counts = 2 ** np.arange(13)
    limits = [zo.nzk.max_stable_lr(eigenvalues, num_directions=int(count)) for count in counts]
    trace, largest = eigenvalues.sum(), eigenvalues.max()
    with figure("stability", 6.4, 2.8) as axes:
        axes.loglog(counts, limits, "o-", color=MOVED, markersize=4, label="η* of K averaged directions")
        axes.axhline(2 / largest, color=INK, linestyle="--", linewidth=0.9, label="2/λ_max, gradient descent")
        axes.axhline(2 / trace, color=NOISE, linestyle=":", linewidth=1.2, label="2/Tr H, above η* at K = 1")
        axes.set(xlabel="directions K", ylabel="learning rate", ylim=(0.2, 3))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="center right")


FIGURES: tuple[Callable[[], None], ...] = (draw_cancellation, draw_flow, draw_field, draw_stability)

if __name__ == "__main__":
    for draw in FIGURES:
        draw()
