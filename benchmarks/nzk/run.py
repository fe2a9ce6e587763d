"""From a name and settings to a record, the only thing that the command line calls."""

from __future__ import annotations

from dataclasses import asdict, replace
from typing import Any

import torch

from benchmarks.nzk.cases import Monitor, run_case, stability
from benchmarks.nzk.comparison import compare, network_runs
from benchmarks.nzk.network import AGGREGATORS, background
from benchmarks.nzk.plan import plan_of, real_network
from benchmarks.nzk.problems import Problem, make_problem
from benchmarks.nzk.settings import EXPERIMENTS, Settings, shrink
from benchmarks.report import Record, new_record
from zo_triton._machine import environment
from zo_triton._threads import torch_threads
from zo_triton.data import export_mat
from zo_triton.directions import check_seed
from zo_triton.ops import use_engine

MOST_STEPS = 10_000_000


def choose_settings(
    name: str,
    steps: int | None = None,
    lr: float | None = None,
    draws: int | None = None,
    directions: int | None = None,
    seed: int = 0,
    resize: str = "bilinear",
    tiny: bool = False,
) -> Settings:
    """The paper's settings of an experiment with the given ones in their place.

    Args:
        name: A key of :data:`~benchmarks.nzk.settings.EXPERIMENTS`.
        steps: Of every curve.
        lr: η of every method.
        draws: Of the empirical kernels.
        directions: K: averaged in the kernels, or for the networks directions a step of the real network.
        seed: Of data, weights and directions.
        resize: ``bilinear`` or ``area``.
        tiny: Shrink everything that is not given.

    Raises:
        ValueError: A name is unknown or a number out of range.
    """
    check_seed(seed)
    for label, value, least in (("steps", steps, 10), ("draws", draws, 50), ("directions", directions, 1)):
        if value is not None and not least <= value <= MOST_STEPS:
            raise ValueError(f"{label} must be from {least} to {MOST_STEPS}, got {value}.")
    if lr is not None and not 0 < lr < float("inf"):
        raise ValueError(f"lr must be positive and finite, got {lr}.")
    if resize not in ("bilinear", "area"):
        raise ValueError(f"unknown resize {resize!r}; choose bilinear or area.")
    settings = shrink(EXPERIMENTS[name]) if tiny else EXPERIMENTS[name]
    given: dict[str, Any] = {"steps": steps, "lr": lr, "draws": draws, "seed": seed, "resize": resize}
    network = settings.cases[0].kind != "linear"
    given["network_directions" if network else "directions"] = directions
    return replace(settings, **{key: value for key, value in given.items() if value is not None})


def run_experiment(
    settings: Settings, monitor: Monitor, engine: str | None = None, export: str | None = None
) -> Record:
    """Runs an experiment.

    Args:
        settings: From :func:`choose_settings`.
        monitor: Told what runs now, and before that which learning rates are unstable.
        engine: reference, cpu or triton for the runs in parameter space; None lets the device decide.
        export: Where to write the data of the first case in MATLAB's format; None for nowhere.

    Returns:
        A valid record, not yet written.

    Raises:
        ValueError: The engine is unknown, or a data set is damaged.
        OSError: The exported file can't be written.
        RuntimeError: The engine can't run here.
    """
    # At these sizes a second thread only waits, and the real network's runs need it.
    with torch_threads(1):
        return _run(settings, monitor, engine, export)


def _run(settings: Settings, monitor: Monitor, engine: str | None, export: str | None) -> Record:
    device = torch.device("cuda" if engine == "triton" and torch.cuda.is_available() else "cpu")
    with use_engine(engine):
        pass
    origin = environment(settings.seed)
    problems = [make_problem(case, settings) for case in settings.cases]
    exported = None if export is None else str(export_mat(problems[0].pair, export))
    notes = [problem.warning for problem in problems if problem.warning]
    for problem, case in zip(problems, settings.cases, strict=True):
        notes += _unstable(problem, stability(problem, case, settings), settings)
    for note in notes:
        monitor.say(f"note: {note}")
    if exported:
        monitor.say(f"wrote {exported}")
    monitor.expect(plan_of(problems, settings))
    real = problems[0] if problems[0].model is not None else None
    runs = [] if real is None else network_runs(real, settings, engine, str(device))
    with background(runs) as wait:
        cases = [
            run_case(problem, case, settings, engine, device, monitor)
            for problem, case in zip(problems, settings.cases, strict=True)
        ]
        network = None
        if real is not None:
            monitor.enter(real_network(real))
            losses = wait(lambda step: monitor.progress(step, settings.steps))
    if real is not None:
        network = {
            "directions": settings.network_directions,
            "eps": settings.eps,
            "runs": [
                compare(real, settings, aggregator, found, monitor)
                for aggregator, found in zip(AGGREGATORS, losses, strict=True)
            ],
        }
    section = {
        "name": settings.name,
        "title": settings.title,
        "settings": {key: value for key, value in asdict(settings).items() if key not in ("cases", "title")},
        "engine": engine or "the device's own",
        "notes": notes,
        "cases": cases,
        "network": network,
    }
    return new_record(origin, {"nzk": section}, settings.tiny)


def _unstable(problem: Problem, rows: list[dict[str, Any]], settings: Settings) -> list[str]:
    """A sentence a method whose mean loss grows at the experiment's learning rate."""
    return [
        f"{problem.name}: lr {settings.lr:g} is beyond the stable limit {row['limit']:.3g} of {row['label']}, "
        f"whose kernel is {row['factor']:.4g} times the NTK: its mean loss grows without bound, though a single "
        "run may still come down."
        for row in rows
        if not row["stable"]
    ]
