"""The page ``docs/learning-rates.md``: the table, and how to read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf
from pathlib import Path

from benchmarks.rates.run import BATCH, DIRECTIONS, FALLEN, GROWN, TRIAL, Row
from zo_triton._tables import lay_out, number

PAGE = Path(__file__).resolve().parents[2] / "docs" / "learning-rates.md"

EARLIER = " †"
"""Behind the network's name in a row of an earlier rule."""

HEADERS = [
    "network", "weights", "perturbed", "momentum", "first η*", "lowest η*", "advised", "steps", "first loss",
    "at half of it", "highest at 4 × η*",
]  # fmt: skip


def told(rows: Sequence[Row]) -> str:
    """The whole page."""
    return "\n\n".join([*_before(rows), lay_out(HEADERS, map(_cells, rows)), *_after(rows), ""])


def read(page: str) -> list[Row]:
    """The rows of a page, as exactly as it tells them."""
    return [
        _row(line.strip("|").split("|")) for line in page.splitlines() if re.match(r"\| .*[×∞] +\|$", line)
    ]


def merged(kept: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The kept rows, each new one in the place of the old one of its kind, or at the end."""
    found = {(row.network, row.way, row.momentum): row for row in [*kept, *rows]}
    return list(found.values())


def _cells(row: Row) -> list[str]:
    highest = "∞ ×" if row.highest == inf else f"{row.highest:.3g} ×"
    return [
        row.network + EARLIER * row.earlier, str(row.weights), row.way, f"{row.momentum:g}",
        *map(number, (row.start, row.limit, row.advised)), str(row.steps), *map(number, (row.first, row.late)),
        highest,
    ]  # fmt: skip


def _row(cells: list[str]) -> Row:
    network, weights, way, *figures, last = (cell.strip() for cell in cells)
    times = last.removesuffix(" ×")
    momentum, start, limit, advised, steps, first, late = map(float, figures)
    highest = inf if times == "∞" else float(times)
    return Row(
        network.removesuffix(EARLIER), int(weights), way, momentum, start, limit, advised, int(steps), first, late,
        highest, network.endswith(EARLIER),
    )  # fmt: skip


def _before(rows: Sequence[Row]) -> list[str]:
    names = len({row.network for row in rows})
    shares = [row.start / row.limit for row in rows]
    return [
        "# Learning rates that hold",
        "Curvature grows while a network learns, and the largest stable learning rate η* falls with it: "
        f"on the {names} networks below to as little as 1/{max(shares):.0f}. What `zo.nzk.probe_lr` says "
        "of the first weights is true there, and no advice for a run. `zo.nzk.advise_lr` tries: it "
        "trains copies, measures η* on the way, and divides the learning rate by two to four until one holds.",
        "```python\n"
        "import torch\n"
        "import zo_triton as zo\n"
        "\n"
        "x = torch.randn(256, 20, generator=torch.Generator().manual_seed(0))\n"
        "y = x[:, :4].argmax(1)\n"
        "model = torch.nn.Sequential(torch.nn.Linear(20, 16), torch.nn.Tanh(), torch.nn.Linear(16, 4))\n"
        "opt = zo.ZOSGD(model.parameters(), lr=1.0, directions=16, momentum=0.9)\n"
        "advice = zo.nzk.advise_lr(opt, model, x, y)\n"
        "print(advice)  # lr = … held for 200 steps, in which the loss went from 1.4 to …\n"
        'opt.param_groups[0]["lr"] = advice.lr / 2\n'
        "```",
        "Momentum b brings the limit down by about 1 − b where the noise of the directions sets it, and "
        "less where curvature does. Yet a run's noise walks its weights by η/(1 − b), to where there is "
        "more curvature, so that a rate may hold for hundreds of steps and fail later. Begin a long run "
        "with half the advised rate, after trials that are longer too (`steps=`): the tiny GPT below, with "
        "momentum 0.9 and half of what had held for 200 steps, went from a loss of 2.9 to 1.7 in 800 steps, and to "
        "5.7 by the 4000th.",
        "## Measured",
        f"Made by `python -m benchmarks rates`: ZO-SGD with {DIRECTIONS} directions and batches of "
        f"{BATCH} on digits, enlarged for the convolutions, and on generated sentences. A trial has {TRIAL} "
        "steps, and another seed than the runs. The lowest η\\* is the smallest on the way of the "
        "trial that held. The last columns are the mean loss of the last steps at half the advised rate, "
        "and, at four times the lowest η\\*, the highest loss over the first.",
    ]


def _after(rows: Sequence[Row]) -> list[str]:
    weights = [row for row in rows if row.way == "weights"]
    others = [row for row in rows if row.way != "weights"]
    fell, converged, grew, passed = (
        f"{sum(holds)} of {len(holds)}"
        for holds in (
            [row.falls for row in rows],
            [row.converges for row in rows],
            [row.diverges for row in weights],
            [row.diverges for row in others],
        )
    )
    earlier = (
        f"Rows with{EARLIER} were measured when one failed trial could divide the rate by more than four. "
        if any(row.earlier for row in rows)
        else ""
    )
    slow = [f"{row.network}, {row.way}, momentum {row.momentum:g}" for row in rows if not row.converges]
    return [
        f"{earlier}Half the advised rate brings the loss down in {fell} runs, and to at most {FALLEN:g} of the "
        f"first within its steps in {converged}"
        + (f"; it fell less with {'; '.join(slow)}" if slow else "")
        + f". Four times the limit diverges, to {GROWN:g} times the first loss and mostly without end, in {grew} "
        f"on weights and {passed} on activations.",
        "The limit is that of the weights where it was measured. From the first weights a run may pass it, and "
        "settle where the loss is flatter. A softmax regression always does where its classes can be told apart by "
        "linear functions: the surer it is, the less curvature there is. Along activations, whose directions bring "
        "little noise, and without momentum, even 58 times the first limit lets the loss only rise to some times "
        "the first, and after 200 steps it is a third of it. Where half the advised rate has led, the limit is "
        "2.2, and from there four times as much does make the loss grow, more than tenfold.",
    ]
