import warnings
from dataclasses import replace
from itertools import count

import numpy as np
import pytest
import torch

from benchmarks.contenders.backprop import Backprop
from benchmarks.contenders.contender import Contender, Method
from benchmarks.contenders.registry import METHODS
from benchmarks.race.loop import race
from benchmarks.race.networks import make_mlp
from benchmarks.race.races import TINY
from benchmarks.race.settings import Choice
from benchmarks.race.tasks import TASKS
from benchmarks.race.training_run import run
from zo_triton.data import Dataset

SHORT = replace(
    TINY,
    directions=(8,),
    learning_rates=(1e-3, 1e-2),
    trial_seconds=20.0,
    run_seconds=20.0,
    targets=(0.3, 0.6),
)
ADAM = Method("adam", "backprop + Adam", "first", Backprop)


@pytest.fixture(scope="module")
def task():
    return TASKS["digits"].prepare()


@pytest.fixture(autouse=True)
def even_time(monkeypatch):
    """Each step takes a millisecond by the clock, however busy the machine is."""
    ticks = count()
    monkeypatch.setattr("benchmarks.race.clocks.perf_counter", lambda: 1e-3 * next(ticks))


class Recorder(Contender):
    """Trains nothing and keeps what it was given."""

    evaluations_per_step = 7

    def __init__(self, model, loss=1.0):
        self.weights = [parameter.detach().clone() for parameter in model.parameters()]
        self.loss, self.seen = loss, []

    def step(self, x, y):
        self.seen.append((x, y))
        return self.loss


def recording(made, loss=1.0):
    def build(model, setting):
        made.append(Recorder(model, loss))
        return made[-1]

    return Method("recorder", "recorder", "zeroth", build)


def test_every_method_gets_the_same_weights_and_batches(task):
    made = []
    for _ in range(2):
        run(recording(made), task, SHORT, seed=4, choice=Choice(0.1), seconds=0.05)
    for one, other in zip(made[0].weights, made[1].weights, strict=True):
        assert torch.equal(one, other)
    assert min(len(made[0].seen), len(made[1].seen)) >= 15, "more than an epoch"
    for (x, y), (x_too, y_too) in zip(made[0].seen, made[1].seen, strict=False):
        assert torch.equal(x, x_too)
        assert torch.equal(y, y_too)


def test_an_epoch_visits_no_example_twice(task):
    numbers = np.arange(300, dtype=np.float32)[:, None]
    labels = np.zeros(300, np.int64)
    numbered = replace(task, data=Dataset("numbers", numbers, labels, numbers, labels))
    source = numbered.batches(128, seed=0)
    first, second, third = (next(source)[0] for _ in range(3))
    assert len(torch.unique(torch.cat([first, second]))) == 256
    assert not torch.equal(first, third)


def test_a_run_reaches_its_targets_in_order(task):
    result = run(ADAM, task, SHORT, seed=0, choice=Choice(1e-2), seconds=20.0)
    early, late = result["reached"]["0.3"], result["reached"]["0.6"]
    assert 0 < early["cpu_seconds"] <= late["cpu_seconds"] <= result["cpu_seconds"]
    assert 0 < early["steps"] <= late["steps"]
    assert late["evaluations"] == 3 * late["steps"]
    assert result["curve"][-1][4] >= 0.3
    steps = [point[0] for point in result["curve"]]
    assert steps == sorted(steps)
    assert steps[:11] == [*range(len(steps[:11]))]


def test_a_target_that_is_not_reached_is_null(task):
    result = run(recording([]), task, SHORT, seed=0, choice=Choice(0.1), seconds=0.05)
    assert result["reached"] == {"0.3": None, "0.6": None}
    assert [point[0] for point in result["curve"]][:13] == [*range(11), 15, 20]


@pytest.mark.parametrize("loss", [float("nan"), float("inf")])
def test_a_diverged_run_stops(task, loss):
    made = []
    result = run(recording(made, loss), task, SHORT, seed=0, choice=Choice(0.1), seconds=0.05)
    assert result["diverged"] is True
    assert len(made[0].seen) == 1


