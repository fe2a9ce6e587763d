"""Parts of pages that others know best: the command line, the difference rules, the latest report's findings."""

from __future__ import annotations

import argparse
from collections import defaultdict
from functools import partial
from pathlib import Path

from benchmarks import __main__ as suite
from benchmarks.report import first_screen, read
from zo_triton import cli
from zo_triton.difference import RULE_FAMILIES
from zo_triton.difference.fallback import name_of
from zo_triton.difference.registry import HANDLERS

RECORD = Path(__file__).resolve().parents[2] / "reports" / "latest" / "results.json"

HelpText = partial(argparse.HelpFormatter, width=96)
"""Of one width, which argparse otherwise takes from the terminal."""


def command_line() -> str:
    """Markdown: every subcommand of the library and of the suite with its ``--help``."""
    return "\n\n".join(_commands(module._parser()) for module in (cli, suite))


def _commands(parser: argparse.ArgumentParser) -> str:
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    pages = [f"## {parser.prog}\n\n{_help(parser)}"]
    pages += [f"### {parser.prog} {name}\n\n{_help(command)}" for name, command in commands.choices.items()]
    return "\n\n".join(pages)


def _help(parser: argparse.ArgumentParser) -> str:
    parser.formatter_class = HelpText  # type: ignore[assignment]
    return f"```text\n{parser.format_help().rstrip()}\n```"


def rule_table() -> str:
    """Markdown: a row for each family of rules, with what it says of itself and the functions it covers."""
    functions = defaultdict(set)
    for function, handle in HANDLERS.items():
        functions[handle.__module__].add(_short_name(name_of(function)))
    rows = ["| family | what it does | functions |", "|---|---|---|"]
    for family in RULE_FAMILIES:
        summary = (family.__doc__ or "").partition("\n")[0].replace("|", "\\|")
        names = sorted(name for name in functions[family.__name__] if name.isidentifier() and name[0] != "_")
        if names:
            listed = ", ".join(f"`{name}`" for name in names)
            rows.append(f"| {family.__name__.rpartition('.')[2]} | {summary} | {listed} |")
    return "\n".join(rows)


def _short_name(name: str) -> str:
    """``relu`` of ``torch.nn.functional.relu``, ``T`` of ``torch.Tensor.T.__get__``."""
    return name.removesuffix(".__get__").rpartition(".")[2]


def headline() -> str:
    """Markdown: when the latest report finds it worth it, when not and at what cost, and its main race."""
    if not RECORD.exists():
        return "No report has been written yet: run `make report`."
    return "\n\n".join(first_screen.blocks(read(RECORD), picture=()))


PARTS = {"command line": command_line, "rule table": rule_table, "headline": headline}
"""What stands for ``<!-- generated: NAME -->`` in a page."""
