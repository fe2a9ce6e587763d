import pickle
from contextlib import nullcontext
from copy import deepcopy

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from torch import nn
from torch.utils.tensorboard import SummaryWriter

import zo_triton as zo
from zo_triton.integrations.logging import log_steps, to_tensorboard


def without_seconds(told):
    return [{name: value for name, value in figures.items() if name != "seconds"} for figures in told]


def quadratic(kind=zo.ZOSGD, **options):
    weight = torch.arange(1.0, 5.0)
    return kind([weight], lr=0.01, directions=4, **options), lambda: weight.square().sum()


def trainer_of(kind=torch.optim.Adam, **options):
    """A trainer and a batch that it takes in compiled calls, unless the options forbid them."""
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 3))
    generator = torch.Generator().manual_seed(0)
    batch = torch.randn(16, 4, generator=generator), torch.randint(0, 3, (16,), generator=generator)
    return zo.FusedTrainer(model, kind(model.parameters(), lr=0.02), directions=8, **options), batch


@pytest.mark.parametrize("kind", [zo.ZOSGD, zo.ZOAdam])
def test_every_third_step_is_told_until_the_handle_is_removed(kind):
    opt, closure = quadratic(kind)
    told = []
    handle = log_steps(opt, lambda step, figures: told.append((step, figures)), every=3)
    losses = [opt.step(closure) for _ in range(7)]
    handle.remove()
    for _ in range(3):
        opt.step(closure)
    assert [step for step, _ in told] == [3, 6]
    assert [figures["loss"] for _, figures in told] == [losses[2], losses[5]]
    assert {figures["lr"] for _, figures in told} == {0.01}


def test_the_slope_is_the_root_mean_square_along_the_directions():
    opt, closure = quadratic()
    told = []
    log_steps(opt, lambda step, figures: told.append(figures))
    opt.step(closure)
    assert told[0]["slope"] == pytest.approx(opt.last.projected.square().mean().sqrt().item())
    assert told[0]["slope"] > 0
    assert told[0]["left_out"] == 0


def test_directions_that_were_left_out_are_counted_and_do_not_enter_the_slope():
    weight, writer = torch.ones(4), Writer()
    opt = zo.ZOSGD([weight], lr=0.1, directions=8, eps=1e-3)
    log_steps(opt, to_tensorboard(writer))
    with pytest.warns(RuntimeWarning, match="left out of this step"):
        opt.step(zo.BlackBox(lambda: weight.sum().item() if weight[0] <= 1 else float("inf")))
    finite = opt.last.projected[opt.last.projected.isfinite()]
    assert 0 < len(finite) < 8
    figures = {name: value for name, value, _ in writer.scalars}
    assert figures["zo/slope"] == pytest.approx(finite.square().mean().sqrt().item())
    assert figures["zo/left_out"] == 8 - len(finite)


@pytest.mark.parametrize("every", [np.int64(2), torch.tensor(2)], ids=["numpy", "torch"])
def test_the_period_may_be_an_integer_of_any_kind(every):
    opt, closure = quadratic()
    told = []
    log_steps(opt, lambda step, figures: told.append(step), every)
    for _ in range(5):
        opt.step(closure)
    assert told == [2, 4]


def test_steps_on_activations_have_no_slopes():
    model, x = nn.Linear(4, 1), torch.randn(8, 4, generator=torch.Generator().manual_seed(0))
    opt = zo.ZOSGD(model.parameters(), lr=0.01, directions=4, perturb="activations")
    told = []
    log_steps(opt, lambda step, figures: told.append(figures))
    loss = opt.step(lambda: model(x).square().mean())
    assert without_seconds(told) == [{"loss": loss, "lr": 0.01, "evaluations": 4.0}]


