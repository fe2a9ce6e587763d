from dataclasses import replace

import numpy as np
import pytest
import torch

from benchmarks.contenders.contender import Setting, falling_rate
from benchmarks.contenders.registry import METHODS, find_methods
from benchmarks.race import races
from benchmarks.race.gpt import CONTEXT, TinyGPT, sentences
from benchmarks.race.tasks import TASKS


@pytest.mark.parametrize("name", races.RIVALS)
def test_every_rival_falls_at_the_same_rate(name):
    model = torch.nn.Linear(5, 3)
    contender = METHODS[name].build(model, Setting(0.1, 0, 8, decay_steps=4))
    x, y = torch.randn(6, 5), torch.randint(3, (6,))
    for _ in range(4):
        contender.step(x, y)
    last = [parameter.clone() for parameter in model.parameters()]
    contender.step(x, y)
    for before, after in zip(last, model.parameters(), strict=True):
        torch.testing.assert_close(after, before, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", ["adam", "mezo-adam"])
def test_without_decay_the_rate_stays(name):
    model = torch.nn.Linear(5, 3)
    contender = METHODS[name].build(model, Setting(0.1, 0, 4))
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
    config = replace(races.TINY, directions=(4,), seeds=(0,), decay_steps=50)
    section = races.run_race("mnist-cnn", config, lambda text: None, find_methods(("zo-adam", "adam")))
    assert section["task"] == "mnist-cnn (on digits)"
    assert section["parameters"] == 730
    assert [row["name"] for row in section["methods"]] == ["zo-adam", "adam"]
    assert "with 1 seed for" in section["tuning"]["note"]
    assert "drawn log-uniformly from 0.001 to 3" in section["tuning"]["note"]
    assert "linearly to nothing over 50 steps for all" in section["tuning"]["note"]


def test_the_fine_tuning_race_runs(tmp_path, monkeypatch):
    pytest.importorskip("transformers")
    monkeypatch.setenv("ZO_TRITON_DATA", str(tmp_path))
    told = []
    config = replace(races.TINY, batch=16, directions=(4,), learning_rates=(1e-3,), seeds=(0,))
    section = races.run_race("fine-tuning", config, told.append, tiny=True)
    assert told[0].startswith("fine-tuning: pre-training fine-tuning-tiny, once: step 1 of 20")
    assert [row["name"] for row in section["methods"]] == list(races.TUNERS)
    assert all(row["runs"] and "error" not in row for row in section["methods"])
    assert "pre-trained on the same language" in section["network"]
    assert section["tuning"]["note"].startswith("Every method had the same number of trials, 1: ")
    assert "from 1e-05 to 0.1" in section["tuning"]["note"]


def test_unknown_races_are_named():
    with pytest.raises(ValueError, match=r"unknown race 'cifar'; choose one of \('digits-mlp'"):
        races.RACES["cifar"]


def test_every_race_has_its_task_and_its_methods():
    for name, race in races.RACES.items():
        assert TASKS[race.task].name == race.task
        assert [METHODS[each].name for each in race.methods] == list(race.methods)
        assert list(race.config.targets) == sorted(race.config.targets)
        assert races.section_of(name).startswith("race")


def test_text_is_the_same_for_everybody_and_its_parts_share_no_character():
    data, again = sentences(60), sentences(60)
    assert (data.train_x == again.train_x).all()
    assert data.train_x.shape[1] == CONTEXT
    whole = np.concatenate([data.train_x[:, 0], data.train_x[-1, 1:], data.train_y[-1:]])
    # Each window's target is the next window's last character.
    assert (data.train_y[:-1] == data.train_x[1:, -1]).all()
    assert len(whole) + len(data.test_x) * 4 <= 60 * 40


def test_the_transformer_leaves_torchs_generator_alone():
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model = TinyGPT(7, 5, seed=0)
    assert torch.equal(torch.rand(1), expected)
    assert model(torch.zeros(2, 5)).shape == (2, 7)