def test_other_errors_are_not_taken_for_divergence(task):
    class Broken(Recorder):
        def step(self, x, y):
            raise ValueError("a mistake")

    method = Method("broken", "broken", "zeroth", lambda model, setting: Broken(model))
    with pytest.raises(ValueError, match="a mistake"):
        run(method, task, SHORT, seed=0, choice=Choice(0.1), seconds=0.05)


def test_methods_take_turns_and_none_always_starts(task):
    order = []
    quick = replace(SHORT, targets=(0.05,), learning_rates=(1e-2,), seeds=(0, 1, 2))
    other = replace(ADAM, name="other", label="other")
    *_, rows = race([ADAM, other], task, quick, order.append)
    assert order == [
        "tuning 1 of 2: backprop + Adam", "tuning 2 of 2: other",
        "run 1 of 3, seed 0: backprop + Adam", "run 1 of 3, seed 0: other",
        "run 2 of 3, seed 1: other", "run 2 of 3, seed 1: backprop + Adam",
        "run 3 of 3, seed 2: backprop + Adam", "run 3 of 3, seed 2: other",
    ]  # fmt: skip
    assert [len(row["runs"]) for row in rows] == [3, 3]


def test_a_method_that_fails_is_a_row_and_the_others_go_on(task):
    def build(model, setting):
        raise RuntimeError("no such luck\nand more")

    broken = Method("broken", "broken", "zeroth", build)
    late = Method("late", "late", "zeroth", lambda model, setting: FailsLater(model))
    *_, rows = race([broken, ADAM, late], task, replace(SHORT, learning_rates=(1e-2,)), lambda message: None)
    assert rows[0]["error"] == "RuntimeError: no such luck"
    assert rows[2]["error"] == "ValueError: out of luck"
    assert rows[0]["runs"] == rows[2]["runs"] == []
    assert len(rows[1]["runs"]) == 2


def test_warnings_go_to_the_row_once_and_not_to_the_screen(task, capsys):
    class Warns(Recorder):
        def step(self, x, y):
            warnings.warn("slopes are coarse\nsee the manual", stacklevel=1)
            return 1.0

    methods = [Method("warns", "warns", "zeroth", lambda model, setting: Warns(model)), recording([])]
    config = replace(SHORT, trial_seconds=0.01, run_seconds=0.01, seeds=(0, 1))
    *_, (warned, quiet) = race(methods, task, config, lambda message: None)
    assert warned["warnings"] == ["UserWarning: slopes are coarse"]
    assert len(warned["runs"]) == 2
    assert quiet["warnings"] == []
    assert capsys.readouterr().err == ""


class FailsLater(Recorder):
    def step(self, x, y):
        if len(self.seen) > 7:
            raise ValueError("out of luck")
        return super().step(x, y)


def test_weights_that_live_elsewhere_are_fetched_before_an_accuracy(task):
    class Remote(Recorder):
        fetched = 0

        def write_weights(self):
            self.fetched += 1

    made = []

    def build(model, setting):
        made.append(Remote(model))
        return made[-1]

    result = run(
        Method("remote", "remote", "zeroth", build), task, SHORT, seed=0, choice=Choice(0.1), seconds=0.05
    )
    assert made[0].fetched == len(result["curve"]) - 1


def test_unknown_methods_are_named():
    assert METHODS["mezo-1"].label == "MeZO loop, K = 1"
    with pytest.raises(ValueError, match=r"unknown contender 'mezzo'; choose one of \('zo'"):
        METHODS["mezzo"]


def test_a_single_output_tells_two_classes_apart():
    model = torch.nn.Linear(1, 1, bias=False)
    with torch.no_grad():
        model.weight.fill_(1.0)
    x = np.array([[-2.0], [-1.0], [1.0], [3.0]], np.float32)
    data = Dataset("signs", x, np.array([0, 0, 1, 1]), x, np.array([0, 1, 1, 1]))
    signs = replace(TASKS["nzk-linear"].prepare(), data=data)
    loss, accuracy = signs.evaluate(model)
    assert accuracy == 0.75
    assert loss == pytest.approx((1 + 0 + 0 + 4) / 4)


def test_evaluation_is_right_on_a_known_model(task):
    model = make_mlp((64, 10), 0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        model[0].bias[3] = 1.0
    _, accuracy = task.evaluate(model)
    assert accuracy == pytest.approx((task.data.test_y == 3).mean())
