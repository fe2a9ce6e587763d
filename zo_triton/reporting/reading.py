"""A record from a file: whole, of this schema, and such that every part of a report can be made of it."""

from __future__ import annotations

import os
from pathlib import Path

from zo_triton.reporting import nzk_markdown, records
from zo_triton.reporting.compare import compare
from zo_triton.reporting.json_files import load
from zo_triton.reporting.markdown import render


def read(path: str | os.PathLike[str]) -> records.Record:
    """Reads and checks a record.

    Its text is made once, for nothing but the proof: a damaged figure is found here, where the file can be named.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: The file is truncated, damaged, foreign, or of a newer schema; the message names it.
    """
    target = Path(path)
    record = load(target, "delete it and run `zo-triton report`")
    records.check_record(record, str(target))
    try:
        text = nzk_markdown.render(record, []) if "nzk" in record["sections"] else render(record, [])
        text.encode()
        compare(record, record)
    # What is damaged raises almost anything: a key that is not there, a text where a number should be.
    except Exception as error:
        raise ValueError(
            f"{target} has a damaged entry ({type(error).__name__}: {error}); run `zo-triton report` again."
        ) from error
    return record
