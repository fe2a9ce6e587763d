"""The report's figures, drawn from the record alone as SVG with the same bytes every time."""

from __future__ import annotations

import os

from benchmarks.report.literal import drawable
from benchmarks.report.records import Record
from benchmarks.report.registry import parts
from zo_triton._figures import save_figure


def draw_all(record: Record, folder: str | os.PathLike[str], extension: str = "svg") -> list[str]:
    """Draws every figure that the record has numbers for.

    Args:
        record: A valid record.
        folder: An existing folder.
        extension: ``svg``, or ``png`` for a look at them.

    Returns:
        The file names, in the order of the report.
    """
    return [
        save_figure(figure.draw, data, folder, section.stem(figure, key), extension)
        for section, key, data in parts(drawable(record))
        for figure in section.figures
        if figure.when(data)
    ]
