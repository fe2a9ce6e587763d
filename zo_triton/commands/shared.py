"""What all subcommands share: exit codes, the parser, how a command is run."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from io import TextIOWrapper
from typing import NoReturn

from zo_triton import __version__

FAILED = 1
USER_ERROR = 2
INTERRUPTED = 130


class Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is a ``--help`` away."""

    def add_version(self) -> None:
        """Adds ``--version``."""
        self.add_argument("--version", action="version", version=f"zo_triton {__version__}")

    def error(self, message: str) -> NoReturn:
        """Ends the program."""
        self.exit(USER_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def run(parser: Parser, arguments: Sequence[str] | None) -> int:
    """Runs the subcommand that the arguments name, and tells a user's mistake in one line on stderr.

    Args:
        parser: Its subcommands set ``run``.
        arguments: Without the program's name; None takes those of the process.

    Returns:
        What the subcommand returns; :data:`USER_ERROR` or :data:`INTERRUPTED` where it did not come to that.
    """
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, TextIOWrapper):
            stream.reconfigure(errors="replace")  # a locale without × gets a ?
    _complete(parser)
    options = parser.parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print(f"{parser.prog}: interrupted; nothing was replaced.", file=sys.stderr)
        return INTERRUPTED
    except MemoryError as error:
        told = f"memory ran out: {error or 'no more to be had'}; take fewer directions or a smaller batch"
        print(f"{parser.prog}: error: {' '.join(told.split())}", file=sys.stderr)
        return USER_ERROR
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        print(f"{parser.prog}: error: {' '.join(_told(error).split())}", file=sys.stderr)
        return USER_ERROR


def _complete(parser: Parser) -> None:
    """Answers a shell that asks, in the middle of a line, what may follow there; ends the program then."""
    if "_ARGCOMPLETE" in os.environ:
        import argcomplete

        argcomplete.autocomplete(parser)


def _told(error: Exception) -> str:
    """What an error says; one of the system's in words, without its number."""
    if not isinstance(error, OSError) or error.strerror is None:
        return str(error)
    if isinstance(error, FileNotFoundError):
        return f"there is no file or folder {error.filename}."
    if isinstance(error, IsADirectoryError):
        return f"{error.filename} is a folder; name a file."
    return f"{error.filename}: {error.strerror}." if error.filename else f"{error.strerror}."
