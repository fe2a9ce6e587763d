"""Renders report.md from a record alone: the same record gives the same bytes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from benchmarks.report import first_screen
from benchmarks.report.anchors import Anchors
from benchmarks.report.literal import quoted
from benchmarks.report.load import cores_of_others, was_busy
from benchmarks.report.records import Record, check_record
from benchmarks.report.registry import parts
from benchmarks.report.section import Section, Show
from zo_triton._tables import environment

TITLE = "# Zeroth-order training with fused forward passes"


def render(record: Record, figures: Sequence[str], appendix: Sequence[str] = ()) -> str:
    """The report's text: a first screen, contents, what was found, and every section.

    Args:
        record: A valid record.
        figures: File names of drawn figures, beside the text; their stems choose their place.
        appendix: Blocks of what does not come from the record.

    Returns:
        Markdown.

    Raises:
        ValueError: The record is not valid.
    """
    check_record(record, "the record to be rendered")
    record = quoted(record)
    files = {name.rsplit(".", 1)[0]: name for name in figures}
    title: list[str] = []
    screen: list[str] = []
    body: list[str] = []
    for section, key, data in parts(record):
        show = _shows(section, key, files)
        title = title or section.title(data)
        if section.name == "race" and not screen:
            screen = first_screen.blocks(record, show("race_result"))
        body += section.blocks(data, show)
    found = first_screen.findings(record)
    if not screen:
        screen = found
    elif found:
        body = ["## What was found", *found, *body]
    body += [*appendix, "## Where the numbers come from", environment(record["environment"])]
    title = title or [TITLE]
    contents = ["## Contents", _contents(body, title[0])]
    blocks = [*title, *_warnings(record), *screen, *contents, *body]
    return "\n\n".join(blocks) + "\n"


def _shows(section: Section, key: str, files: dict[str, str]) -> Show:
    """Shows each figure once, where it is first asked for, and takes it from the files."""
    known = {figure.name: figure for figure in section.figures}

    def show(name: str) -> list[str]:
        file = files.pop(section.stem(known[name], key), None)
        return [] if file is None else [f"![{known[name].caption}]({file})"]

    return show


def _warnings(record: Record) -> list[str]:
    """What keeps the numbers from being believed."""
    facts: dict[str, Any] = record["environment"]
    found = []
    if record["tiny"]:
        found.append("> **A tiny run.** It proves that everything works; its numbers mean nothing.")
    if facts.get("interrupted"):
        found.append("> **Interrupted.** What was finished by then is here, the rest is missing.")
    if was_busy(facts):
        found.append(
            f"> **The machine was busy**: other programs kept {cores_of_others(facts):.1f} of {facts['cores']} "
            "cores. Times, and the choices that a cap on the clock made, can't be trusted: no conclusion is drawn "
            "from them, and the history leaves them out. Repeat this on a quiet machine."
        )
    return found


def _contents(body: list[str], title: str) -> str:
    """Links to the headings of the second level."""
    anchors = Anchors([title.removeprefix("# "), "Contents"])
    listed = []
    for block in body:
        if block.startswith("#"):
            level, _, heading = block.partition(" ")
            anchor = anchors.of(heading)
            if level == "##":
                listed.append(f"- [{heading}](#{anchor})")
    return "\n".join(listed)
