"""What a section of a report is: one experiment's keys, blocks, figures, findings and comparison."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from benchmarks.report.changes import Change

Data = dict[str, Any]
"""What one experiment returned, as the record holds it."""

Show = Callable[[str], list[str]]
"""From a figure's name to the block that shows it; to nothing where it was not drawn."""

Loss = tuple[str, str]
"""Who did better at what, and where, by how much."""


@dataclass(frozen=True)
class Figure:
    """A figure of a section.

    Attributes:
        name: The stem of its file.
        caption: What it shows, for those who can't see it too.
        draw: From an empty matplotlib figure and the section's data to a drawn one.
        when: Whether the data has numbers for it.
    """

    name: str
    caption: str
    draw: Callable[[Any, Data], None]
    when: Callable[[Data], Any] = lambda data: True


@dataclass(frozen=True)
class Findings:
    """What came out, in Markdown.

    Attributes:
        sentences: One or a few, worked out from the data.
        lost: Every comparison that the fused methods lost; None if nothing was compared with others.
    """

    sentences: list[str] = field(default_factory=list)
    lost: list[Loss] | None = None


@dataclass(frozen=True)
class Section:
    """All that a report knows of one experiment.

    Attributes:
        name: Its key in records, and the name of its file in ``sections``.
        place: Sections follow each other by this number in a report.
        keys: What its data must have.
        blocks: Its Markdown, a heading of the second level first.
        figures: What is drawn of it.
        findings: What came out of it, for the first screens of a report.
        changes: Figures of an older and a newer record side by side.
        headline: The few figures that a report's history keeps, by name.
        title: A report's first lines, where this section gives it its title.
        timed: What it finds rests on times, of which nothing follows on a busy machine.
        several: A record may have more of them, under names that begin with this one's and an underscore.
    """

    name: str
    place: int
    keys: tuple[str, ...]
    blocks: Callable[[Data, Show], list[str]]
    figures: tuple[Figure, ...] = ()
    findings: Callable[[Data], Findings] = lambda data: Findings()
    changes: Callable[[Data, Data], Iterable[Change]] = lambda old, new: ()
    headline: Callable[[Data], dict[str, float]] = lambda data: {}
    title: Callable[[Data], list[str]] = lambda data: []
    timed: bool = False
    several: bool = False

    def __post_init__(self) -> None:
        """Refuses a section that is not finished.

        Raises:
            ValueError: It names no keys, or a figure has no caption.
        """
        if not self.keys:
            raise ValueError(f"section {self.name!r} names no keys; list what its data must have.")
        for figure in self.figures:
            if not figure.caption.strip():
                raise ValueError(
                    f"figure {figure.name!r} of section {self.name!r} has no caption; write one."
                )

    def covers(self, key: str) -> bool:
        """Whether a record's entry of that key is one of these."""
        return key == self.name or (self.several and key.startswith(f"{self.name}_"))

    def stem(self, figure: Figure, key: str) -> str:
        """The stem of a figure's file: of several sections each has figures of its own."""
        return key + figure.name.removeprefix(self.name) if self.several else figure.name