@pytest.mark.parametrize(("sides", "perturb"), [(1, "weights"), (2, "weights"), (1, "activations")])
def test_evaluations_and_seconds_are_those_since_the_telling_began(sides, perturb):
    trainer, batch = trainer_of(sides=sides, perturb=perturb)
    trainer.step(*batch)
    told = []
    log_steps(trainer, lambda step, figures: told.append((step, figures)), every=2)
    for _ in range(4):
        trainer.step(*batch)
    assert [step for step, _ in told] == [2, 4]  # the first and the third since
    assert [figures["evaluations"] for _, figures in told] == [1 * 8 * sides, 3 * 8 * sides]
    assert 0 < told[0][1]["seconds"] < told[1][1]["seconds"]


@pytest.mark.parametrize("fused", [True, False], ids=["compiled", "general"])
def test_a_trainer_tells_what_its_step_has_measured(fused):
    trainer, batch = trainer_of(torch.optim.SGD, fused=fused)
    copy = deepcopy(trainer.model)
    twin = zo.ZOSGD(copy.parameters(), lr=0.02, directions=8)
    told = []
    log_steps(trainer, lambda step, figures: told.append(figures))
    assert trainer.is_fused == fused
    loss = trainer.step(*batch)
    twin.step(lambda: nn.functional.cross_entropy(copy(batch[0]), batch[1]))
    expected = twin.last.projected
    assert told[0]["loss"] == loss
    assert told[0]["lr"] == 0.02
    assert told[0]["slope"] == pytest.approx(expected.square().mean().sqrt().item(), rel=1e-4)
    assert told[0]["left_out"] == 0


def test_the_weights_are_those_of_a_run_that_nobody_watches():
    ends = []
    for watched in (False, True):
        opt, closure = quadratic()
        if watched:
            log_steps(opt, lambda step, figures: None)
        for _ in range(5):
            opt.step(closure)
        ends.append(opt.param_groups[0]["params"][0])
    assert torch.equal(*ends)


@pytest.mark.parametrize("fused", [True, False], ids=["compiled", "general"])
def test_directions_that_a_trainer_left_out_do_not_enter_its_slope(fused):
    # Only the second layer's three weights and its bias move the output, each by its sign: a slope is 2r times
    # the sum of four signs, and beyond the largest usable one where all agree.
    model = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 1))
    for parameter in model.parameters():
        nn.init.zeros_(parameter)
    nn.init.ones_(model[0].bias)
    sgd = torch.optim.SGD(model.parameters(), lr=1e-30)
    trainer = zo.FusedTrainer(model, sgd, 32, loss=nn.functional.mse_loss, fused=fused)
    weights = zo.sample(trainer.next_directions(), 2, (1, 3))
    signs = weights.sum((1, 2)) + zo.sample(trainer.next_directions(), 3, (1,)).sum(1)
    used = signs[signs.abs() < 4]
    told, r = [], 2.0**57.5
    log_steps(trainer, lambda step, figures: told.append(figures))
    assert trainer.is_fused == fused
    with pytest.warns(RuntimeWarning, match="left out of this step") if not fused else nullcontext():
        trainer.step(torch.ones(4, 2), torch.full((4, 1), -r))
    assert told[0]["left_out"] == 32 - len(used) > 0
    assert told[0]["slope"] == pytest.approx(2 * r * used.square().mean().sqrt().item(), rel=1e-4)


@pytest.mark.parametrize("kind", ["optimizer", "compiled", "general"])
def test_one_who_raises_keeps_no_other_from_being_told(kind):
    if kind == "optimizer":
        opt, closure = quadratic()
        step = [closure]
    else:
        opt, step = trainer_of(fused=kind == "compiled")
    told = []

    def full(step, figures):
        raise OSError(f"no space for step {step}")

    def broken(step, figures):
        raise KeyError("loss")

    handles = [log_steps(opt, tell) for tell in (full, broken, lambda step, figures: told.append(step))]
    another = r"Another one who was told of this step raised KeyError\('loss'\)"
    with pytest.warns(RuntimeWarning, match=another), pytest.raises(OSError, match="no space for step 1"):
        opt.step(*step)
    assert told == [1] == [opt.steps_done]
    handles[0].remove()
    with pytest.raises(KeyError, match="loss"):
        opt.step(*step)
    handles[1].remove()
    opt.step(*step)
    assert told == [1, 2, 3]


