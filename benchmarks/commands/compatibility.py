"""``python -m benchmarks compat``: which models of other people's packages take a strict step, and how exactly."""

from __future__ import annotations

import argparse

from zo_triton.commands.shared import FAILED, Parser


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    compat = commands.add_parser(
        "compat", help="take a strict step of every known model of transformers, timm, torchvision and PEFT"
    )
    compat.add_argument("--out", help="folder, replaced whole (default reports/compatibility)")
    compat.add_argument("--tiny", action="store_true", help="one model of each kind")
    compat.set_defaults(run=_compat)


def _compat(options: argparse.Namespace) -> int:
    from benchmarks.report import check_destination, new_record, publish

    target = check_destination(options.out or f"reports/{'tiny/' if options.tiny else ''}compatibility")
    from benchmarks.compatibility.run import has_failed, run_compatibility
    from zo_triton._machine import environment
    from zo_triton._progress import monitor

    origin = environment(seed=0)
    with monitor() as told:
        section = run_compatibility(told, options.tiny)
    print(", ".join(f"{count} {word}" for word, count in section["counts"].items()))
    print(f"wrote {publish(new_record(origin, {'compatibility': section}, options.tiny), target)}")
    return FAILED if has_failed(section) else 0
