"""``zo-triton warmup``: the first steps of common programs, taken ahead."""

import re

import pytest

from zo_triton import cli, warmup
from zo_triton._first_steps import STEPS


def test_each_program_that_is_named_has_a_step():
    assert STEPS.keys() == warmup.PROGRAMS.keys()


@pytest.mark.parametrize("name", STEPS)
def test_each_program_takes_its_step(name):
    assert 0 < STEPS[name]() < 10


def test_what_is_done_and_what_is_left_is_told(capsys, monkeypatch):
    monkeypatch.setattr(warmup, "_in_own_process", lambda name: (name, 21.3))
    assert cli.main(["warmup", "mlp", "cnn", "mlp"]) == 0
    first, *done, last = capsys.readouterr().out.splitlines()
    assert first == "compiling the CPU kernels"
    assert {re.sub(r"^\d of 2: |, about \d+ s left$", "", line) for line in done} == {
        "an MLP with ZOSGD, 21 s",
        "a CNN with ZOSGD, 21 s",
    }
    assert re.match(r"1 of 2: .* s left$", done[0])
    assert re.match(r"2 of 2: .*, 21 s$", done[1])
    assert last == "all compiled; later runs load them from the cache"


def test_a_step_is_taken_in_a_process_of_its_own():
    ((name, seconds),) = warmup.warm_up(["mlp"])
    assert name == "mlp"
    assert seconds > 0


def test_a_failed_step_says_why(monkeypatch):
    monkeypatch.setitem(warmup.PROGRAMS, "gone", "a program of no other process")
    with pytest.raises(
        RuntimeError, match=r"(?s)first step of a program of no other process failed: .*KeyError"
    ):
        list(warmup.warm_up(["gone"]))


def test_an_unknown_program_is_refused_by_name(capsys):
    assert cli.main(["warmup", "rnn"]) == 2
    assert "there is no program 'rnn' to warm up for; choose among mlp, fused" in capsys.readouterr().err
