"""Learning rate and K are chosen by the same number of trials for every method, and by what takes least time."""

from dataclasses import replace

import numpy as np
import pytest

from benchmarks.contenders.backprop import Backprop
from benchmarks.contenders.contender import Method
from benchmarks.contenders.registry import METHODS
from benchmarks.race import sweep
from benchmarks.race.races import RACES, TINY
from benchmarks.race.settings import Choice, RaceConfig, choices, log_uniform
from benchmarks.race.sweep import tune
from benchmarks.race.tasks import TASKS

SHORT = replace(
    TINY,
    directions=(8,),
    learning_rates=(1e-3, 1e-2),
    trial_seconds=20.0,
    run_seconds=20.0,
    targets=(0.3, 0.6),
)
ADAM = Method("adam", "backprop + Adam", "first", Backprop)
WALKER = METHODS["zo-adam"]


@pytest.fixture(scope="module")
def task():
    return TASKS["digits"].prepare()


def test_learning_rates_are_drawn_log_uniformly_one_from_each_part():
    rates = log_uniform(1e-3, 10.0, 8, seed=3)
    parts = [int(8 * np.log(rate / 1e-3) / np.log(1e4)) for rate in rates]
    assert parts == list(range(8))
    assert rates == log_uniform(1e-3, 10.0, 8, seed=3) != log_uniform(1e-3, 10.0, 8, seed=4)


@pytest.mark.parametrize("name", RACES)
def test_every_method_of_a_race_has_as_many_trials(name):
    config = RACES[name].config
    tried = [choices(METHODS[each], config) for each in RACES[name].methods]
    assert {len(set(each)) for each in tried} == {len(config.learning_rates)}
    for method, listed in zip(RACES[name].methods, tried, strict=True):
        assert {choice.lr for choice in listed} <= set(config.learning_rates)
        if METHODS[method].tunes_directions:
            assert {choice.directions for choice in listed} == set(config.directions)


def test_a_method_with_a_k_to_choose_tries_it_with_rates_from_the_middle_of_each_group():
    config = replace(SHORT, directions=(4, 8, 16), learning_rates=(1e-3, 2e-3, 4e-3, 1e-2, 2e-2, 4e-2))
    assert choices(WALKER, config) == [
        Choice(2e-3, 4), Choice(2e-2, 4), Choice(2e-3, 8), Choice(2e-2, 8), Choice(2e-3, 16), Choice(2e-2, 16),
    ]  # fmt: skip
    assert choices(ADAM, config) == [Choice(lr, None) for lr in config.learning_rates]
    assert {choice.directions for choice in choices(METHODS["mezo-1"], config)} == {1}


def test_learning_rates_that_would_not_be_as_many_for_each_k_are_refused():
    with pytest.raises(ValueError, match=r"each K of \(4, 8\) must get as many .* got 3 .* a multiple of 2"):
        replace(SHORT, directions=(4, 8), learning_rates=(0.1, 0.2, 0.3))
    with pytest.raises(ValueError, match=r"each K of \(\)"):
        RaceConfig(8, (), 1e-3, (0.1,), 1.0, 1.0, (0,), (1,), (0.9,))


def stand_in(monkeypatch, outcomes):
    """Runs that take (steps, milliseconds a step) by K, or None for those that never get there; told by loss."""
    made = []

    def run(method, used, config, seed, choice, *rest):
        made.append((choice, seed, used.data))
        steps, step_ms, loss = outcomes(choice)
        reached = None if steps is None else {"seconds": 0.0, "steps": steps, "evaluations": 1}
        curve = [[0, 0.0, 0, loss, 0.5]]
        return {"reached": {"0.6": reached}, "curve": curve, "diverged": False, "step_ms": step_ms}

    monkeypatch.setattr(sweep, "run", run)
    return made


def test_the_soonest_wins_though_another_k_takes_fewer_steps(task, monkeypatch):
    config = replace(
        SHORT, directions=(4, 16), learning_rates=(1e-3, 2e-3, 1e-2, 2e-2), tuning_seeds=(1, 2, 3)
    )
    by_k = {4: (30, 1.0), 16: (20, 2.0)}
    made = stand_in(monkeypatch, lambda choice: (*by_k[choice.directions], choice.lr))
    choice, trials = tune(WALKER, task, config)
    assert choice == Choice(1e-3, 4)
    assert [(row["directions"], row["steps"], row["step_ms"]) for row in trials] == [
        (4, 30, 1.0), (4, 30, 1.0), (16, 20, 2.0), (16, 20, 2.0),
    ]  # fmt: skip
    assert [row["seeds"] for row in trials] == [3, 3, 3, 1], "three of the four are tried with all seeds"
    assert len(made) == 4 + 3 * 3


def test_one_slow_trial_does_not_decide(task, monkeypatch):
    """A step's time is the median over all trials of a K: a busy moment must not cost the better rate."""
    outcomes = {(1e-3, 8): (30, 1.0, 0.0), (2e-3, 8): (20, 9.0, 0.0), (4e-3, 8): (40, 1.0, 0.0)}
    stand_in(monkeypatch, outcomes.__getitem__)
    config = replace(SHORT, learning_rates=(1e-3, 2e-3, 4e-3))
    assert tune(WALKER, task, config)[0] == Choice(2e-3, 8)


def test_tuning_takes_the_fewest_steps_and_never_sees_the_test_examples(task, monkeypatch):
    seen = []
    original = sweep.run

    def spy(method, used, *rest):
        seen.append(used.data)
        return original(method, used, *rest)

    monkeypatch.setattr(sweep, "run", spy)
    choice, trials = tune(ADAM, task, SHORT)
    assert choice == Choice(1e-2, None)
    assert [trial["lr"] for trial in trials] == [1e-3, 1e-2]
    assert trials[1]["steps"] is not None
    assert all(len(used.train_x) + len(used.test_x) == len(task.data.train_x) for used in seen)


def test_each_tuning_seed_holds_out_examples_of_its_own(task, monkeypatch):
    """On one split, an easy one say, all seeds would agree on a choice that others don't bear out."""
    held = {}

    def run(_method, used, _config, seed, _choice, *_):
        held.setdefault(seed, []).append(used.data.test_x)
        return {"reached": {"0.6": None}, "curve": [[0, 0.0, 0, 1.0, 0.5]], "diverged": False, "step_ms": 1.0}

    monkeypatch.setattr(sweep, "run", run)
    tune(ADAM, task, replace(SHORT, tuning_seeds=(1, 2, 3)))
    assert all((each == images[0]).all() for images in held.values() for each in images)
    assert len({images[0].tobytes() for images in held.values()}) == 3


def test_without_a_finisher_the_lowest_loss_wins(task):
    impossible = replace(SHORT, targets=(1.01,), trial_seconds=0.05)
    choice, trials = tune(ADAM, task, impossible)
    assert all(trial["steps"] is None for trial in trials)
    assert choice.lr == min(trials, key=lambda trial: trial["loss"])["lr"]
