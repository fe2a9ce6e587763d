"""What a log rebuilds is the run, bit for bit, whatever the settings were."""

import pytest
import torch

import zo_triton as zo
from zo_triton import runlog

SETTINGS = {
    "plain": {},
    "momentum-and-decay": {"momentum": 0.9, "weight_decay": 0.01},
    "normalized": {"aggregator": "normalized", "sides": 2},
    "ranked": {"aggregator": "ranked"},
    "best": {"aggregator": "best"},
    "align": {"aggregator": "align"},
    "low-rank": {"rank": 2},
    "orthogonal": {"distribution": "hadamard", "momentum": 0.9},
    "sphere": {"distribution": "sphere"},
    "gaussian-bfloat16": {"distribution": "gaussian", "compute_dtype": torch.bfloat16, "rounds": 7},
}


@pytest.mark.parametrize("settings", SETTINGS.values(), ids=SETTINGS)
def test_zosgd_is_rebuilt(settings, tmp_path, quadratic, same):
    run = quadratic(**settings)
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(5)
    assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)


ADAM_SETTINGS = {
    "plain": {},
    "amsgrad-and-decay": {"amsgrad": True, "weight_decay": 0.01, "betas": (0.8, 0.99), "adam_eps": 1e-6},
    "uphill": {"maximize": True, "lr": 0.01},
    "low-rank": {"rank": 2},
    "gaussian": {"distribution": "gaussian", "rounds": 7},
}


@pytest.mark.parametrize("settings", ADAM_SETTINGS.values(), ids=ADAM_SETTINGS)
def test_zoadam_is_rebuilt(settings, tmp_path, quadratic, same):
    run = quadratic(zo.ZOAdam, **settings)
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(3)
        run.opt.param_groups[0].update(lr=0.01, betas=(0.5, 0.9))
        run.steps(2)
    assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)
    resumed = quadratic(zo.ZOAdam, **settings)
    with zo.ReplayLog.resume(tmp_path / "log.zo", resumed.opt):
        resumed.steps(2), run.steps(2)
    assert same(resumed.weights, run.weights)


def test_fewer_steps_give_the_weights_of_then(tmp_path, quadratic, same):
    run, middle = quadratic(momentum=0.9), {}
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        for step in range(5):
            middle[step] = {name: weight.clone() for name, weight in run.weights.items()}
            run.steps(1)
    for step, weights in middle.items():
        assert same(zo.replay(tmp_path / "log.zo", run.initial, steps=step), weights)
    with pytest.raises(ValueError, match=r"steps must be in \[0, 5\]"):
        zo.replay(tmp_path / "log.zo", run.initial, steps=6)


def test_settings_that_change_between_steps_are_followed(tmp_path, quadratic, same):
    run = quadratic(momentum=0.5)
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(2)
        run.opt.directions, run.opt.distribution, run.opt.seed = 6, "gaussian", 1
        run.steps(1)
        run.opt.param_groups[1].update(lr=0.01, momentum=0.0, weight_decay=0.1)
        run.steps(2)
    assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)


@pytest.mark.parametrize("engine", ["reference", "triton"])
@pytest.mark.parametrize("rule", ["plain", "momentum-and-decay", "orthogonal"])
def test_other_engines_rebuild_the_same_bits(engine, rule, tmp_path, quadratic, same):
    run = quadratic(**SETTINGS[rule], directions=7)
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(4)
    with zo.use_engine(engine):
        assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)


@pytest.mark.parametrize("engine", ["reference", "triton"])
def test_other_engines_rebuild_zoadam_with_the_same_bits(engine, tmp_path, quadratic, same):
    run = quadratic(zo.ZOAdam, directions=7)
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(4)
    with zo.use_engine(engine):
        assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)


OPTIMIZERS = {
    "adam": lambda params: torch.optim.Adam(params, lr=0.02, betas=(0.8, 0.99), weight_decay=0.1),
    "adam-fused": lambda params: torch.optim.Adam(params, lr=0.02, fused=True),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
    "nesterov": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
    "adamw": lambda params: torch.optim.AdamW(params, lr=0.02),
}


@pytest.mark.parametrize("fused", [True, False], ids=["compiled", "general"])
@pytest.mark.parametrize("make", OPTIMIZERS.values(), ids=OPTIMIZERS)
def test_the_trainer_is_rebuilt(make, fused, tmp_path, network, same):
    run = network(make, fused=fused)
    scheduler = torch.optim.lr_scheduler.StepLR(run.optimizer, 2, gamma=0.5)
    with zo.ReplayLog.start(tmp_path / "log.zo", run.trainer):
        for _ in range(5):
            run.steps(1)
            scheduler.step()
    contents = runlog.read(tmp_path / "log.zo")
    assert contents.settings["compiled"] is run.trainer.is_fused
    assert same(zo.replay(contents, run.initial), run.weights)


def test_ways_that_alternate_are_followed(tmp_path, network, same):
    run = network()
    with zo.ReplayLog.start(tmp_path / "log.zo", run.trainer):
        for way in (True, False, True):
            run.trainer.fused = way
            run.steps(2)
    assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)
    with zo.use_engine("reference"), pytest.raises(RuntimeError, match="only the 'cpu' engine replays"):
        zo.replay(tmp_path / "log.zo", run.initial)


def test_other_weights_are_refused(tmp_path, quadratic):
    run = quadratic()
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(1)
    for name, spoil, message in (
        ("vector", lambda weight: weight + 1e-7, "the run began with sha256:"),
        ("half", lambda weight: weight.float(), "the run began with sha256:"),
        ("matrix", lambda weight: weight.T, "the run began with sha256:"),
    ):
        with pytest.raises(ValueError, match=message):
            zo.replay(tmp_path / "log.zo", {**run.initial, name: spoil(run.initial[name])})
    with pytest.raises(ValueError, match="trains 'vector', which is not among the weights"):
        zo.replay(tmp_path / "log.zo", {"matrix": run.initial["matrix"]})


def test_tensors_that_are_not_trained_are_passed_on(tmp_path, quadratic):
    run = quadratic()
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(1)
    buffer = torch.arange(3)
    found = zo.replay(tmp_path / "log.zo", {**run.initial, "buffer": buffer})
    assert torch.equal(found["buffer"], buffer)
    assert torch.equal(run.initial["matrix"], quadratic().weights["matrix"])
