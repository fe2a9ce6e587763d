"""What counts as a race's time, on the host and on a device; here the CPU stands in for a GPU."""

from dataclasses import replace
from time import sleep

import pytest
import torch

from benchmarks.contenders.contender import Contender, Method
from benchmarks.contenders.registry import METHODS
from benchmarks.race import clocks, loop, sweep
from benchmarks.race.clocks import DeviceClock, HostClock
from benchmarks.race.loaded_task import LoadedTask
from benchmarks.race.networks import make_mlp
from benchmarks.race.races import RACES, TINY
from benchmarks.race.settings import Choice
from benchmarks.race.training_run import run
from zo_triton.data import digits
from zo_triton.optim.errors import NonFiniteLossError

CPU = torch.device("cpu")
DIGITS = RACES["digits-gpu"].config
SHORT = replace(
    TINY, directions=(8,), learning_rates=(1e-2,), trial_seconds=0.02, run_seconds=0.02, targets=(0.3, 0.6)
)
COMPILING = 0.3
"""Seconds; more than any of a short race's times."""

CLOCKS = pytest.mark.parametrize("clock", [HostClock, lambda: DeviceClock(CPU)], ids=["host", "device"])


@pytest.fixture(scope="module")
def task():
    data = digits().standardized()
    return LoadedTask("digits", data, lambda seed: make_mlp((64, 32, 10), seed), "a network")


def run_on_device(task, lr, seconds=0.5):
    return run(METHODS["adam"], task, DIGITS, 0, Choice(lr), seconds, DeviceClock(CPU))


def test_a_run_reaches_its_targets_and_stops_a_little_later(task):
    found = run_on_device(task, 1e-2, seconds=20.0)
    late = found["reached"]["0.95"]
    assert found["reached"]["0.9"]["steps"] <= late["steps"]
    assert late["evaluations"] == 3 * late["steps"]
    steps, clocks = zip(*((point[0], point[1]) for point in found["curve"]), strict=True)
    assert list(steps) == sorted(set(steps))
    assert list(clocks) == sorted(clocks)
    assert clocks[-1] < 20.0
    assert found["diverged"] is False


def test_the_host_looks_closely_at_first_and_both_clocks_less_and_less_often():
    for clock, looks in ((HostClock(1), [1, 1, 5, 5, 20]), (DeviceClock(CPU), [5, 5, 5, 5, 20])):
        assert [clock.steps_to_look(taken) for taken in (0, 9, 10, 299, 1000)] == looks


def test_a_run_that_diverges_says_so(task):
    found = run_on_device(task, 1e30)
    assert found["diverged"] is True
    assert all(point[3] == point[3] for point in found["curve"])
    assert sweep._row(Choice(1e30), [found], 1.0)["loss"] is None


def test_every_method_sees_the_same_batches(task):
    first, second = (next(task.batches(16, seed=4)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert first[0].shape == (16, 64)
    assert not torch.equal(first[0], next(task.batches(16, seed=5))[0])


class Fragile(Contender):
    """Trains nothing; its loss is not finite from the third step on."""

    evaluations_per_step = 1

    def __init__(self, says):
        self.says, self.steps = says, 0

    def step(self, x, y):
        self.steps += 1
        return torch.tensor(1.0) if self.steps < 3 else self.says()


def refuse():
    raise NonFiniteLossError("in words that nobody reads")


@CLOCKS
@pytest.mark.parametrize(
    "says", [refuse, lambda: torch.tensor(torch.nan), lambda: float("inf")], ids=["refused", "nan", "inf"]
)
def test_a_method_that_diverges_has_a_row_of_diverged_trials(clock, says, task):
    method = Method("fragile", "fragile", "zeroth", lambda model, setting: Fragile(says))
    *_, (row,) = loop.race([method], task, SHORT, lambda text: None, clock())
    assert "error" not in row
    assert [trial["loss"] for trial in row["trials"]] == [None]
    assert len(row["runs"]) == len(SHORT.seeds)
    assert all(run["diverged"] for run in row["runs"])
    assert all(run["curve"][-1][0] < 3 for run in row["runs"])


@CLOCKS
def test_other_errors_are_an_error_row(clock, task):
    def fail():
        raise ValueError("the loss is finite, this is a mistake")

    method = Method("broken", "broken", "zeroth", lambda model, setting: Fragile(fail))
    *_, (row,) = loop.race([method], task, SHORT, lambda text: None, clock())
    assert row["error"] == "ValueError: the loss is finite, this is a mistake"
    assert row["runs"] == []


@CLOCKS
@pytest.mark.parametrize("each", [False, True], ids=["once a process", "for each contender"])
def test_compilation_is_off_the_clock(clock, each, task):
    """A process compiles on its first step, or a contender when it is prepared."""
    compiled = []

    class Compiling(Fragile):
        def prepare(self, x, y):
            if each:
                sleep(COMPILING)

        def step(self, x, y):
            if not each and not compiled:
                compiled.append(True)
                sleep(COMPILING)
            sleep(1e-3)
            return 1.0

    method = Method("compiling", "compiling", "zeroth", lambda model, setting: Compiling(None))
    *_, (row,) = loop.race([method], task, SHORT, lambda text: None, clock())
    assert row["set_up_seconds"] >= COMPILING
    assert all(run["curve"][-1][1] < COMPILING for run in row["runs"])
    assert row["step_ms"] < 1000 * COMPILING / 5


def test_a_block_on_a_device_is_looked_at_as_a_whole():
    """Nobody waits for the losses of the steps before the last."""
    losses = [torch.tensor(torch.nan), torch.tensor(1.0)]
    given = iter(losses)
    block = DeviceClock(CPU).take(lambda x, y: next(given), [(None, None)] * 2, 0.0)
    assert (len(block.seconds), block.diverged) == (2, False)
    assert block.seconds[0] == block.seconds[1] > 0


def test_a_block_on_the_host_ends_with_its_seconds():
    block = HostClock().take(lambda x, y: 1.0, [(None, None)] * 5, 0.0)
    assert (len(block.seconds), block.diverged) == (1, False)


@pytest.mark.parametrize("quicker", [1, 2])
def test_a_method_has_the_threads_that_its_steps_are_quicker_with(quicker, monkeypatch):
    """Whoever waits for a second thread runs on one, and is prepared for each before it is timed there."""
    prepared, now = [], [0.0]
    monkeypatch.setattr(clocks, "perf_counter", lambda: now[0])

    class Threaded(Fragile):
        def prepare(self, x, y):
            prepared.append(torch.get_num_threads())

        def step(self, x, y):
            assert torch.get_num_threads() in prepared
            now[0] += 1e-3 if torch.get_num_threads() == quicker else 2e-3
            return 1.0

    clock = HostClock(2).suited(Threaded(None), (torch.zeros(1), torch.zeros(1)))
    assert prepared == [1, 2]
    assert clock.count == quicker
    with clock.threads():
        assert torch.get_num_threads() == quicker


def test_on_a_device_the_hosts_threads_make_no_difference():
    clock = DeviceClock(CPU)
    assert clock.suited(Fragile(None), (torch.zeros(1), torch.zeros(1))) is clock
    assert clock.count is None