def test_with_the_last_listener_the_hook_goes(tmp_path):
    opt, _ = quadratic()
    first, second = (log_steps(opt, print) for _ in range(2))
    first.remove()
    with pytest.raises(ValueError, match="step post-hook log_steps may change"):
        zo.ReplayLog.start(tmp_path / "log.zo", opt)
    second.remove()
    zo.ReplayLog.start(tmp_path / "log.zo", opt).close()


def test_a_copy_of_a_trainer_tells_nobody_and_goes_on_as_it_would():
    trainer, batch = trainer_of()
    told = []
    handle = log_steps(trainer, lambda step, figures: told.append(step))
    trainer.step(*batch)
    for copy in (deepcopy(trainer), pickle.loads(pickle.dumps(trainer))):
        told.clear()
        copy.step(*batch)
        assert told == []
    trainer.step(*batch)
    assert told == [2]
    assert all(torch.equal(*both) for both in zip(copy.params, trainer.params, strict=True))
    handle.remove()


def test_a_trainer_with_hooks_writes_no_log_and_one_with_a_log_gets_none(tmp_path):
    trainer, batch = trainer_of()
    handle = log_steps(trainer, print)
    with pytest.raises(ValueError, match=r"the trainer's step post-hook log_steps may change"):
        zo.ReplayLog.start(tmp_path / "log.zo", trainer)
    handle.remove()
    with zo.ReplayLog.start(tmp_path / "log.zo", trainer):
        with pytest.raises(ValueError, match="allows no hooks"):
            log_steps(trainer, print)
        trainer.step(*batch)


@pytest.mark.parametrize("perturb", ["weights", "activations"])
def test_event_files_of_tensorboard_hold_a_trainers_figures(tmp_path, perturb):
    trainer, batch = trainer_of(perturb=perturb)
    with SummaryWriter(str(tmp_path)) as writer:
        log_steps(trainer, to_tensorboard(writer))
        losses = [trainer.step(*batch) for _ in range(3)]
        assert trainer.is_fused
    events = EventAccumulator(str(tmp_path)).Reload()
    written = [(event.step, event.value) for event in events.Scalars("zo/loss")]
    assert written == [(step, pytest.approx(loss, rel=1e-6)) for step, loss in enumerate(losses, 1)]
    assert [event.value for event in events.Scalars("zo/evaluations")] == [8, 16, 24]
    slopes = {"zo/slope", "zo/left_out"} if perturb == "weights" else set()
    assert set(events.Tags()["scalars"]) == {"zo/loss", "zo/lr", "zo/evaluations", "zo/seconds"} | slopes


class Writer:
    def __init__(self):
        self.scalars = []

    def add_scalar(self, tag, value, step):
        self.scalars.append((tag, value, step))


def test_tensorboard_gets_a_scalar_a_figure():
    writer = Writer()
    to_tensorboard(writer, prefix="run/")(7, {"loss": 0.5, "lr": 0.1})
    assert writer.scalars == [("run/loss", 0.5, 7), ("run/lr", 0.1, 7)]


def test_mistakes_are_told_before_a_hook_is_there(tmp_path):
    opt, closure = quadratic()
    with pytest.raises(TypeError, match=r"must be a zo\.ZOSGD, zo\.ZOAdam or zo\.FusedTrainer, got SGD"):
        log_steps(torch.optim.SGD([torch.ones(1, requires_grad=True)], lr=0.1), print)
    with pytest.raises(TypeError, match="tell must be a function of the step and a dict, got 'loss'"):
        log_steps(opt, "loss")
    with pytest.raises(TypeError, match=r"every must be an integer, got 2\.0; 1 tells every step"):
        log_steps(opt, print, every=2.0)
    with pytest.raises(TypeError, match="every must be an integer, got True"):
        log_steps(opt, print, every=True)
    with pytest.raises(ValueError, match="every must be at least 1 step, got 0"):
        log_steps(opt, print, every=0)
    with zo.ReplayLog.start(tmp_path / "log.zo", opt), pytest.raises(ValueError, match="allows no hooks"):
        log_steps(opt, print)
    opt.step(closure)
