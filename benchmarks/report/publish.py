"""Turns a record into a folder, such as reports/latest: replaced whole, or not at all."""

from __future__ import annotations

import os
import shutil
import tempfile
from glob import escape
from pathlib import Path

from benchmarks.report import compiled, figures, history, records
from benchmarks.report.folders import exchange, locked
from benchmarks.report.html import page
from benchmarks.report.markdown import render
from zo_triton._files import write_text
from zo_triton.compilation.table import NAMES as COMPILED

RECORD_NAME = "results.json"
REPORT_NAME, PAGE_NAME = "report.md", "report.html"
RETIRED = ".old"

EARLIER = "compile.png"
"""What older reports have in the place of a figure that is an SVG now."""


def check_destination(folder: str | os.PathLike[str]) -> Path:
    """The folder's resolved path, if a report may replace everything in it.

    Called before an experiment starts, so that a wrong path costs no minutes.

    Raises:
        ValueError: The path or a folder above it is a file, or the folder holds something that is not part of a
            report.
    """
    target = Path(folder).resolve()
    if target.exists() and not target.is_dir():
        raise ValueError(f"{target} is a file, not a folder; name a folder for the report.")
    above = next(folder for folder in target.parents if folder.exists())
    if not above.is_dir():
        raise ValueError(f"{above} is a file, so nothing can be written to {target}; name another folder.")
    if target.is_dir():
        strangers = sorted(entry.name for entry in target.iterdir() if not _belongs(entry))
        if strangers:
            raise ValueError(
                f"{target} holds {strangers[0]!r}, which is not part of a report and would be lost; "
                "name an empty or new folder."
            )
    return target


def publish(record: records.Record, folder: str | os.PathLike[str]) -> Path:
    """Renders record, figures and text into a sibling folder, then puts it in the place of ``folder``.

    Whoever reads the folder meanwhile finds the old report or the new one, never a part. Processes that publish
    beside each other take turns.

    Args:
        record: A valid record.
        folder: The destination, made if it does not exist.

    Returns:
        The path of the rendered text.

    Raises:
        OSError: It can't be written (a full disk, a read-only folder); the old report stays.
        ValueError: The record is invalid or the destination unsuitable; the old report stays.
    """
    target = check_destination(folder)
    records.check_record(record, "the record to be published")
    target.parent.mkdir(parents=True, exist_ok=True)
    with locked(target.parent) as alone:
        if alone:
            _sweep(target)
        entries = history.extended(record, target)
        fresh = Path(tempfile.mkdtemp(dir=target.parent, prefix=f".{target.name}.", suffix=".tmp"))
        try:
            fresh.chmod(0o755)
            records.write(fresh / RECORD_NAME, record)
            if entries:
                write_text(fresh / history.NAME, history.dumps(entries))
            text = _rendered(record, fresh, [*compiled.carry(target, fresh), *history.render(entries)])
            write_text(fresh / REPORT_NAME, text)
            _write_page(fresh, text)
            _swap(fresh, target)
        finally:
            shutil.rmtree(fresh, ignore_errors=True)
    return target / REPORT_NAME


def _rendered(record: records.Record, folder: Path, appendix: list[str]) -> str:
    """The text, its figures drawn into the folder where matplotlib is installed."""
    try:
        return render(record, figures.draw_all(record, folder), appendix)
    except ModuleNotFoundError as error:
        if error.name != "matplotlib":
            raise
        return render(record, [], appendix) + "\nThe figures are left out: matplotlib is not installed.\n"
    except (LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise ValueError(
            f"the record to be published can't be shown ({type(error).__name__}: {error}); run "
            "`make report` again."
        ) from error


def _write_page(folder: Path, text: str) -> None:
    """The report as one page, where Python-Markdown is installed."""
    try:
        content = page(text, folder)
    except ModuleNotFoundError as error:
        if error.name != "markdown":
            raise
        return
    write_text(folder / PAGE_NAME, content)


def _swap(fresh: Path, target: Path) -> None:
    """Puts the new folder in the old one's place, which the caller then finds under the new one's name.

    In one step where the file system can; otherwise in two renames, the first undone if the second fails.
    """
    if not target.exists():
        os.rename(fresh, target)
        return
    if exchange(fresh, target):
        return
    retired = fresh.with_name(fresh.name + RETIRED)
    os.rename(target, retired)
    try:
        os.rename(fresh, target)
    except BaseException:
        os.rename(retired, target)
        raise
    shutil.rmtree(retired, ignore_errors=True)


def _sweep(target: Path) -> None:
    """Removes what a killed process has left beside the report; only while no other can be at work there."""
    for left in sorted(target.parent.glob(f".{escape(target.name)}.*.tmp*"), reverse=True):
        if left.name.endswith(RETIRED) and not target.exists():
            os.rename(left, target)
        else:
            shutil.rmtree(left, ignore_errors=True)


def _belongs(entry: Path) -> bool:
    known = (RECORD_NAME, REPORT_NAME, PAGE_NAME, history.NAME, *COMPILED, EARLIER)
    return entry.is_file() and (entry.name in known or entry.suffix == ".svg")
