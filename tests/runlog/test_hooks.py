"""What a log can't hold is refused: hooks of the optimizer's step, whenever they come, and a replaced step."""

import pytest
import torch
from torch.optim import optimizer as optimizers

import zo_triton as zo

KINDS = {
    "zosgd": lambda quadratic, network: quadratic(),
    "zoadam": lambda quadratic, network: quadratic(zo.ZOAdam),
    "compiled": lambda quadratic, network: network(),
    "general": lambda quadratic, network: network(fused=False),
}


@pytest.fixture(params=KINDS)
def run(request, quadratic, network):
    return KINDS[request.param](quadratic, network)


def target_of(run):
    return run.opt if hasattr(run, "opt") else run.trainer


def optimizer_of(run):
    return run.opt if hasattr(run, "opt") else run.optimizer


def clip(optimizer, args, kwargs):
    for group in optimizer.param_groups:
        for param in group["params"]:
            if param.grad is not None:
                param.grad.clamp_(-1e-3, 1e-3)


REGISTER = {
    "step pre-hook": lambda optimizer: optimizer.register_step_pre_hook(clip),
    "step post-hook": lambda optimizer: optimizer.register_step_post_hook(clip),
    "global step pre-hook": lambda optimizer: optimizers.register_optimizer_step_pre_hook(clip),
    "global step post-hook": lambda optimizer: optimizers.register_optimizer_step_post_hook(clip),
}


@pytest.mark.parametrize("kind", REGISTER)
def test_a_log_does_not_start_or_go_on_with_a_hook(kind, run, tmp_path, same):
    target = target_of(run)
    if target is optimizer_of(run) and kind == "step pre-hook":
        pytest.skip("refused where it is registered: see below")
    with zo.ReplayLog.start(tmp_path / "log.zo", target):
        run.steps(1)
        handle = REGISTER[kind](optimizer_of(run))
        try:
            before = {name: weight.clone() for name, weight in run.weights.items()}
            random = torch.get_rng_state()
            with pytest.raises(ValueError, match=rf"the {kind} clip may change gradients.*Remove it"):
                run.steps(1)
            assert target.steps_done == 1
            assert same(run.weights, before)
            assert torch.equal(torch.get_rng_state(), random)
        finally:
            handle.remove()
        run.steps(2)
    assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)

    handle = REGISTER[kind](optimizer_of(run))
    try:
        with pytest.raises(ValueError, match=rf"the {kind} clip"):
            zo.ReplayLog.start(tmp_path / "another.zo", target)
        with pytest.raises(ValueError, match=rf"the {kind} clip"):
            zo.ReplayLog.resume(tmp_path / "log.zo", target)
    finally:
        handle.remove()
    assert not (tmp_path / "another.zo").exists()
    assert target.log is None


def test_a_hook_before_the_step_of_zosgd_is_refused_where_it_is_registered(tmp_path, quadratic, same):
    run = quadratic()
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(1)
        with pytest.raises(ValueError, match=r"a step pre-hook may change weights.*close the log"):
            run.opt.register_step_pre_hook(clip)
        run.steps(1)
    assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)
    run.opt.register_step_pre_hook(clip)
    run.steps(1)
    with pytest.raises(ValueError, match="the step pre-hook clip"):
        zo.ReplayLog.start(tmp_path / "another.zo", run.opt)


def test_a_replaced_step_is_refused_and_a_scheduled_one_is_not(run, tmp_path, same):
    optimizer = optimizer_of(run)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 1, gamma=0.5)
    with zo.ReplayLog.start(tmp_path / "log.zo", target_of(run)):
        for _ in range(3):
            run.steps(1)
            scheduler.step()
    assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)
    own = optimizer.step
    optimizer.step = lambda *args, **kwargs: own(*args, **kwargs)
    with pytest.raises(ValueError, match=r"the replaced step .*lambda.* may change"):
        zo.ReplayLog.resume(tmp_path / "log.zo", target_of(run))
