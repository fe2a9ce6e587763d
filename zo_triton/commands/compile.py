"""``zo-triton compile``."""

from __future__ import annotations

import argparse
import sys

from zo_triton.commands.shared import FAILED, Parser


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    compiling = commands.add_parser(
        "compile", help="compile every kernel for GPUs that need not be here; read the machine code"
    )
    compiling.add_argument(
        "--target", action="append", default=[], metavar="CHIP",
        help="sm_80, sm_90, sm_100 or gfx942; may be repeated (default all)",
    )  # fmt: skip
    compiling.add_argument(
        "--kernel", action="append", default=[], metavar="NAME",
        help="part of the name of a kernel or variant; may be repeated (default all)",
    )  # fmt: skip
    compiling.add_argument("--defaults", action="store_true", help="only the configs that launchers pick")
    compiling.add_argument("--json", metavar="FILE", help="write the record")
    compiling.add_argument("--figure", metavar="FILE", help="draw tensor against other clocks (.png or .svg)")
    compiling.add_argument("--out", metavar="DIR", help="write compile.json, compile.md and compile.svg")
    compiling.set_defaults(run=_compile)


def _compile(options: argparse.Namespace) -> int:
    # Wrong names are told before anything is loaded that takes seconds.
    from zo_triton._figures import check_figure, check_matplotlib
    from zo_triton.compilation.names import check_parts, check_targets

    check_targets(options.target)
    check_parts(options.kernel)
    if options.figure:
        check_figure(options.figure)
    if options.figure or options.out:
        check_matplotlib()
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            "compile needs Triton, which runs on Linux: pip install triton; all else works without it."
        ) from error
    from zo_triton._files import write_text
    from zo_triton.compilation import render, run
    from zo_triton.compilation.variants import VARIANTS

    jobs = run.choose(VARIANTS, options.target, options.kernel, options.defaults)
    from time import monotonic

    from zo_triton._machine import environment
    from zo_triton._progress import monitor

    began = monotonic()
    with monitor() as told:
        told.say("compiling")
        record = run.compile_all(
            jobs, environment(seed=0),
            lambda done, total: told.progress(done, total, f"{done} of {total} compiled"),
        )  # fmt: skip
    print(render.table(record))
    if options.json:
        write_text(options.json, run.dumps(record))
    if options.figure:
        render.draw(record, options.figure)
    written = [options.json, options.figure, options.out and render.write_folder(record, options.out)]
    failed = run.failures(record)
    places = ", ".join(str(each) for each in written if each)
    print(
        f"{len(jobs) - len(failed)} of {len(jobs)} compiled in {monotonic() - began:.0f} s"
        + (f"; wrote {places}" if places else "")
    )
    for row in failed:
        print(f"failed: {row['variant']} on {row['target']}: {row['error']}", file=sys.stderr)
    return FAILED if failed else 0
