"""Many ranks: what was measured, what was simulated, and a figure that tells them apart."""

from __future__ import annotations

from typing import Any

from benchmarks.report.colours import DASHES
from benchmarks.report.labels import Label, label_ends
from benchmarks.report.section import Data, Figure, Section, Show
from benchmarks.report.ticks import plain_ticks
from zo_triton._figures import COLOURS, INK, WIDTH
from zo_triton._tables import lay_out, number

MARKED = 4
"""Every so many powers of two are in the table."""

NOT_MEASURED = "not measured"


def blocks(section: Data, show: Show) -> list[str]:
    """What was measured, then what was simulated."""
    return [
        "## Many ranks", section["note"], "### Measured", *measured(section), "### Simulated",
        simulated(section), *show("scaling"),
    ]  # fmt: skip


def measured(section: Data) -> list[str]:
    """Blocks of all that was measured: parts of a step, and two ranks beside one."""
    headers = ["batch", "base pass ms", "start ms", "measuring a direction ms", "applying a direction ms"]
    keys = ("base_ms", "start_ms", "direction_ms", "update_ms")
    parts = lay_out(
        headers, [[part["batch"], *(number(part[key]) for key in keys)] for part in section["parts"]]
    )
    two = section["two_ranks"]
    if two is None:
        return [parts, f"Two ranks: {NOT_MEASURED}."]
    headers = [
        "ranks",
        "ms a step",
        "speed-up",
        "bytes a rank sends",
        "bytes on the wire, both",
        "exchange µs",
    ]
    sent, wire = number(two["payload_bytes"]), number(two["wire_bytes"], missing=NOT_MEASURED)
    rows = [
        ["1", number(two["alone_ms"]), "1", "0", "0", ""],
        [
            str(two["ranks"]), number(two["step_ms"]), number(two["alone_ms"] / two["step_ms"]), sent, wire,
            number(two["latency_us"]),
        ],
    ]  # fmt: skip
    intro = (
        f"K = {section['directions']}, batch {section['parts'][0]['batch']}. The bytes on the wire are the "
        "loopback interface's own count in a network namespace without other traffic, headers and "
        "acknowledgements included."
    )
    return [parts, intro, lay_out(headers, rows)]


def simulated(section: Data) -> str:
    """Milliseconds of a step by ranks, one column a curve, and what a rank receives."""
    curves = section["curves"]
    headers = ["ranks", "bytes a rank gets"]
    headers += [f"ms, batch {curve['batch']}, {curve['network']}" for curve in curves]
    rows = []
    for at, count in enumerate(curves[0]["ranks"]):
        if at % MARKED and at != len(curves[0]["ranks"]) - 1:
            continue
        received = number(curves[0]["received_bytes"][at])
        rows.append([str(count), received, *(number(curve["step_ms"][at]) for curve in curves)])
    title = f"K = {section['many']:,}; every number is the model's."
    return f"{title}\n\n{lay_out(headers, rows)}"


def draw(figure: Any, section: Data) -> None:
    """Above the step that two ranks really took and what the model says of it; below the model alone.

    Points are measured, dashes simulated.
    """
    figure.set_size_inches(WIDTH, 6.2)
    upper, lower = figure.subplots(2, 1, height_ratios=(1, 1.3))
    _draw_small(upper, section)
    networks = [network["name"] for network in section["networks"]]
    ends = []
    for curve in section["curves"]:
        colour = COLOURS[networks.index(curve["network"]) % len(COLOURS)]
        lower.plot(curve["ranks"], curve["step_ms"], color=colour, linestyle=DASHES[1], linewidth=1.7)
        end = curve["ranks"][-1], curve["step_ms"][-1]
        ends.append(Label(f"batch {curve['batch']}, {curve['network']}", end, colour))
    lower.set(
        xscale="log", yscale="log", xlabel="ranks", ylabel="milliseconds a step",
        title=f"K = {section['many']:,}: simulated only",
    )  # fmt: skip
    for axis in (lower.xaxis, lower.yaxis):
        plain_ticks(axis)
    label_ends(lower, ends, width=14)


def _draw_small(axes: Any, section: Data) -> None:
    part, ends = section["parts"][0], []
    networks = [network["name"] for network in section["networks"]]
    for curve in section["small_curves"]:
        colour = COLOURS[networks.index(curve["network"]) % len(COLOURS)]
        axes.plot(curve["ranks"], curve["step_ms"], color=colour, linestyle=DASHES[1], linewidth=1.7)
        end = curve["ranks"][-1], curve["step_ms"][-1]
        ends.append(Label(f"simulated, {curve['network']}", end, colour))
    two = section["two_ranks"]
    if two is not None:
        taken = [two["alone_ms"], two["step_ms"]]
        axes.plot([1, two["ranks"]], taken, "o", color=INK, markersize=7, zorder=3)
        ends.append(Label("measured", (two["ranks"], two["step_ms"]), INK, bold=True))
    axes.set(
        xscale="log", yscale="log", ylabel="milliseconds a step",
        title=f"K = {section['directions']}, batch {part['batch']}",
    )  # fmt: skip
    for axis in (axes.xaxis, axes.yaxis):
        plain_ticks(axis)
    label_ends(axes, ends, width=14)


SECTION = Section(
    name="scaling",
    place=160,
    keys=("note", "directions", "many", "parts", "two_ranks", "networks", "small_curves", "curves"),
    blocks=blocks,
    figures=(
        Figure(
            "scaling",
            "Milliseconds of a step against the number of ranks: two measured, the rest simulated",
            draw,
        ),
    ),
)
