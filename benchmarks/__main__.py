"""``python -m benchmarks``, the suite's commands. Heavy imports wait until one of them runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from benchmarks.commands import (
    audit,
    compatibility,
    device,
    field,
    rates,
    reports,
    starting,
    theory,
    training,
)
from zo_triton.commands.shared import Parser, run


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        arguments: Without the program's name; None takes those of the process.

    Returns:
        0, 1 if a check or measurement failed, 2 after a user's mistake, told in one line on stderr, or 130 after an
        interrupt.
    """
    return run(_parser(), arguments)


def _parser() -> Parser:
    parser = Parser(prog="python -m benchmarks", description="The benchmark suite of zo_triton.")
    parser.add_version()
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (reports, training, theory, field, compatibility, audit, rates, starting, device):
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
