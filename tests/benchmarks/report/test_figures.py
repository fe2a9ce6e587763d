"""What figures promise: large letters, on white and on black, one colour a method, no label on another."""

import itertools
import re
from pathlib import Path

import numpy as np
import pytest
from matplotlib import rc_context
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.text import Text

from benchmarks.contenders.registry import METHODS
from benchmarks.report.colours import colour_of, looks
from benchmarks.report.dots import Dot, dots
from benchmarks.report.figures import draw_all
from benchmarks.report.labels import Label, label_ends, spread
from benchmarks.report.literal import drawable
from benchmarks.report.reading import read
from benchmarks.report.registry import parts
from benchmarks.report.ticks import plain_ticks
from zo_triton import _figures as house

ROOT = Path(__file__).resolve().parents[3]
DRAWN = sorted([*ROOT.glob("reports/**/*.svg"), *ROOT.glob("docs/figures/*.svg")])
TELEPHONE = 390 - 2 * 16
"""Pixels that a page 390 wide leaves for a figure."""


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_letters_are_eleven_pixels_high_on_a_telephone(path):
    text = path.read_text(encoding="utf-8")
    width = float(re.search(r'<svg[^>]* width="([\d.]+)pt"', text)[1])
    sizes = [100 * float(found) for found in re.findall(r"scale\(([\d.]+) -[\d.]+\)", text)]
    assert len(sizes) > 3
    assert min(sizes) * TELEPHONE / width >= 11


@pytest.mark.parametrize("path", DRAWN, ids=lambda path: str(path.relative_to(ROOT)))
def test_the_page_shines_through_and_dark_pages_have_colours_of_their_own(path):
    text = path.read_text(encoding="utf-8")
    background = re.search(r'<g id="patch_1">\s*<path[^>]*style="([^"]*)"', text)[1]
    assert background == "fill: none" or "opacity: 0" in background
    assert "prefers-color-scheme: dark" in text
    written = {found.lower() for found in re.findall(r"<g style=\"fill: (#\w{6})\" transform", text)}
    assert written <= set(house.DARK), "letters in a colour that a dark page would not change"


def recorded():
    """Every figure of every committed record, with the data that it is drawn from."""
    for path in sorted(ROOT.glob("reports/**/results.json")):
        for section, key, data in parts(drawable(read(path))):
            for figure in section.figures:
                if figure.when(data):
                    name = f"{path.parent.relative_to(ROOT / 'reports')}/{section.stem(figure, key)}"
                    yield pytest.param(figure.draw, data, id=name)


@pytest.mark.parametrize(("draw", "data"), [*recorded()])
def test_nothing_is_cut_off_at_the_edge(draw, data):
    with rc_context(house.STYLE):
        figure = empty_figure()
        draw(figure, data)
        figure.draw_without_rendering()
        drawn, whole = figure.get_tightbbox(), figure.bbox_inches
    assert min(drawn.x0, drawn.y0) > -0.02
    assert drawn.x1 < whole.x1 + 0.02
    assert drawn.y1 < whole.y1 + 0.02


def luminance(colour):
    parts = np.array([int(colour[at : at + 2], 16) / 255 for at in (1, 3, 5)])
    return np.where(parts <= 0.04045, parts / 12.92, ((parts + 0.055) / 1.055) ** 2.4)


def contrast(one, other):
    bright, dark = sorted(float(luminance(each) @ [0.2126, 0.7152, 0.0722]) for each in (one, other))[::-1]
    return (bright + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("colour", [*house.COLOURS, house.INK, house.QUIET])
def test_a_colour_is_legible_on_its_page(colour):
    assert contrast(colour, "#ffffff") >= 4.5
    assert min(contrast(house.DARK[colour], page) for page in ("#0d1117", "#16181b")) >= 4.5


# Machado, Oliveira and Fernandes, "A Physiologically-based Model for Simulation of Color Vision Deficiency", 2009.
DEFICIENCIES = {
    "protanopia": [[0.152, 1.053, -0.205], [0.115, 0.786, 0.099], [-0.004, -0.048, 1.052]],
    "deuteranopia": [[0.367, 0.861, -0.228], [0.280, 0.673, 0.047], [-0.012, 0.043, 0.969]],
    "none": np.eye(3),
}


def lab(linear):
    xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]]) @ linear
    x, y, z = np.cbrt(np.clip(xyz / [0.9505, 1.0, 1.089], 1e-4, None))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
@pytest.mark.parametrize("dark", [False, True])
def test_colour_blind_readers_tell_the_methods_apart(deficiency, dark):
    colours = (*house.COLOURS, house.QUIET)
    shown = [house.DARK[each] if dark else each for each in colours]
    seen = [lab(np.clip(DEFICIENCIES[deficiency] @ luminance(each), 0, 1)) for each in shown]
    distances = {
        (one, other): np.linalg.norm(seen[one] - seen[other])
        for one, other in itertools.combinations(range(len(seen)), 2)
    }
    assert min(distances.values()) > 15, distances


