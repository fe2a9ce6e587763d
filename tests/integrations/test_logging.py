import numpy as np
import pytest
import torch
from torch import nn

import zo_triton as zo
from zo_triton.integrations.logging import log_steps, to_tensorboard


def quadratic(kind=zo.ZOSGD, **options):
    weight = torch.arange(1.0, 5.0)
    return kind([weight], lr=0.01, directions=4, **options), lambda: weight.square().sum()


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
    assert told == [{"loss": loss, "lr": 0.01}]


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
    with pytest.raises(TypeError, match=r"must be a zo\.ZOSGD or zo\.ZOAdam, got SGD"):
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
