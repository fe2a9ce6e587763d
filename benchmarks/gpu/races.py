"""The races on a GPU: data and batches lie there, steps are queued, and the clock knows only them.

The rules are those of :mod:`benchmarks.race.loop`: every method has the same sweep, batches and first
weights; evaluation, compilation and recording are outside the clock. A block of steps between two looks at the
accuracy is timed as a whole, because waiting for the device after each step would slow down those who need not.
"""

from __future__ import annotations

import importlib.util
import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from functools import partial
from itertools import islice
from time import perf_counter
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from benchmarks.clock import WARM_UPS
from benchmarks.contenders.contender import LeftOutError, Method, Setting, count_parameters, make_mlp
from benchmarks.contenders.cuda_graphs import (
    Backprop,
    RecordedBackprop,
    RecordedZO,
    make_gelu_mlp,
)
from benchmarks.contenders.fused import Fused
from benchmarks.contenders.mezo import MeZO
from benchmarks.gpu.results import StageContext, StageResults
from benchmarks.gpu.settings import DIGITS, MNIST, TINY_RACE
from benchmarks.race.loop import FIRST_CHECKPOINTS, LOSS_EXAMPLES, RaceConfig, setting
from benchmarks.race.tasks import LoadedTask
from benchmarks.timing import round_digits
from zo_triton.data import Dataset, available, digits, load, root

MOMENTUM = 0.9
"""Of the recorded ZO-SGD."""

LOOP_DIRECTIONS = 64
"""K of the MeZO loop, whose steps cost in proportion to K."""

HIDDEN, TINY_HIDDEN = (128, 128), (8,)
"""Of the MNIST network."""

TINY_STRIDE = 16
"""A tiny race sees every so many-th pixel."""


