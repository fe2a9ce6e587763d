import pytest

from benchmarks import convergence
from benchmarks.measure.gates import GateError


def test_the_shortest_benchmark_checks_races_and_lays_out(capsys, monkeypatch):
    monkeypatch.setattr(convergence, "NAMES", ("zo-adam", "adam"))
    table = convergence.main(train_steps=5, seconds=0.2, seeds=(0,))
    told = capsys.readouterr().out
    assert "the kernels follow the theory" in told
    assert told.index("follow the theory") < told.index("tuning")
    header, _, *rows = table.splitlines()
    assert "seconds to 95 %" in header
    assert {row.split("|")[1].strip() for row in rows} == {"fused ZO + Adam", "backprop + Adam"}


def test_nothing_is_timed_where_the_theory_is_missed(monkeypatch):
    def fails(*arguments):
        raise GateError("off")

    monkeypatch.setattr(convergence, "run_gate", fails)
    monkeypatch.setattr(convergence, "race", lambda *arguments: pytest.fail("it raced"))
    with pytest.raises(GateError):
        convergence.main()
