"""``python -m benchmarks report``, ``race``, ``render`` and ``bench``: measured, laid out, compared."""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from zo_triton.commands.shared import FAILED, Parser, make_console


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the commands."""
    report = commands.add_parser("report", help="run the races and write a report (some minutes)")
    report.add_argument(
        "--out", default="reports/latest", help="folder, replaced whole (default reports/latest)"
    )
    report.add_argument("--seed", type=int, default=0, help="first of the seeds (default 0)")
    report.add_argument("--tiny", action="store_true", help="prove that everything works, in seconds")
    report.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="run nothing: tell what changed from report A to report B",
    )
    report.add_argument(
        "--compare-fail", type=float, metavar="RATIO", help="fail if anything became so many times worse"
    )
    report.set_defaults(run=_report)

    race = commands.add_parser("race", help="race fused ZO against MeZO and backprop on one task")
    race.add_argument(
        "race",
        metavar="RACE",
        help="digits-mlp, nzk-linear, nzk-network, tiny-gpt, mnist-mlp, mnist-cnn, cifar-cnn or tiny-imagenet-cnn",
    )
    race.add_argument("--out", help="folder, replaced whole (default reports/RACE)")
    race.add_argument("--seed", type=int, default=0, help="first of the seeds (default 0)")
    race.set_defaults(run=_race)

    render = commands.add_parser("render", help="lay out a report's record again")
    render.add_argument("folder", metavar="FOLDER", help="with the record, results.json")
    render.set_defaults(run=_render)

    bench = commands.add_parser("bench", help="run the benchmarks of a checkout and refresh its report")
    bench.add_argument("--tiny", action="store_true", help="few repeats, report untouched")
    bench.set_defaults(run=_bench)


def _report(options: argparse.Namespace) -> int:
    if options.compare:
        return _compare(options)
    if options.compare_fail is not None:
        raise ValueError("--compare-fail needs --compare A B, the two reports.")
    from benchmarks.suite import run_report

    return _measure(options, options.out, lambda say: run_report(options.seed, options.tiny, say))


def _compare(options: argparse.Namespace) -> int:
    from benchmarks.report import compare, read

    paths = [Path(each) for each in options.compare]
    before, after = (read(path if path.suffix == ".json" else path / "results.json") for path in paths)
    allowed = compare.ALLOWED if options.compare_fail is None else options.compare_fail
    print(compare.render(before, after, allowed))
    if options.compare_fail is None:
        return 0
    worse = [change for change in compare.compare(before, after) if change.verdict(allowed) == compare.WORSE]
    return FAILED if worse else 0


def _race(options: argparse.Namespace) -> int:
    from benchmarks.race.races import RACES
    from benchmarks.suite import run_race

    RACES[options.race]  # an unknown one is told before anything runs
    return _measure(
        options,
        options.out or f"reports/{options.race}",
        lambda say: run_race(options.race, options.seed, say),
    )


def _measure(
    options: argparse.Namespace, folder: str, run: Callable[[Callable[[str], None]], dict[str, Any]]
) -> int:
    """Runs an experiment, telling what it does, and publishes its record."""
    # A wrong folder is told before the minutes are spent, not after.
    from benchmarks.report import check_destination, publish

    target = check_destination(folder)
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), got {options.seed}.")
    console = make_console()
    if console.is_terminal:
        with console.status("starting") as status:
            record = run(status.update)
    else:
        record = run(lambda message: print(message, flush=True))
    print(f"wrote {publish(record, target)}")
    return 0


def _render(options: argparse.Namespace) -> int:
    from benchmarks.report import publish, read

    record = read(Path(options.folder) / "results.json")
    print(f"wrote {publish(record, options.folder)}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    checkout = Path(__file__).resolve().parents[2]
    if not (checkout / "benchmarks").is_dir() or not (checkout / "conftest.py").is_file():
        raise ValueError(
            f"bench needs a checkout with a benchmarks folder, and {checkout} is none; clone the project."
        )
    command = [sys.executable, "-m", "pytest", "--benchmark", *(["--tiny"] if options.tiny else [])]
    return subprocess.run(command, cwd=checkout).returncode
