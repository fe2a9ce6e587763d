"""The house style of figures, drawn with the same bytes every time.

Colours are Okabe and Ito's palette, which colour-blind readers can tell apart; dashes and labels repeat what
the colours say. Matplotlib's object interface is used throughout: no global state, no display.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#999999", "#B2A000")
FAMILIES = {
    "fused": "#0072B2",
    "zeroth": "#E69F00",
    "first": "#009E73",
    "inference": "#a9b4bd",
    "limit": "#dddddd",
}

STYLE: Any = {
    "svg.hashsalt": "zo_triton",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": 9.0,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def save_figure(
    draw: Callable[[Any, dict[str, Any]], None],
    section: dict[str, Any],
    folder: str | os.PathLike[str],
    name: str,
    extension: str = "svg",
) -> str:
    """Draws one figure in the house style into a file that has the same bytes every time.

    Args:
        draw: From an empty matplotlib figure and the section to a drawn one.
        section: What it is drawn from.
        folder: An existing folder.
        name: The file's stem.
        extension: ``svg``, or ``png`` for a look at it.

    Returns:
        The file's name.
    """
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    file = f"{name}.{extension}"
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(layout="constrained")
        FigureCanvasAgg(figure)
        draw(figure, section)
        metadata = {"Date": None, "Creator": None} if extension == "svg" else None
        figure.savefig(Path(folder) / file, dpi=110, metadata=metadata)
    return file
