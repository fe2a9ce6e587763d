"""The command line. Heavy imports wait until a subcommand needs them."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from zo_triton.commands import compiling, device, replaying, reports, theory, training
from zo_triton.commands.shared import INTERRUPTED, USER_ERROR, Parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        arguments: Without the program's name; None takes those of the process.

    Returns:
        0, 1 if a kernel failed to compile or a check or measurement on the GPU failed, 2 after a user's mistake,
        told in one line on stderr, or 130 after an interrupt.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("zo-triton: interrupted; nothing was replaced.", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        text = " ".join(str(error).split())
        print(f"zo-triton: error: {text}", file=sys.stderr)
        return USER_ERROR


def _parser() -> Parser:
    parser = Parser(prog="zo-triton", description="Zeroth-order training with fused kernels.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in (training, replaying, reports, theory, compiling, device):
        module.add(commands)
    return parser


if __name__ == "__main__":
    sys.exit(main())
