"""What a long command shows of how much is left."""

import io
import sys

import pytest

from zo_triton import _progress
from zo_triton._progress import Bar, Monitor, monitor

PLAN = {"gate": 10.0, "race": 100.0, "steps": 60.0}


@pytest.fixture
def clock(monkeypatch):
    """A clock that only the test moves."""
    now = [0.0]
    monkeypatch.setattr(_progress, "monotonic", lambda: now[0])
    return now


def test_without_a_plan_a_line_is_the_message(capsys):
    Monitor().say("compiling")
    assert capsys.readouterr().out == "compiling\n"


def test_a_plan_tells_parts_and_time_left(capsys, clock):
    told = Monitor(PLAN)
    told.begin("gate")
    told.say("walks")
    clock[0] = 10.0
    told.begin("race")
    told.say("tuning")
    clock[0] = 85.0
    told.say("seed 0")
    told.begin("steps")
    clock[0] = 500.0
    told.say("still at it")
    assert capsys.readouterr().out.splitlines() == [
        "[1 of 3, 3 min left] walks",
        "[2 of 3, 3 min left] tuning",
        "[2 of 3, 85 s left] seed 0",
        "[3 of 3, 0 s left] still at it",
    ]


def test_a_slower_machine_has_more_left(clock):
    told = Monitor(PLAN)
    told.begin("gate")
    clock[0] = 80.0
    told.begin("race")
    assert told.left() == "[2 of 3, 5 min left] "


def test_a_part_is_entered_by_what_it_does(capsys, clock):
    told = Monitor()
    told.expect({"walks": 30.0, "runs": 60.0})
    told.enter("walks")
    clock[0] = 30.0
    told.enter("runs")
    assert capsys.readouterr().out == "[1 of 2, 90 s left] walks\n[2 of 2, 60 s left] runs\n"


def test_a_count_tells_what_is_left_between_its_ends(capsys, clock):
    told = Monitor()
    for done in range(1, 151):
        told.progress(done, 150, f"{done} of 150")
        clock[0] += 2.0
    assert capsys.readouterr().out.splitlines() == [
        "1 of 150", "50 of 150, 3 min left", "100 of 150, 2 min left", "150 of 150",
    ]  # fmt: skip


def test_a_count_that_begins_anew_forgets_its_pace(capsys, clock):
    told = Monitor()
    for seconds in (100.0, 1.0):
        for done in (1, 50, 100):
            told.progress(done, 100, f"{done}")
            clock[0] += seconds * 49
    assert capsys.readouterr().out.splitlines() == [
        "1",
        "50, 83 min left",
        "100",
        "1",
        "50, 50 s left",
        "100",
    ]


def test_notes_stand_alone(capsys):
    told = Monitor(PLAN)
    told.begin("gate")
    told.say("note: digits stand in")
    assert capsys.readouterr().out == "note: digits stand in\n"


def test_output_that_is_no_terminal_gets_lines():
    with monitor() as told:
        assert type(told) is Monitor


def test_without_rich_there_are_lines(monkeypatch):
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with monitor() as told:
        assert type(told) is Monitor


def test_a_bar_shows_the_plan_as_it_stands(clock):
    console = pytest.importorskip("rich.console").Console(file=io.StringIO(), force_terminal=True, width=120)
    from rich.progress import Progress, TextColumn

    with Progress(TextColumn("{task.description}"), console=console) as display:
        told = Bar(display, PLAN)
        told.begin("gate")
        told.say("walks [all]")
        told.progress(1, 2)
    assert "[1 of 3, 3 min left] walks [all]" in console.file.getvalue()
