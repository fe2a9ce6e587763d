"""A record from a file: whole, of this schema, and such that every part of a report can be made of it."""

from __future__ import annotations

import os
from pathlib import Path

from benchmarks.report import records
from benchmarks.report.compare import compare
from benchmarks.report.json_files import load
from benchmarks.report.markdown import render


def read(path: str | os.PathLike[str]) -> records.Record:
    """Reads and checks a record.

    Its text is made once, for nothing but the proof: a damaged figure is found here, where the file can be named.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, damaged, foreign, or of a newer schema; the message names it.
    """
    target = Path(path)
    record = load(target, "delete it and run `make report`")
    records.check_record(record, str(target))
    try:
        render(record, []).encode()
        compare(record, record)
    # What is damaged raises almost anything: a key that is not there, a text where a number should be.
    except Exception as error:
        raise ValueError(
            f"{target} has a damaged entry ({type(error).__name__}: {error}); run `make report` again."
        ) from error
    return record
