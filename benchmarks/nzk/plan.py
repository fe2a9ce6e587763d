"""What an experiment says while it runs, and about how many seconds each takes: what is left is told from it."""

from __future__ import annotations

from benchmarks.nzk.cases import ensemble_size
from benchmarks.nzk.comparison import linearised
from benchmarks.nzk.network import AGGREGATORS
from benchmarks.nzk.problems import Problem
from benchmarks.nzk.settings import Case, Settings


def plan_of(problems: list[Problem], settings: Settings) -> dict[str, float]:
    """Seconds on a quiet core of all that is said, by what is said.

    Args:
        problems: Those of the experiment's cases.
        settings: Of the experiment.
    """
    plan: dict[str, float] = {}
    for problem, case in zip(problems, settings.cases, strict=True):
        runs = ensemble_size(problem.modes, settings)
        plan |= {
            f"{problem.name}: {stage}": each for stage, each in _stages(case, settings.steps, runs).items()
        }
    first = problems[0]
    if first.model is not None:
        plan[real_network(first)] = 3e-3 * settings.steps
        plan |= {linearised(first, settings, name): 2e-4 * settings.steps for name in AGGREGATORS}
    return plan


def real_network(problem: Problem) -> str:
    """What is said of the run on the real network."""
    return f"{problem.name}: the real network, {' and '.join(AGGREGATORS)}"


def _stages(case: Case, steps: int, runs: int) -> dict[str, float]:
    couplings = ("independent", "shared")
    fused = {"shared vectors, parameter space": 2.5e-3 * steps} if case.distribution.field is not None else {}
    return {
        "kernels": 1.5,
        "measured acceleration": 2.0,
        **{f"{coupling} vectors, function space": 5e-5 * steps for coupling in couplings},
        **fused,
        **{f"{coupling} vectors, {runs} runs": 1e-4 * steps for coupling in couplings},
        "learning rates": 0.5,
    }
