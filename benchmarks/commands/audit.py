"""``python -m benchmarks audit``: what becomes of a difference in each of torch's functions."""

from __future__ import annotations

import argparse

from zo_triton.commands.shared import FAILED, Parser


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    audit = commands.add_parser(
        "audit", help="call every torch function that torch has samples for; write docs/coverage.md"
    )
    audit.add_argument("--out", help="file to write (default docs/coverage.md)")
    audit.add_argument("--samples", type=int, default=1, help="of each operator, at most (default 1)")
    audit.set_defaults(run=_audit)


def _audit(options: argparse.Namespace) -> int:
    from pathlib import Path

    from benchmarks.audit import page, run
    from benchmarks.audit.sweep import WRONG
    from zo_triton._progress import monitor

    with monitor() as told:
        measured = run.measure(told, options.samples)
    target = Path(options.out) if options.out else page.PAGE
    target.write_text(page.told(measured), encoding="utf-8")
    print(f"wrote {target}")
    return FAILED if any(counts[WRONG] for counts in measured.values()) else 0
