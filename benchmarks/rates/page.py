"""The page ``docs/learning-rates.md``: the table, and how to read it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from math import inf
from pathlib import Path

from benchmarks.rates.run import BATCH, BEYOND, DIRECTIONS, FALLEN, GROWN, LATE, SAMPLES, TRIAL, Row
from zo_triton._tables import lay_out, number

PAGE = Path(__file__).resolve().parents[2] / "docs" / "learning-rates.md"

HEADERS = [
    "network", "weights", "perturbed", "momentum", "first η*", "lowest η*", "advised", "steps", "first loss",
    "at half of it", "η* there", "then at half of it", "then at 4 × η*",
]  # fmt: skip

INFINITE = "∞"


def told(rows: Sequence[Row]) -> str:
    """The whole page."""
    return "\n\n".join([*_before(rows), lay_out(HEADERS, map(_cells, rows)), *_after(rows), ""])


def read(page: str) -> list[Row]:
    """The rows of a page, as exactly as it tells them."""
    return [_row(line.strip("|").split("|")) for line in page.splitlines() if re.match(r"\| .* × +\|$", line)]


def merged(kept: Sequence[Row], rows: Sequence[Row]) -> list[Row]:
    """The kept rows, each new one in the place of the old one of its kind, or at the end."""
    found = {(row.network, row.way, row.momentum): row for row in [*kept, *rows]}
    return list(found.values())


def _cells(row: Row) -> list[str]:
    return [
        row.network, str(row.weights), row.way, f"{row.momentum:g}",
        *map(number, (row.start, row.limit, row.advised)), str(row.steps),
        *map(number, (row.first, row.late)),
        number(row.there), *map(_times, (row.calm, row.highest)),
    ]  # fmt: skip


def _times(ratio: float) -> str:
    return f"{INFINITE} ×" if ratio == inf else f"{ratio:.3g} ×"


def _row(cells: list[str]) -> Row:
    network, weights, way, *figures = (cell.strip().removesuffix(" ×") for cell in cells)
    momentum, start, limit, advised, steps, *found = (
        inf if figure == INFINITE else float(figure) for figure in figures
    )
    return Row(network, int(weights), way, momentum, start, limit, advised, int(steps), *found)


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
        "less where curvature does. Yet a run's noise walks its weights by η/(1 − b) a step, to where there is "
        "more curvature, so that a rate may hold for hundreds of steps and fail later.",
        "## How long a trial must be",
        "After t steps at the rate η a run has gone ηt along its path, and noise has led it η√t away from it,"
        " times what neither η nor t has a part in. At half the rate and in twice the steps it goes as far "
        "along the path, and is led 1/√2 as far away. So **a trial of half of a run's steps vouches for the "
        "run at half the advised rate**, with any momentum: `steps=1000` before a run of 2000. `str(advice)` "
        "says for how many steps its half is advised. In four times the trial's steps noise leads as far away"
        " as it led the trial, which may have ended just in time: the tiny GPT below, with momentum 0.9 and "
        "half of what held for 1000 steps, had a loss of 0.64 after 3000 steps, 0.97 after 3500 and 0.62 "
        "after 4000; half of what an earlier rule advised, after trials of 200, had led it to 5.7.",
        "## Measured",
        f"Made by `python -m benchmarks rates`: ZO-SGD with {DIRECTIONS} directions and batches of "
        f"{BATCH} on digits, enlarged for the convolutions, and on generated sentences. A trial has half of "
        f"its run's steps and at least {TRIAL}, and another seed. The lowest η\\* is the smallest on the way of "
        "the trial that held. Losses are those over all samples, in eval mode: at the first weights, and where "
        f"half the advised rate has led, as a mean over {LATE} steps. There η\\* is measured again, on {SAMPLES} "
        f"samples, and {BEYOND} further steps are taken twice, with half the advised rate and with four times "
        "that η\\*, on the same batches and directions. The last columns are the highest loss in each over what "
        "it was.",
    ]


def _after(rows: Sequence[Row]) -> list[str]:
    fell, converged, grew = (
        f"{sum(holds)} of {len(holds)}"
        for holds in (
            [row.falls for row in rows],
            [row.converges for row in rows],
            [row.diverges for row in rows],
        )
    )
    slow = [f"{row.network}, {row.way}, momentum {row.momentum:g}" for row in rows if not row.converges]
    return [
        f"Half the advised rate brings the loss down in {fell} runs, and to at most {FALLEN:g} of the "
        f"first within its steps in {converged}"
        + (f"; it fell less with {'; '.join(slow)}" if slow else "")
        + f". Four times the limit diverges in {grew}: the loss over all samples comes to be {GROWN:g} times what "
        f"it was, and {GROWN:g} times what half the advised rate lets it become in as many steps, so that noise is "
        "not taken for growth.",
        "The limit is that of the weights where it was measured. From the first weights a run may pass it, and "
        "settle where the loss is flatter. A softmax regression always does where its classes can be told apart by "
        "linear functions: the surer it is, the less curvature there is. Along activations, whose directions bring "
        "little noise, and without momentum, even 58 times the first limit lets the loss only rise to some times "
        "the first, and after 600 steps it is less than half of it. So four times the limit is tried "
        "where a run has led.",
    ]
