"""``python -m benchmarks report``, ``race`` and ``render``: measured, laid out, compared."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from time import monotonic
from typing import TYPE_CHECKING

from benchmarks.catalogue import RACES
from benchmarks.commands.ending import tell_end
from benchmarks.commands.listing import add_list
from benchmarks.commands.showing import show
from zo_triton.commands.shared import FAILED, Parser
from zo_triton.directions import check_seed

if TYPE_CHECKING:
    from benchmarks.suite import Part


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the commands."""
    report = commands.add_parser("report", help="run races and measurements, write a report (three minutes)")
    report.add_argument(
        "--out", help="folder, replaced whole (default reports/latest, reports/full or reports/tiny)"
    )
    report.add_argument("--seed", type=int, default=0, help="first of the seeds (default 0)")
    size = report.add_mutually_exclusive_group()
    size.add_argument("--full", action="store_true", help="the whole suite (twenty minutes)")
    size.add_argument("--tiny", action="store_true", help="prove that everything works, in seconds")
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
        help=", ".join(RACES),
    )
    race.add_argument("--out", help="folder, replaced whole (default reports/RACE, with --tiny reports/tiny)")
    race.add_argument(
        "--method",
        action="append",
        default=[],
        metavar="NAME",
        help="race this method instead of the race's own, which a wrong name lists; repeatable",
    )
    race.add_argument(
        "--contender", action="append", default=[], metavar="FILE.py:NAME",
        help="also race this one: a Method there, or what builds a contender from (model, setting); repeatable",
    )  # fmt: skip
    race.add_argument("--tiny", action="store_true", help="prove that it runs, in seconds")
    race.add_argument("--seed", type=int, default=0, help="first of the seeds (default 0)")
    add_list(race, races=RACES)
    race.set_defaults(run=_race)

    render = commands.add_parser("render", help="lay out a report's record again")
    render.add_argument("folder", metavar="FOLDER", help="with the record, results.json")
    render.set_defaults(run=_render)


def _report(options: argparse.Namespace) -> int:
    if options.compare:
        return _compare(options)
    if options.compare_fail is not None:
        raise ValueError("--compare-fail needs --compare A B, the two reports.")
    from benchmarks.suite import PROFILES

    profile = "full" if options.full else "tiny" if options.tiny else "quick"
    folder = options.out or f"reports/{'latest' if profile == 'quick' else profile}"
    return _measure(options.seed, folder, profile, PROFILES[profile])


def _compare(options: argparse.Namespace) -> int:
    from benchmarks.report import compare, read

    paths = [Path(each) for each in options.compare]
    before, after = (read(path if path.suffix == ".json" else path / "results.json") for path in paths)
    allowed = compare.ALLOWED if options.compare_fail is None else options.compare_fail
    show(compare.render(before, after, allowed))
    if options.compare_fail is None:
        return 0
    worse = [change for change in compare.compare(before, after) if change.verdict(allowed) == compare.WORSE]
    return FAILED if worse else 0


def _race(options: argparse.Namespace) -> int:
    RACES[options.race]  # an unknown one is told before torch is loaded
    from benchmarks.suite import one_race

    folder = options.out or f"reports/{'tiny' if options.tiny else options.race}"
    profile = "tiny" if options.tiny else options.race

    def parts(seed: int) -> list[Part]:
        return one_race(options.race, seed, options.contender, options.tiny, options.method)

    return _measure(options.seed, folder, profile, parts)


def _measure(seed: int, folder: str, profile: str, parts_of: Callable[[int], list[Part]]) -> int:
    """Runs a profile's parts, telling what is left, and publishes their record."""
    # A wrong folder or seed is told before the minutes are spent, not after.
    from benchmarks.report import check_destination, publish
    from benchmarks.suite import plan_of, run_parts
    from zo_triton._progress import monitor

    target = check_destination(folder)
    parts, began = parts_of(check_seed(seed)), monotonic()
    with monitor(plan_of(parts)) as told:
        record = run_parts(parts, seed, profile, told)
    tell_end(record, publish(record, target), monotonic() - began)
    return FAILED if "failed" in record["environment"] else 0


def _render(options: argparse.Namespace) -> int:
    from benchmarks.report import publish, read

    record = read(Path(options.folder) / "results.json")
    print(f"wrote {publish(record, options.folder)}")
    return 0
