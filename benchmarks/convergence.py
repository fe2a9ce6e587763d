"""Convergence per wall-clock: training by forward passes only against backpropagation. Read this file first.

Run as ``python -m benchmarks.convergence``; half a minute. Every race of this suite is these three steps:

1. The gate. A linear model is trained through the fused kernels, and at every step its outputs must be where the
   Neural Zeroth-order Kernel (arXiv 2603.21169) says, computed in float64 from the same random directions. Where
   they are not, nothing is timed.
2. The race. All methods train the same network from the same first weights on the same batches; each has tried the
   same learning rates before. The clock runs during training steps only.
3. The table. Seconds to a test accuracy, who was soonest first; losing to backpropagation is a row like any other.
"""

from __future__ import annotations

from dataclasses import replace
from statistics import median

from benchmarks.contenders.registry import METHODS
from benchmarks.measure.gates import run_gate
from benchmarks.race.loop import race
from benchmarks.race.races import RACES
from benchmarks.race.tasks import TASKS
from zo_triton._tables import lay_out, number

NAMES = ("zo-adam", "mezo-adam", "adam")
"""This project's fused directions, the loop that everybody knows, and backpropagation, all with Adam."""


def main(train_steps: int = 100, seconds: float = 2.0, seeds: tuple[int, ...] = (0, 1, 2)) -> str:
    """Checks, races and lays out.

    Args:
        train_steps: Of each walk that is checked against the theory.
        seconds: Of training for one run.
        seeds: Of weights, batches and directions.

    Returns:
        The table, in Markdown.

    Raises:
        GateError: The kernels do not compute what the theory says.
    """
    gate = run_gate(train_steps, print)
    worst = max(row["worst"] / row["allowed"] for row in gate["rows"])
    print(f"the kernels follow the theory: at most {worst:.0%} of the error allowed")

    config = replace(
        RACES["digits-mlp"].config,
        directions=(128,),
        learning_rates=(3e-3, 1e-2, 3e-2),
        trial_seconds=seconds / 4,
        run_seconds=seconds,
        seeds=seeds,
    )
    contenders = [METHODS[name] for name in NAMES]
    *_, rows = race(contenders, TASKS["digits"].prepare(), config, print)

    goal = f"{max(config.targets):g}"
    table = []
    for row in rows:
        taken = [run["reached"][goal] for run in row["runs"]]
        reached = [one["seconds"] if one else float("inf") for one in taken]
        soonest = median(reached) if reached else float("inf")
        table.append((soonest, [row["label"], number(row["step_ms"]), str(row["evaluations_per_step"])]))
    return lay_out(
        ["method", "ms a step", "evaluations a step", f"seconds to {100 * float(goal):.0f} %"],
        [
            [*cells, number(soonest) if soonest < float("inf") else f"not in {seconds:g} s"]
            for soonest, cells in sorted(table)
        ],
    )


if __name__ == "__main__":
    print(main())
