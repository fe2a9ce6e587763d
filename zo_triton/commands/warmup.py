"""``zo-triton warmup``."""

from __future__ import annotations

import argparse

from zo_triton.commands.shared import Parser


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    warmup = commands.add_parser(
        "warmup", help="compile the CPU kernels of common programs now, so that no first step waits for them"
    )
    warmup.add_argument(
        "programs", nargs="*", metavar="PROGRAM",
        help="mlp, fused, activations, cnn or transformer (default all)",
    )  # fmt: skip
    warmup.set_defaults(run=_warmup)


def _warmup(options: argparse.Namespace) -> int:
    from zo_triton.warmup import PROGRAMS, check_names, warm_up

    names = check_names(options.programs)
    from time import monotonic

    from zo_triton._progress import monitor

    start = monotonic()
    with monitor() as told:
        told.say("compiling the CPU kernels")
        for done, (name, seconds) in enumerate(warm_up(names), 1):
            left = (monotonic() - start) / done * (len(names) - done)
            rest = f", about {left:.0f} s left" if left else ""
            told.say(f"{done} of {len(names)}: {PROGRAMS[name]}, {seconds:.0f} s{rest}")
    print("all compiled; later runs load them from the cache")
    return 0
