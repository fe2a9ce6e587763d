"""The figures of docs/activations.md, and their numbers; run it with ``PYTHONPATH=.``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
import torch.nn.functional as F
from figures import save
from torch import Tensor, nn

import zo_triton as zo
from benchmarks.report.labels import Label, label_ends
from zo_triton._figures import BLUE, GREEN, PURPLE, VERMILION
from zo_triton.nzk import gradient_error, layer_squares, linearize_nodes
from zo_triton.optim.where_to_perturb import relative_error

BATCH, EPS = 64, 1e-4
COUNTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 128)
SMALLEST_ERROR = 1e-3
TRAINED_WITH = (4, 8, 16, 32, 64)
TARGET, MOST_STEPS, LEARNING_RATE = 0.95, 400, 1e-2


def network(seed: int) -> nn.Sequential:
    """64-32-10: 42 nodes a sample, 2 410 weights."""
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(seed)
        return nn.Sequential(nn.Linear(64, 32), nn.ReLU(), nn.Linear(32, 10))


def data() -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Standardised digits: training images and labels, test images and labels."""
    found = zo.data.digits().standardized()
    return tuple(map(torch.tensor, (found.train_x, found.train_y, found.test_x, found.test_y)))  # type: ignore


def tell(line: str) -> None:
    """Writes a line of numbers."""
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


def smallest_order(num: int) -> int:
    """M of ``hadamard`` directions."""
    return 1 << (num - 1).bit_length()


def draw_error(tries: int = 20) -> None:
    """Relative squared error of a batch's gradient against K: formulas as lines, the library's steps as points."""
    x, y, *_ = data()
    x, y, net = x[:BATCH], y[:BATCH], network(0)
    model = linearize_nodes(net, x)
    logits = torch.tensor(model.outputs).reshape(BATCH, 10).requires_grad_()
    F.cross_entropy(logits, y, reduction="sum").backward()
    slope = logits.grad.flatten()
    square = float((model.gradient(slope) ** 2).sum())
    squares, _ = layer_squares(net, x, lambda f: F.cross_entropy(f, y, reduction="none"))

    def at_nodes(order: Callable[[int], int | None]) -> list[float]:
        return [gradient_error(model, slope, num, order(num)) / square for num in COUNTS]

    wide = network(0).double()
    F.cross_entropy(wide(x.double()), y).backward()
    truth = [parameter.grad for parameter in wide.parameters()]

    def measured(num: int, perturb: str, distribution: str) -> float:
        errors = []
        for step in range(tries):
            zo.estimate_gradient(
                lambda: F.cross_entropy(net(x), y), net.parameters(),
                zo.Directions(1, step, num, distribution), EPS, sides=2, perturb=perturb,
            )  # fmt: skip
            gaps = zip(net.parameters(), truth, strict=True)
            errors.append(sum(float((p.grad.double() - t).square().sum()) for p, t in gaps) / square)
        return sum(errors) / tries

    curves = {
        "weights, independent signs": (
            BLUE, "weights", "rademacher",
            [relative_error(list(squares.values()), [False, False], num) for num in COUNTS],
        ),
        "activations, independent signs": (PURPLE, "activations", "rademacher", at_nodes(lambda num: None)),
        "activations, hadamard": (VERMILION, "activations", "hadamard", at_nodes(smallest_order)),
    }  # fmt: skip
    errors = {
        name: [measured(num, perturb, law) for num in COUNTS] for name, (_, perturb, law, _) in curves.items()
    }
    for name, (*_, formula) in curves.items():
        for num, expected, error in zip(COUNTS, formula, errors[name], strict=True):
            tell(f"{name}, K = {num}: formula {expected:.4g}, measured {error:.4g}")

    def plot(axes: Any) -> None:
        ends = []
        for name, (colour, _, _, formula) in curves.items():
            axes.loglog(COUNTS, [value or None for value in formula], "-", color=colour, linewidth=1.2)
            axes.loglog(COUNTS, errors[name], "o", color=colour, markersize=4)
            # With 64 orthogonal directions nothing is left to be seen.
            last = max(at for at, error in enumerate(errors[name]) if error > SMALLEST_ERROR)
            ends.append(Label(name, (COUNTS[last], errors[name][last]), colour, bold=colour == VERMILION))
        axes.set(xlabel="directions K", ylabel="relative squared error", ylim=(SMALLEST_ERROR, 1e4))
        label_ends(axes, ends, width=13)

    save("activation_error", 3.8, plot)


def steps_to_target(seed: int, num: int | None, perturb: str, distribution: str) -> int | None:
    """Steps of Adam until the test accuracy is reached, looked at every five; None if it is not."""
    x, y, test_x, test_y = data()
    net, generator = network(seed), torch.Generator().manual_seed(seed)
    optimizer = torch.optim.Adam(net.parameters(), LEARNING_RATE)
    for step in range(1, MOST_STEPS + 1):
        batch = torch.randint(len(x), (BATCH,), generator=generator)

        def loss(batch: Tensor = batch) -> Tensor:
            return F.cross_entropy(net(x[batch]), y[batch])

        if num is None:
            optimizer.zero_grad()
            loss().backward()
        else:
            named = zo.Directions(seed, step, num, distribution)
            zo.estimate_gradient(loss, net.parameters(), named, EPS, perturb=perturb)
        optimizer.step()
        if step % 5 == 0:
            with torch.no_grad():
                accuracy = (net(test_x).argmax(1) == test_y).float().mean().item()
            if accuracy >= TARGET:
                return step
    return None


def draw_steps(seeds: range = range(3)) -> None:
    """Steps to 95 % on digits against K, medians of three seeds, beside backpropagation's."""

    def middle(num: int | None, perturb: str = "weights", distribution: str = "rademacher") -> float:
        found = [steps_to_target(seed, num, perturb, distribution) for seed in seeds]
        value = median(step or MOST_STEPS + 1 for step in found)
        tell(f"steps, {perturb}, {distribution}, K = {num}: {found}, median {value}")
        return value

    curves = {
        "weights, independent signs": (BLUE, "weights", "rademacher"),
        "activations, independent signs": (PURPLE, "activations", "rademacher"),
        "activations, hadamard": (VERMILION, "activations", "hadamard"),
    }
    found = {
        name: [middle(num, perturb, law) for num in TRAINED_WITH]
        for name, (_, perturb, law) in curves.items()
    }
    theirs = middle(None)

    def plot(axes: Any) -> None:
        axes.axhline(theirs, color=GREEN, linestyle="--", linewidth=1.2)
        ends = [Label("backpropagation", (TRAINED_WITH[-1], theirs), GREEN)]
        for name, (colour, *_) in curves.items():
            shown = [value if value <= MOST_STEPS else None for value in found[name]]
            axes.plot(TRAINED_WITH, shown, "o-", color=colour, markersize=4)
            last = max(at for at, value in enumerate(shown) if value is not None)
            ends.append(Label(name, (TRAINED_WITH[last], shown[last]), colour, bold=colour == VERMILION))
        axes.set(xlabel="directions K", ylabel=f"steps to {TARGET:.0%}", ylim=(0, MOST_STEPS))
        axes.set_xscale("log", base=2)
        axes.set_xticks(TRAINED_WITH, [str(num) for num in TRAINED_WITH])
        label_ends(axes, ends, width=13)

    save("activation_steps", 3.6, plot)


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw_error()
    draw_steps()
