"""``zo-triton tune``."""

from __future__ import annotations

import argparse

from zo_triton.commands.shared import Parser


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    tune = commands.add_parser(
        "tune", help="find the tile sizes that are fastest on this machine's GPU, and keep them for it"
    )
    tune.add_argument("--dry-run", action="store_true", help="measure and tell, keep nothing")
    tune.set_defaults(run=_tune)


def _tune(options: argparse.Namespace) -> int:
    from zo_triton import _chip

    reason = _chip.why_not()
    if reason is not None:
        print(reason)
        return 0
    from zo_triton import tuning
    from zo_triton._progress import monitor
    from zo_triton.kernels.choices import device_name, keep

    with monitor() as told:
        found = tuning.tune_everything(told.say)
    for choice in found:
        print(tuning.describe(choice))
    if not options.dry_run:
        faster = {choice.key: choice.config if choice.config is not choice.own else None for choice in found}
        differ = sum(config is not None for config in faster.values())
        path = keep(device_name(0), faster)
        print(f"wrote {path}: {differ} of {len(found)} differ from the launchers' own")
    return 0
