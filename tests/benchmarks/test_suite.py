"""What a report is made of, and what an interrupted one keeps."""

import pytest

from benchmarks import suite
from benchmarks.contenders.registry import METHODS
from benchmarks.measure import step_time
from benchmarks.report.markdown import render
from zo_triton._progress import Monitor


def interrupt(*arguments):
    raise KeyboardInterrupt


def run(parts, told=None):
    return suite.run_parts(parts, 0, "tiny", told or Monitor(suite.plan_of(parts)))


def named(*sections):
    return [part for part in suite.tiny(0) if part.section in sections]


def test_ctrl_c_keeps_the_finished_races(monkeypatch):
    monkeypatch.setattr(step_time, "run_step_time", interrupt)
    record = run(named("gate", "race_nzk_linear", "step_time"))
    assert set(record["sections"]) == {"gate", "race_nzk_linear"}
    assert record["environment"]["interrupted"] is True
    assert "> **Interrupted.**" in render(record, [])


def test_ctrl_c_before_anything_was_finished_leaves_the_old_report(monkeypatch):
    monkeypatch.setattr(suite.races, "run_race", interrupt)
    with pytest.raises(KeyboardInterrupt):
        run(named("gate", "race"))


def test_a_part_that_fails_is_named_and_the_others_stay(capsys):
    def fails(say):
        raise RuntimeError("out of luck\nfor once")

    parts = [*named("gate", "race_nzk_linear"), suite.Part("accuracy", 1.0, fails)]
    record = run(parts)
    assert set(record["sections"]) == {"gate", "race_nzk_linear"}
    assert record["environment"]["failed"] == "accuracy: RuntimeError: out of luck"
    assert "note: accuracy failed: out of luck" in capsys.readouterr().out
    with pytest.raises(RuntimeError, match="out of luck"):
        run([parts[0], parts[2]])


def test_nothing_is_timed_on_a_red_gate():
    def fails(say):
        raise suite.gates.GateError("off")

    timed = suite.Part("accuracy", 1.0, lambda say: pytest.fail("it was timed"))
    with pytest.raises(suite.gates.GateError):
        run([suite.Part("gate", 1.0, fails), timed])


def test_an_unknown_race_is_told_before_anything_runs():
    with pytest.raises(ValueError, match=r"unknown race 'digit'; choose one of \('digits-mlp', 'nzk-linear'"):
        suite.one_race("digit", 0)


def test_methods_that_are_named_race_instead_of_the_races_own(monkeypatch):
    entered = []
    monkeypatch.setattr(suite.races, "run_race", lambda *arguments: entered.extend(arguments[3]))
    for part in suite.one_race("mnist-cnn", 0, tiny=True, only=("zo-activations", "sgd"))[1:]:
        part.run(print)
    assert [method.name for method in entered] == ["zo-activations", "sgd"]


@pytest.mark.parametrize(
    ("only", "message"),
    [
        (("adma",), r"unknown contender 'adma'; choose one of \('zo', 'zo-central'"),
        (("adam", "sgd", "adam"), r"'adam' is named twice; a method races once"),
    ],
)
def test_a_wrong_method_is_told_before_anything_runs(only, message):
    with pytest.raises(ValueError, match=message):
        suite.one_race("mnist-cnn", 0, only=only)


@pytest.mark.parametrize("profile", suite.PROFILES)
def test_every_profile_begins_with_the_gate_and_names_each_section_once(profile):
    sections = [part.section for part in suite.PROFILES[profile](0)]
    assert sections[0] == "gate"
    assert len(sections) == len(set(sections))


def test_the_quick_profile_is_a_part_of_the_whole_suite_and_takes_three_minutes():
    quick, full = suite.quick(0), suite.full(0)
    assert {part.section for part in quick} < {part.section for part in full}
    assert sum(part.seconds for part in quick) <= 180
    assert sum(part.seconds for part in full) <= 1200
    assert all(len(methods) <= 6 and set(methods) <= set(METHODS) for methods in suite.QUICK_RACES.values())


def test_the_tiny_profile_has_every_section_of_the_whole_suite():
    assert [part.section for part in suite.tiny(0)] == [part.section for part in suite.full(0)]


def test_what_runs_is_told_with_what_is_left(capsys):
    run(named("gate"))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("[1 of 1, ")
    assert lines[0].endswith("gate: the fused kernels against the kernel recursion")
