"""``zo-triton``, the library's commands. Heavy imports wait until one of them runs."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from zo_triton.commands import compile, replay, tune, warmup
from zo_triton.commands.shared import USER_ERROR, Parser, run

SUITE = ("report", "race", "gpu", "nzk", "field", "train", "render", "compat", "audit", "rates", "start")
"""Commands of the benchmark suite, which is no part of the installed package."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        arguments: Without the program's name; None takes those of the process.

    Returns:
        0, 1 if a kernel failed to compile, 2 after a user's mistake, told in one line on stderr, or 130 after an
        interrupt.
    """
    given = list(sys.argv[1:] if arguments is None else arguments)
    if given and given[0] in SUITE:
        print(
            f"zo-triton: error: {given[0]} belongs to the benchmark suite; from a checkout of the project run: "
            f"python -m benchmarks {given[0]}",
            file=sys.stderr,
        )
        return USER_ERROR
    return run(_parser(), given)


def _parser() -> Parser:
    parser = Parser(prog="zo-triton", description="Zeroth-order training with fused kernels.")
    parser.add_version()
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (replay, compile, tune, warmup):
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
