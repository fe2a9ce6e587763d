"""``python -m benchmarks start``: seconds to the first step."""

from __future__ import annotations

import argparse

from zo_triton.commands.shared import Parser


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    start = commands.add_parser(
        "start",
        help="measure the seconds to the first step of common programs, cold and warm",
    )
    start.add_argument("programs", nargs="*", metavar="PROGRAM", help="see zo-triton warmup (default all)")
    start.set_defaults(run=_start)


def _start(options: argparse.Namespace) -> int:
    from zo_triton.warmup import PROGRAMS, check_names

    names = check_names(options.programs)
    from benchmarks.measure.first_step import measure
    from zo_triton._tables import lay_out

    rows = []
    for start in measure(names):
        slowest = ", ".join(f"{name} {seconds:.1f}" for name, seconds in start.slowest)
        print(f"{start.program}, {start.cache}: {start.seconds:.1f} s", flush=True)
        rows.append(
            [
                PROGRAMS[start.program], start.cache, f"{start.seconds:.1f}", f"{start.cpu_seconds:.1f}",
                start.kernels, slowest,
            ]
        )  # fmt: skip
    print(lay_out(["program", "cache", "s", "CPU s", "kernels compiled", "slowest, CPU s"], rows))
    return 0
