"""A report that is interrupted keeps what was finished."""

import pytest

from benchmarks import suite as report
from benchmarks.measure import step_time
from benchmarks.report.markdown import render


def interrupt(*arguments):
    raise KeyboardInterrupt


def test_ctrl_c_keeps_the_finished_races(monkeypatch):
    monkeypatch.setattr(step_time, "run_step_time", interrupt)
    record = report.run_report(0, tiny=True, say=lambda text: None, names=("nzk-linear",))
    assert set(record["sections"]) == {"gate", "race_nzk_linear"}
    assert record["environment"]["interrupted"] is True
    assert "> **Interrupted.**" in render(record, [])


def test_ctrl_c_before_anything_was_finished_leaves_the_old_report(monkeypatch):
    monkeypatch.setattr(report.races, "run_race", interrupt)
    with pytest.raises(KeyboardInterrupt):
        report.run_report(0, tiny=True, say=lambda text: None)


def test_an_unknown_race_is_told_before_anything_runs(monkeypatch):
    monkeypatch.setattr(report.gates, "run_gate", interrupt)
    with pytest.raises(ValueError, match=r"unknown race 'digit'; choose one of \('digits-mlp', 'nzk-linear'"):
        report.run_report(0, tiny=True, say=lambda text: None, names=("digit",))