@dataclass(frozen=True)
class OnDevice:
    """A data set on the device.

    Attributes:
        train_x: [n, features] float32.
        train_y: [n] int64.
        test_x: [m, features] float32.
        test_y: [m] int64.
    """

    train_x: Tensor
    train_y: Tensor
    test_x: Tensor
    test_y: Tensor

    @classmethod
    def of(cls, data: Dataset, device: torch.device) -> OnDevice:
        """Copies the arrays there."""
        arrays = (data.train_x, data.train_y, data.test_x, data.test_y)
        return cls(*(torch.from_numpy(array).to(device) for array in arrays))

    def batches(self, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
        """Shuffled batches without end; the same seed gives the same batches to every method."""
        generator = np.random.default_rng(seed)
        while True:
            order = torch.from_numpy(generator.permutation(len(self.train_x))).to(self.train_x.device)
            for rows in order.split(size):
                if len(rows) == size:
                    yield self.train_x[rows], self.train_y[rows]

    @torch.no_grad()
    def evaluate(self, model: nn.Module) -> tuple[float, float]:
        """(mean loss of at most :data:`LOSS_EXAMPLES` training examples, test accuracy)."""
        loss = F.cross_entropy(model(self.train_x[:LOSS_EXAMPLES]), self.train_y[:LOSS_EXAMPLES])
        hits = model(self.test_x).argmax(1) == self.test_y
        return loss.item(), hits.float().mean().item()


def methods(config: RaceConfig, dtype: torch.dtype, with_loop: bool) -> list[Method]:
    """Who runs, ours first.

    Args:
        config: The race's settings.
        dtype: Of the fused evaluations.
        with_loop: The MeZO loop as well.
    """
    K, name = config.directions, str(dtype).removeprefix("torch.")

    def recorded(model: nn.Module, s: Setting) -> Any:
        return RecordedZO(model, s, momentum=MOMENTUM, dtype=dtype)

    def fused(model: nn.Module, s: Setting) -> Any:
        return Fused(model, s, compute_dtype=dtype)

    def adam(model: nn.Module, s: Setting) -> Any:
        return Backprop(model, s, adam=True)

    def adam_recorded(model: nn.Module, s: Setting) -> Any:
        return RecordedBackprop(model, s, adam=True)

    loops = min(K, LOOP_DIRECTIONS)
    listed = [
        Method("zo-graph", "fused ZO + momentum, CUDA graph", "fused", recorded, name),
        Method("zo-adam", "fused ZO + Adam", "fused", fused, name),
        Method(
            "mezo", f"MeZO loop + Adam, K = {loops}", "zeroth",
            lambda m, s: MeZO(m, replace(s, directions=loops), adam=True),
        ),
        Method("adam", "backprop + Adam", "first", adam),
        Method("adam-graph", "backprop + Adam, CUDA graph", "first", adam_recorded),
    ]  # fmt: skip
    return [method for method in listed if with_loop or method.name != "mezo"]


def run_digits(results: StageResults) -> None:
    """The section ``race``: digits, as on the CPU.

    The section is missing, and an incident says why, without scikit-learn.
    """

    def prepare() -> LoadedTask:
        if importlib.util.find_spec("sklearn") is None:
            raise LeftOutError("scikit-learn, which has the digits, is not installed.")
        sizes = (64, 32, 10)
        return LoadedTask(
            "digits", digits().standardized(), partial(make_mlp, sizes), "ReLU network 64-32-10"
        )

    task = results.attempt("data", prepare)
    if task is not None:
        _race(results, "race", task, TINY_RACE if results.context.tiny else DIGITS, with_loop=True)


def run_mnist(results: StageResults) -> None:
    """The section ``race_mnist``; it is missing, and an incident says why, where the data is not there."""

    def prepare() -> LoadedTask:
        if not available("mnist"):
            raise LeftOutError(f"mnist is not under {root()}; name its folder in ZO_TRITON_DATA.")
        data = load("mnist")
        if results.context.tiny:
            pixels = slice(None, None, TINY_STRIDE)
            data = replace(data, train_x=data.train_x[:, pixels], test_x=data.test_x[:, pixels], shape=())
        data = data.standardized()
        sizes = (data.train_x.shape[1], *(TINY_HIDDEN if results.context.tiny else HIDDEN), 10)
        name = "GELU network " + "-".join(map(str, sizes))
        return LoadedTask("mnist", data, partial(make_gelu_mlp, sizes), name)

    task = results.attempt("data", prepare)
    if task is not None:
        _race(results, "race_mnist", task, TINY_RACE if results.context.tiny else MNIST, with_loop=False)


def _race(results: StageResults, name: str, task: LoadedTask, config: RaceConfig, with_loop: bool) -> None:
    """Sweep for each method, then every seed; a method that fails has no row."""
    tried = len(config.learning_rates)
    note = (
        "Inputs are standardised with the training examples' mean and standard deviation. Every method tried the "
        f"same {tried} learning rates once for at most {config.trial_seconds:g} s of training on a fifth of the "
        "training examples held out (the test examples are never seen); the table gives the steps to "
        f"{100 * config.targets[-1]:.0f} % validation accuracy, or in brackets the best accuracy. Momentum is "
        f"fixed at {MOMENTUM}, Adam's other settings are torch's. Data and batches lie on the GPU; the clock runs "
        "over blocks of steps queued one after the other, up to the device's last."
    )
    section: dict[str, Any] = {
        "task": task.name,
        "network": task.network,
        "config": {
            key: list(each) if isinstance(each, tuple) else each for key, each in asdict(config).items()
        },
        "parameters": count_parameters(task.make_model(0)),
        "tuning": {"learning_rates": list(config.learning_rates), "note": note},
        "methods": [],
    }
    context = results.context
    data = OnDevice.of(task.data, context.device)
    held = OnDevice.of(task.data.validation(seed=config.tuning_seeds[0]), context.device)
    for method in methods(config, context.dtype, with_loop):
        compete = partial(_compete, method, task, data, held, config, context)
        found = results.attempt(method.label, compete)
        if found is not None:
            section["methods"].append(found)
        # Without any of ours there is no race.
        if any(row["family"] == "fused" for row in section["methods"]):
            results.put(name, section)


def _compete(
    method: Method,
    task: LoadedTask,
    data: OnDevice,
    held: OnDevice,
    config: RaceConfig,
    context: StageContext,
) -> dict[str, Any]:
    """One method's row."""
    start = perf_counter()
    _prepared(method, task, data, config, 0, config.learning_rates[0], context)
    set_up = perf_counter() - start
    seed = config.tuning_seeds[0]
    trials = [
        _trial(run(method, task, held, config, seed, lr, config.trial_seconds, context), lr)
        for lr in config.learning_rates
    ]
    best = min(trials, key=_rank)
    runs = [
        run(method, task, data, config, one, best["lr"], config.run_seconds, context) for one in config.seeds
    ]
    return {
        "name": method.name,
        "label": method.label,
        "family": method.family,
        "dtype": method.dtype,
        "set_up_seconds": round_digits(set_up, 3),
        "lr": best["lr"],
        "trials": trials,
        "runs": runs,
        "step_ms": round_digits(sorted(one["step_ms"] for one in runs)[len(runs) // 2]),
        "evaluations_per_step": runs[0]["evaluations_per_step"],
    }


def _prepared(
    method: Method,
    task: LoadedTask,
    data: OnDevice,
    config: RaceConfig,
    seed: int,
    lr: float,
    context: StageContext,
) -> tuple[nn.Module, Any]:
    """A model, and a contender that has compiled and recorded what it needs without having trained it."""
    model = task.make_model(seed).to(context.device)
    contender: Any = method.build(model, setting(config, lr, seed))
    if hasattr(contender, "prepare"):
        contender.prepare(*next(data.batches(config.batch, seed)))
    else:
        spare = task.make_model(seed).to(context.device)
        warm: Any = method.build(spare, setting(config, lr, seed))
        for x, y in islice(data.batches(config.batch, seed), WARM_UPS):
            warm.step(x, y)
    context.clock.wait()
    return model, contender


def run(
    method: Method,
    task: LoadedTask,
    data: OnDevice,
    config: RaceConfig,
    seed: int,
    lr: float,
    seconds: float,
    context: StageContext,
) -> dict[str, Any]:
    """One training run, until past the last target or the cap.

    Returns:
        As :func:`benchmarks.race.loop.run`.
    """
    model, contender = _prepared(method, task, data, config, seed, lr, context)
    source = data.batches(config.batch, seed)
    evaluations = contender.evaluations_per_step
    curve = [[0, 0.0, 0, *(round_digits(value) for value in data.evaluate(model))]]
    reached: dict[str, Any] = {f"{target:g}": None for target in config.targets}
    clock, step, stop, diverged = 0.0, 0, seconds, False
    while clock < stop:
        block = list(islice(source, max(1 if context.tiny else FIRST_CHECKPOINTS, step // 50)))
        context.clock.wait()
        start = perf_counter()
        try:
            for x, y in block:
                contender.step(x, y)
        except ValueError as error:
            # So the fused methods say that a loss is not finite.
            if "finite" not in str(error):
                raise
            diverged = True
            break
        context.clock.wait()
        clock += perf_counter() - start
        step += len(block)
        loss, accuracy = data.evaluate(model)
        diverged = not math.isfinite(loss)
        if diverged:
            break
        curve.append(
            [step, round_digits(clock), step * evaluations, round_digits(loss), round_digits(accuracy)]
        )
        for target in config.targets:
            if accuracy >= target and reached[f"{target:g}"] is None:
                reached[f"{target:g}"] = {
                    "seconds": round_digits(clock),
                    "steps": step,
                    "evaluations": step * evaluations,
                }
                if target == config.targets[-1]:
                    stop = min(seconds, config.overrun * clock)
    return {
        "seed": seed,
        "curve": curve,
        "reached": reached,
        "diverged": diverged,
        "step_ms": round_digits(1000 * clock / max(step, 1)),
        "evaluations_per_step": evaluations,
    }


def _trial(attempt: dict[str, Any], lr: float) -> dict[str, Any]:
    """A rate's row in the sweep."""
    taken = attempt["reached"][max(attempt["reached"], key=float)]
    return {
        "lr": lr,
        "seeds": 1,
        "steps": None if taken is None else taken["steps"],
        "best_accuracy": max(point[4] for point in attempt["curve"]),
        "loss": None if attempt["diverged"] else attempt["curve"][-1][3],
    }


def _rank(trial: dict[str, Any]) -> tuple[float, float]:
    steps, loss = trial["steps"], trial["loss"]
    return (math.inf if steps is None else steps, math.inf if loss is None else loss)
