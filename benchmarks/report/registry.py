"""Every section there is: whatever the modules of ``sections`` define, in the order of a report."""

from __future__ import annotations

from collections.abc import Iterator
from importlib import import_module
from pkgutil import iter_modules
from typing import Any

from benchmarks.report import sections
from benchmarks.report.section import Data, Section


def collect(modules: dict[str, Any]) -> tuple[Section, ...]:
    """The modules' sections, by their places.

    Raises:
        ValueError: A module has no section or one of another name, or two have one place.
    """
    found: dict[int, Section] = {}
    for name, module in modules.items():
        section = getattr(module, "SECTION", None)
        if not isinstance(section, Section) or section.name != name:
            raise ValueError(f"sections/{name} needs SECTION, a Section named {name!r}.")
        other = found.setdefault(section.place, section)
        if other is not section:
            raise ValueError(f"sections {other.name!r} and {name!r} both have the place {section.place}.")
    return tuple(found[place] for place in sorted(found))


SECTIONS = collect(
    {
        module.name: import_module(f"{sections.__name__}.{module.name}")
        for module in iter_modules(sections.__path__)
    }
)
"""In the order of a report."""


def find_section(key: str) -> Section:
    """The section that a record's entry belongs to.

    Raises:
        ValueError: There is none.
    """
    for section in SECTIONS:
        if section.covers(key):
            return section
    raise ValueError(f"unknown section {key!r}; known are {tuple(section.name for section in SECTIONS)}.")


def parts(record: dict[str, Any]) -> Iterator[tuple[Section, str, Data]]:
    """A record's entries in the order of a report: what each is, its key, and its data."""
    for section in SECTIONS:
        for key, data in record["sections"].items():
            if section.covers(key):
                yield section, key, data
