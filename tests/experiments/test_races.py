from dataclasses import replace

import pytest
import torch

from zo_triton.experiments import races
from zo_triton.experiments.baselines import Backprop, MeZO
from zo_triton.experiments.contender import falling_rate


@pytest.mark.parametrize("name", races.RIVALS)
def test_every_rival_falls_at_the_same_rate(name):
    model, config = torch.nn.Linear(5, 3), replace(races.TINY, decay_steps=4)
    contender = races.find_method(name, config).build(model, 0.1, 0)
    x, y = torch.randn(6, 5), torch.randint(3, (6,))
    for _ in range(4):
        contender.step(x, y)
    last = [parameter.clone() for parameter in model.parameters()]
    contender.step(x, y)
    for before, after in zip(last, model.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("build", [Backprop, MeZO])
def test_without_decay_the_rate_stays(build):
    model = torch.nn.Linear(5, 3)
    contender = build(model, 0.1, 0, 4, adam=True) if build is MeZO else build(model, 0.1)
    before = model.weight.detach().clone()
    for _ in range(5):
        contender.step(torch.ones(6, 5), torch.zeros(6, dtype=torch.int64))
    assert (model.weight - before).abs().max() > 0.2


def test_a_falling_rate_is_linear():
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.8)
    step, rates = falling_rate(optimizer, 4), []
    for _ in range(5):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        step()
    assert rates == pytest.approx([0.8, 0.6, 0.4, 0.2, 0.0])


def test_a_race_on_chosen_methods_says_whose_data_it_was(tmp_path, monkeypatch):
    monkeypatch.setenv("ZO_TRITON_DATA", str(tmp_path))
    config = replace(races.TINY, seeds=(0,), decay_steps=50)
    chosen = [races.find_method(name, config) for name in ("zo-adam", "adam")]
    section = races.run_race(config, lambda text: None, "mnist-cnn", chosen)
    assert section["task"] == "mnist-cnn (on digits)"
    assert section["parameters"] == 730
    assert [row["name"] for row in section["methods"]] == ["zo-adam", "adam"]
    assert "with 1 seed for" in section["tuning"]["note"]
    assert "linearly to nothing over 50 steps for all" in section["tuning"]["note"]


def test_unknown_races_are_named():
    with pytest.raises(ValueError, match=r"no race on 'cifar'; choose one of \('digits'"):
        races.find_race("cifar")


def test_every_race_is_on_a_task():
    for task, config in races.RACES.items():
        assert races.find_task(task).name == task
        assert list(config.targets) == sorted(config.targets)