def test_ours_and_three_others_stand_out():
    named = {name: colour_of(vars(method) | {"label": method.label}) for name, method in METHODS.items()}
    assert {named["zo"], named["zo-adam"]} == {house.BLUE}
    assert named["zo-activations"] == house.VERMILION
    assert {named["adam"], named["sgd"], named["adam-compiled"]} == {house.GREEN}
    assert {named["mezo"], named["mezo-adam"]} == {house.PURPLE}
    assert {named["vmap"], named["vmap-adam"]} == {house.OLIVE}
    assert {named["forward"], named["rank-one"], named["inference"], named["evosax"]} == {house.QUIET}


def test_what_shares_a_colour_has_other_dashes():
    methods = [{"label": f"backprop {which}", "family": "first"} for which in ("a", "b")]
    first, second = looks(methods)
    assert first["color"] == second["color"]
    assert first["linestyle"] != second["linestyle"]


@pytest.mark.parametrize(
    ("wanted", "heights"),
    [
        ([0.9, 0.9, 0.9], [0.1, 0.2, 0.1]),
        ([0.02, 0.01, 0.0], [0.1] * 3),
        ([0.5], [0.1]),
        ([0.9, 0.1], [0.1] * 2),
    ],
)
def test_labels_are_pushed_apart_and_stay_beside_the_axes(wanted, heights):
    centres = spread(wanted, heights)
    edges = [
        (centre + height / 2, centre - height / 2) for centre, height in zip(centres, heights, strict=True)
    ]
    assert all(above[1] >= below[0] - 1e-9 for above, below in itertools.pairwise(edges))
    assert edges[0][0] <= 1 + 1e-9
    assert edges[-1][1] >= -1e-9


def test_labels_that_lie_alone_stay_where_their_curves_end():
    assert spread([0.9, 0.5, 0.1], [0.1] * 3) == [0.9, 0.5, 0.1]


def empty_figure():
    figure = Figure(layout="constrained", figsize=(house.WIDTH, 5))
    FigureCanvasAgg(figure)
    return figure


def test_no_label_lies_on_another():
    figure = empty_figure()
    axes = figure.subplots()
    axes.set(xscale="log", xlim=(1, 1000), ylim=(0, 100))
    label_ends(
        axes, [Label(f"a method with a long name, {at}", (10 + at, 95.0), house.INK) for at in range(9)]
    )
    figure.draw_without_rendering()
    boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))
    assert all(box.x0 >= 0 and box.x1 <= figure.bbox.width for box in boxes)


@pytest.mark.parametrize("limits", [(0.013, 0.034), (0.01, 3.0), (1.0, 2e6), (0.9, 110.0), (0.0111, 0.0113)])
def test_ticks_are_plain_numbers_and_few(limits):
    axes = empty_figure().subplots()
    axes.set(xscale="log", xlim=limits)
    plain_ticks(axes.xaxis)
    assert 2 <= len(axes.get_xticks()) <= 4
    assert all(limits[0] <= tick <= limits[1] for tick in axes.get_xticks())


def test_a_dot_without_a_value_says_why_and_a_tiny_one_is_an_arrow():
    figure = empty_figure()
    rows = [
        Dot("reached", 2.0, house.BLUE, quartiles=(1.0, None)),
        Dot("never", None, house.QUIET, instead="not reached"),
        Dot("nothing", 0.0, house.QUIET),
    ]
    axes = dots(figure, [("a race", rows)], "s", least=0.1)
    assert {"2 s", "not reached", "0 s"} <= {text.get_text() for text in axes.texts}
    assert [line.get_marker() for line in axes.get_lines() if len(line.get_xdata()) == 1] == ["o", "<"]
    figure.draw_without_rendering()


def test_a_long_label_goes_on_below_itself_and_not_into_the_value():
    name = "fused, one-sided, rounded factors, float32, medium"
    with rc_context(house.STYLE):
        figure = empty_figure()
        rows = [Dot(name, value, house.BLUE, bold=True) for value in (393.0, 1234.0)]
        axes = dots(figure, [("steps", rows)], "ms")
        figure.draw_without_rendering()
        boxes = [Text.get_window_extent(text) for text in axes.texts]
    assert [" ".join(text.get_text().split()) for text in axes.texts[::2]] == [name, name]
    assert not any(one.overlaps(other) for one, other in itertools.combinations(boxes, 2))


def test_a_figure_of_another_kind_is_refused(record, tmp_path):
    with pytest.raises(ValueError, match="a figure is a 'svg' or a 'png', got 'jpg'"):
        draw_all(record, tmp_path, "jpg")
    assert list(tmp_path.iterdir()) == []
