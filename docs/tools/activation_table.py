"""The table of docs/activations.md, where to perturb: ``PYTHONPATH=. python docs/tools/activation_table.py``."""

from __future__ import annotations

import sys
from collections.abc import Callable
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.race.gpt import CONTEXT, TinyGPT, sentences
from benchmarks.race.networks import make_cnn, make_lenet, make_mlp
from zo_triton.data import Dataset, digits, load
from zo_triton.nzk import layer_squares
from zo_triton.optim.where_to_perturb import balanced_scales, choose, relative_error

SAMPLES, STEPS, LEARNING_RATE = 64, 60, 3e-3


def named(ways: tuple[bool, ...]) -> str:
    """n for nodes, w for weights."""
    return "".join("n" if way else "w" for way in ways)


def row(name: str, model: nn.Module, data: Dataset, steps: int) -> str:
    """One network after some steps of Adam: K times the relative squared error with independent signs."""
    x, y = torch.tensor(data.train_x).flatten(1), torch.tensor(data.train_y)
    generator = torch.Generator().manual_seed(1)
    optimizer = torch.optim.Adam(model.parameters(), LEARNING_RATE)
    for _ in range(steps):
        batch = torch.randint(len(x), (SAMPLES,), generator=generator)
        optimizer.zero_grad()
        F.cross_entropy(model(x[batch]), y[batch]).backward()
        optimizer.step()
    batch = torch.randint(len(x), (SAMPLES,), generator=generator)

    def losses(outputs: Tensor) -> Tensor:
        return F.cross_entropy(outputs, y[batch], reduction="none")

    found, known = layer_squares(model, x[batch], losses)
    squares, layers = list(found.values()), list(known.values())
    errors = {
        ways: relative_error(squares, ways, 1)
        for ways in product(*((True, False) if layer.nodes else (False,) for layer in layers))
    }
    nodes = tuple(layer.nodes > 0 for layer in layers)
    best = min(errors, key=lambda ways: errors[ways])
    chosen = tuple(not there for there in choose(layers, SAMPLES, 16).at_weights)
    balanced = relative_error(squares, nodes, 1, scales=balanced_scales(layers, nodes))
    values = [errors[(False,) * len(layers)], errors[nodes], errors[chosen], errors[best], balanced]
    figures = " | ".join(f"{value:.0f}" for value in values)
    return f"| {name} | {steps} | {named(chosen)} | {named(best)} | {figures} |\n"


def main() -> None:
    """Writes the rows."""
    mnist, text = load("mnist").standardized(), sentences()
    characters = int(text.train_y.max()) + 1
    cases: dict[str, tuple[Callable[[], nn.Module], Dataset]] = {
        "64-32-10": (lambda: make_mlp((64, 32, 10), 0), digits().standardized()),
        "784-32-10": (lambda: make_mlp((784, 32, 10), 0), mnist),
        "784-256-256-10": (lambda: make_mlp((784, 256, 256, 10), 0), mnist),
        "MNIST CNN": (lambda: make_cnn((1, 28, 28), 10, 0), mnist),
        "LeNet-5": (lambda: make_lenet(0), mnist),
        "tiny GPT": (lambda: TinyGPT(characters, CONTEXT, 0), text),
    }
    for name, (make, data) in cases.items():
        for steps in (0, STEPS):
            sys.stdout.write(row(name, make(), data, steps))
            sys.stdout.flush()


if __name__ == "__main__":
    torch.set_num_threads(1)
    main()
