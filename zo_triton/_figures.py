"""The house style of figures: read on a telephone, on white paper and on a dark page, the same bytes every time.

A figure is 5.2 inches wide and its smallest letters are 11.6 points, so that they are 11 pixels high where a
telephone shows it 358 pixels wide. Its background is transparent. Each colour has a twin for dark pages, which the
file itself asks for; whoever does not understand that sees the light ones. Colours are told apart by colour-blind
readers too; dashes and labels repeat what they say. Matplotlib's object interface is used throughout: no global
state, no display.
"""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

WIDTH = 5.2
"""Inches."""

SMALLEST = 11.6
"""Points: of every letter."""

INK, QUIET, RULE, PAPER = "#24292f", "#5f6872", "#d4d9de", "#ffffff"
"""Text, what stands back, lines of a grid, and what is written on colours."""

BLUE, VERMILION, GREEN, PURPLE, OLIVE = "#0d4a94", "#852b00", "#06854d", "#c31fca", "#8a7200"
COLOURS = (BLUE, VERMILION, GREEN, PURPLE, OLIVE)

DARK = {
    INK: "#e6e8eb",
    QUIET: "#a3abb5",
    RULE: "#3d444d",
    PAPER: "#14171a",
    BLUE: "#8cc6fd",
    VERMILION: "#ee7b53",
    GREEN: "#28f5a8",
    PURPLE: "#ed26ff",
    OLIVE: "#ebcf27",
}
"""The twin of each colour on a dark page."""

STYLE: Any = {
    "svg.hashsalt": "zo_triton",
    "svg.fonttype": "path",
    "font.family": "DejaVu Sans",
    "font.size": SMALLEST,
    **dict.fromkeys(
        ("axes.titlesize", "axes.labelsize", "xtick.labelsize", "ytick.labelsize", "legend.fontsize"),
        SMALLEST,
    ),
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
    "axes.titlelocation": "left",
    "axes.titleweight": "bold",
    "axes.facecolor": "none",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": RULE,
    "grid.linewidth": 0.6,
    "legend.frameon": False,
}


def check_figure(path: str | os.PathLike[str]) -> Path:
    """The figure's resolved path.

    Raises:
        ValueError: Its name ends in neither .png nor .svg.
    """
    target = Path(path).resolve()
    if target.suffix not in (".png", ".svg"):
        raise ValueError(f"a figure is a .png or a .svg, got {str(path)!r}.")
    return target


def check_matplotlib() -> None:
    """Raises ModuleNotFoundError with the remedy where there is no matplotlib, which only figures need."""
    if find_spec("matplotlib") is None:
        raise ModuleNotFoundError(
            "figures are drawn with matplotlib: pip install matplotlib.", name="matplotlib"
        )


def save_figure(
    draw: Callable[[Any, dict[str, Any]], None],
    section: dict[str, Any],
    folder: str | os.PathLike[str],
    name: str,
    extension: str = "svg",
) -> str:
    """Draws one figure in the house style into a file that has the same bytes every time.

    Args:
        draw: From an empty matplotlib figure, :data:`WIDTH` wide, and the section to a drawn one.
        section: What it is drawn from.
        folder: An existing folder.
        name: The file's stem.
        extension: ``svg``, or ``png`` for a look at it on white.

    Returns:
        The file's name.

    Raises:
        ModuleNotFoundError: matplotlib is missing.
        ValueError: The extension is another.
    """
    if extension not in ("svg", "png"):
        raise ValueError(f"a figure is a 'svg' or a 'png', got {extension!r}.")
    check_matplotlib()
    import matplotlib
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    file = f"{name}.{extension}"
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(STYLE)
        figure = Figure(layout="constrained", figsize=(WIDTH, WIDTH / 1.6))
        FigureCanvasAgg(figure)
        draw(figure, section)
        if extension == "svg":
            written = io.StringIO()
            figure.savefig(written, format="svg", transparent=True, metadata={"Date": None, "Creator": None})
            (Path(folder) / file).write_text(
                _with_dark_twins(written.getvalue()), encoding="utf-8", newline="\n"
            )
        else:
            figure.savefig(Path(folder) / file, dpi=110)
    return file


def _with_dark_twins(svg: str) -> str:
    """The file with a rule for each colour that holds on dark pages alone."""
    rules = "".join(
        f'[style*="{use}: {light}"]{{{use}:{dark}!important}}'
        for light, dark in DARK.items()
        for use in ("fill", "stroke")
    )
    return svg.replace("</style>", f"@media (prefers-color-scheme: dark){{{rules}}}</style>", 1)
