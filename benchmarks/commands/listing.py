"""``--list``: what can be named, told without loading anything."""

from __future__ import annotations

import argparse
from collections.abc import Mapping
from typing import Any


def add_list(parser: argparse.ArgumentParser, **tables: Mapping[str, str]) -> None:
    """Adds the option, which shows the tables and ends the program.

    Args:
        parser: Of the command.
        tables: From a title to what there is by name.
    """
    parser.add_argument("--list", action=_List, nargs=0, const=tables, help="tell what there is, run nothing")


class _List(argparse.Action):
    """Needs no other argument, like ``--help``."""

    def __call__(self, parser: argparse.ArgumentParser, *unused: Any) -> None:
        tables: Mapping[str, Mapping[str, str]] = self.const
        width = max(len(name) for table in tables.values() for name in table)
        for title, table in tables.items():
            print(f"{title}:")
            for name, what in table.items():
                print(f"  {name:<{width}}  {what}")
        parser.exit()
