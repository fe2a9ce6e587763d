"""The figures of docs/activations.md and their numbers: ``python docs/tools/activation_figures.py``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from figures import BASE, INK, MOVED, NOISE, figure
from torch import Tensor, nn

import zo_triton as zo
from zo_triton.nzk import gradient_error, layer_squares, linearize_nodes
from zo_triton.optim.where_to_perturb import relative_error

BATCH, EPS = 64, 1e-4
COUNTS = (1, 2, 4, 8, 16, 24, 32, 48, 64, 128)
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
            NOISE, "weights", "rademacher",
            [relative_error(list(squares.values()), [False, False], num) for num in COUNTS],
        ),
        "activations, independent signs": (BASE, "activations", "rademacher", at_nodes(lambda num: None)),
        "activations, hadamard": (MOVED, "activations", "hadamard", at_nodes(smallest_order)),
    }  # fmt: skip
    with figure("activation_error", 6.4, 3.4) as axes:
        for name, (colour, perturb, distribution, formula) in curves.items():
            found = [measured(num, perturb, distribution) for num in COUNTS]
            for num, expected, error in zip(COUNTS, formula, found, strict=True):
                tell(f"{name}, K = {num}: formula {expected:.4g}, measured {error:.4g}")
            axes.loglog(
                COUNTS, [value or None for value in formula], "-", color=colour, label=name, linewidth=1
            )
            axes.loglog(COUNTS, found, "o", color=colour, markersize=4)
        axes.set(xlabel="directions K", ylabel="relative squared error", ylim=(1e-3, 1e4))
        axes.grid(alpha=0.3)
        axes.legend(frameon=False, loc="lower left")


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
        "weights, independent signs": (NOISE, "weights", "rademacher"),
        "activations, independent signs": (BASE, "activations", "rademacher"),
        "activations, hadamard": (MOVED, "activations", "hadamard"),
    }
    with figure("activation_steps", 6.4, 2.8) as axes:
        for name, (colour, perturb, distribution) in curves.items():
            found = [middle(num, perturb, distribution) for num in TRAINED_WITH]
            shown = [value if value <= MOST_STEPS else None for value in found]
            axes.plot(TRAINED_WITH, shown, "o-", color=colour, label=name, markersize=4)
        axes.axhline(middle(None), color=INK, linestyle="--", linewidth=0.9, label="backpropagation")
        axes.set(xlabel="directions K", ylabel=f"steps to {TARGET:.0%}", ylim=(0, MOST_STEPS))
        axes.set_xscale("log", base=2)
        axes.grid(alpha=0.3)
        axes.legend(frameon=False)


if __name__ == "__main__":
    torch.set_num_threads(1)
    draw_error()
    draw_steps()
