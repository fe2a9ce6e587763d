"""What every section must have: a sample here, figures that are shown, and nothing half done."""

from types import SimpleNamespace

import pytest

from benchmarks.report import figures, new_record
from benchmarks.report.compare import compare
from benchmarks.report.markdown import render
from benchmarks.report.registry import SECTIONS, collect, find_section
from benchmarks.report.section import Figure, Section

NAMES = [section.name for section in SECTIONS]


def alone(record, samples, name):
    """A record of this section."""
    return new_record(record["environment"], {name: samples[name]})


def test_every_section_has_a_sample(samples):
    assert set(samples) == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_section_alone_makes_a_report_with_all_its_figures(record, samples, name, tmp_path):
    short = alone(record, samples, name)
    section = find_section(name)
    drawn = figures.draw_all(short, tmp_path)
    assert drawn == [f"{figure.name}.svg" for figure in section.figures]
    text = render(short, drawn)
    for figure in section.figures:
        assert f"![{figure.caption}]({figure.name}.svg)" in text
        assert (tmp_path / f"{figure.name}.svg").stat().st_size > 5000
    assert section.blocks(samples[name], lambda figure: [])[0].startswith("## ")
    assert "None" not in text


@pytest.mark.parametrize("name", NAMES)
def test_a_section_without_one_of_its_keys_is_refused_by_name(record, samples, name):
    for key in find_section(name).keys:
        data = {other: value for other, value in samples[name].items() if other != key}
        with pytest.raises(ValueError, match=rf"lacks {name}\.{key}"):
            new_record(record["environment"], {name: data})


@pytest.mark.parametrize("name", NAMES)
def test_a_section_differs_from_itself_in_nothing(record, samples, name):
    short = alone(record, samples, name)
    assert {change.ratio for change in compare(short, short)} <= {1.0}


def section(name, place=1, **changes):
    return SimpleNamespace(
        SECTION=Section(name=name, place=place, keys=("rows",), blocks=lambda data, show: [], **changes)
    )


def test_sections_follow_each_other_by_place():
    found = collect({"late": section("late", 7), "early": section("early", 3)})
    assert [each.name for each in found] == ["early", "late"]


@pytest.mark.parametrize(
    ("modules", "message"),
    [
        ({"new": SimpleNamespace()}, "sections/new needs SECTION, a Section named 'new'"),
        ({"new": section("copied")}, "sections/new needs SECTION, a Section named 'new'"),
        ({"one": section("one"), "two": section("two")}, "'one' and 'two' both have the place 1"),
    ],
    ids=["no section", "another's name", "another's place"],
)
def test_an_unfinished_module_is_refused(modules, message):
    with pytest.raises(ValueError, match=message):
        collect(modules)


def test_an_unfinished_section_is_refused():
    with pytest.raises(ValueError, match="section 'new' names no keys; list what"):
        Section(name="new", place=1, keys=(), blocks=lambda data, show: [])
    with pytest.raises(ValueError, match="figure 'curve' of section 'new' has no caption; write one"):
        section("new", figures=(Figure("curve", " ", lambda figure, data: None),))


def test_several_races_have_figures_of_their_own(record, tmp_path):
    record["sections"] = dict.fromkeys(("race", "race_letters"), record["sections"]["race"])
    assert figures.draw_all(record, tmp_path) == [
        "race_result.svg", "race_time.svg", "race_evaluations.svg", "race_letters_result.svg",
        "race_letters_time.svg", "race_letters_evaluations.svg",
    ]  # fmt: skip
    text = render(record, ["race_letters_time.svg"])
    assert "![Accuracy and loss against training time](race_letters_time.svg)" in text
