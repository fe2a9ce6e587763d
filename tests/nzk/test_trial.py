"""When a trial ends, from the losses of its steps alone."""

from itertools import count

import pytest
import torch

import zo_triton as zo
from benchmarks.race.networks import make_mlp
from zo_triton.nzk.trial import WINDOW, Trial

X = torch.randn(32, 3, generator=torch.Generator().manual_seed(0))


def tried(losses, monkeypatch, steps=10 * WINDOW, limit=1.0):
    """A trial whose n-th step has the loss ``losses(n)``, and the steps it took; η* is ``limit`` everywhere."""
    number = count(1)
    monkeypatch.setattr("zo_triton.nzk.trial.max_stable_lr_of", lambda *told: limit)
    monkeypatch.setattr(Trial, "_step", lambda *told: losses(next(number)))
    model = make_mlp((3, 1), 0)
    trial = Trial(model, zo.ZOSGD(model.parameters(), lr=1.0), 0.25, steps)
    trial.run(X, X, "mse", 8, 4, 0)
    return trial, next(number) - 1


def test_a_loss_that_falls_holds_to_the_end(monkeypatch):
    trial, steps = tried(lambda step: 2.0 / step, monkeypatch)
    assert (trial.held, steps) == (True, 10 * WINDOW)
    assert trial.first == 2.0
    assert trial.last == pytest.approx(sum(2.0 / step for step in range(181, 201)) / 20)


def test_a_loss_that_has_turned_does_not_hold_though_it_is_below_the_first(monkeypatch):
    """From 1 down to 0.2, and after 100 steps up again."""
    trial, steps = tried(lambda step: 1.0 if step == 1 else 0.2 if step <= 100 else 0.8, monkeypatch)
    assert not trial.held
    assert steps == 109  # 9 of 20 steps at 0.8 bring the mean from 0.2 up by 0.27
    assert trial.last < trial.first / 2


def test_one_bad_batch_is_no_turn(monkeypatch):
    assert tried(lambda step: 1.9 if step == 100 else 1.0 / step, monkeypatch)[0].held


@pytest.mark.parametrize(("last", "held"), [(2.0, True), (2.1, False)])
def test_no_step_may_lose_more_than_the_first_twice(last, held, monkeypatch):
    trial, steps = tried(lambda step: last if step == 5 else 1.0, monkeypatch, steps=5)
    assert (trial.held, steps) == (held, 5)


def test_a_trial_shorter_than_a_window_is_not_judged_by_its_mean(monkeypatch):
    trial, _ = tried(lambda step: 1.0 + step / 100, monkeypatch, steps=WINDOW - 1)
    assert trial.held
    assert trial.last == pytest.approx(1.1)


def test_it_ends_where_the_limit_comes_near(monkeypatch):
    trial, steps = tried(lambda step: 1.0, monkeypatch, limit=0.49)
    assert (trial.held, steps, trial.limit) == (False, 1, 0.49)
