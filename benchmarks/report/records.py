"""Measured results as JSON: written atomically, checked when read, the only input of every report.

A record is ``{"format", "schema", "tiny", "environment", "sections"}``. Each section is what one experiment
returned, plain numbers and names, with at least the keys that its file in ``sections`` names; a figure that could
not be reached is null, never left out. The schema number rises when a reader of the old layout would misread the
new one.
"""

from __future__ import annotations

import json
import os
import re
from typing import Any

from benchmarks.report.registry import find_section
from zo_triton._files import write_text

FORMAT = "zo_triton report"
SCHEMA = 1

ENVIRONMENT = ("commit", "dirty", "versions", "device", "threads", "seed", "date")
"""What every record says about where its numbers come from."""

Record = dict[str, Any]

_NUMBERS = re.compile(r"\[\s+(?:(?:-?[\d.]+(?:[eE][-+]?\d+)?|null),?\s+)+\]")


def new_record(environment: dict[str, Any], sections: dict[str, Any], tiny: bool = False) -> Record:
    """Puts measured sections together.

    Args:
        environment: Has at least the keys :data:`ENVIRONMENT`.
        sections: From section name to what its experiment returned.
        tiny: The numbers come from a shortened run that only proves the plumbing.

    Raises:
        ValueError: A section is unknown, or a key is missing.
    """
    record = {
        "format": FORMAT,
        "schema": SCHEMA,
        "tiny": tiny,
        "environment": environment,
        "sections": sections,
    }
    check_record(record, "the new record")
    return record


def check_record(record: Any, source: str) -> None:
    """Refuses what is not a record of this schema; ``source`` names it in the message.

    Raises:
        ValueError: Not a record, a newer or unknown schema, an unknown section or a missing key.
    """
    if not isinstance(record, dict) or record.get("format") != FORMAT:
        raise ValueError(f"{source} is not a {FORMAT}; delete it or name another folder.")
    schema = record.get("schema")
    if isinstance(schema, int) and schema > SCHEMA:
        raise ValueError(f"{source} has schema {schema}, newer than {SCHEMA}; upgrade zo_triton to read it.")
    if schema != SCHEMA:
        raise ValueError(f"{source} has schema {schema!r}, not {SCHEMA}; run `make report` again.")
    sections, environment = record.get("sections"), record.get("environment")
    if not isinstance(sections, dict) or not isinstance(environment, dict):
        raise ValueError(f"{source} lacks its sections or its environment; run `make report` again.")
    for name in ENVIRONMENT:
        if name not in environment:
            raise ValueError(f"{source} lacks environment.{name}; run `make report` again.")
    for key, data in sections.items():
        try:
            needed = find_section(key).keys
        except ValueError as error:
            raise ValueError(f"{source} has the {error}") from None
        missing = [name for name in needed if not isinstance(data, dict) or name not in data]
        if missing:
            raise ValueError(f"{source} lacks {key}.{missing[0]}; run `make report` again.")


def dumps(record: Record) -> str:
    """The record's text, a list of numbers on one line; NaN and infinity are refused.

    The order of keys is kept, as tables follow it.
    """
    text = json.dumps(record, indent=1, allow_nan=False, ensure_ascii=False)
    return _NUMBERS.sub(lambda found: re.sub(r"\s+", " ", found[0]), text) + "\n"


def write(path: str | os.PathLike[str], record: Record) -> None:
    """Writes a record so that a reader sees the old file or the new one, never a part.

    Raises:
        ValueError: The record is invalid or holds NaN or infinity; the old file stays.
    """
    check_record(record, "the record to be written")
    write_text(path, dumps(record))
