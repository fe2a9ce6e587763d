"""Pre-trained weights: made once, used again, and never used where they are not those that are wanted."""

from dataclasses import replace

import pytest
import torch

pytest.importorskip("transformers")

from benchmarks.race import language
from benchmarks.race.pretrained import Pretraining, pretrain, pretrained
from benchmarks.race.tasks import TASKS

TINY = Pretraining("tiny", 16, 1, 2, 3)


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("ZO_TRITON_DATA", str(tmp_path / "data"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path


def weights(model):
    return torch.cat([each.detach().flatten() for each in model.parameters()])


def made(settings=TINY):
    told = []
    return weights(pretrained(settings, told.append)), told


def test_weights_are_made_once_and_used_again(folder):
    first, told = made()
    assert told[0].startswith("pre-training tiny, once: step 1 of 3, loss 4.")
    assert (folder / "data/pretrained/tiny.safetensors").exists()
    again, told = made()
    assert told == []
    assert torch.equal(first, again)
    assert not torch.equal(first, weights(TINY.untrained()))


@pytest.mark.parametrize("changed", ["torch", "language", "settings"])
def test_weights_of_another_origin_are_not_used_in_silence(folder, monkeypatch, changed):
    made()
    settings = TINY
    if changed == "torch":
        monkeypatch.setattr(torch, "__version__", "2.0.0")
    elif changed == "language":
        monkeypatch.setattr(language, "SEED", 1)
    else:
        settings = replace(TINY, lr=1e-4)
    _, told = made(settings)
    assert told[0].startswith("note: ")
    assert f"tiny.safetensors was made with another {changed}; its weights are made anew." in told[0]
    assert told[1].startswith("pre-training")
    assert made(settings)[1] == []


@pytest.mark.parametrize("content", [b"", b"\x10\x00\x00\x00\x00\x00\x00\x00{not json", b"x" * 300])
def test_a_damaged_file_is_told_and_replaced(folder, content):
    expected, _ = made()
    (folder / "data/pretrained/tiny.safetensors").write_bytes(content)
    found, told = made()
    assert "tiny.safetensors can't be read" in told[0]
    assert torch.equal(found, expected)
    assert made()[1] == []


def test_where_the_data_folder_takes_nothing_the_user_cache_does(folder):
    (folder / "data").write_text("a file where a folder should be")
    _, told = made()
    assert not any(text.startswith("note:") for text in told)
    assert (folder / "cache/zo_triton/pretrained/tiny.safetensors").exists()
    assert made()[1] == []


def test_where_nothing_can_be_kept_it_is_said(folder):
    for name in ("data", "cache"):
        (folder / name).write_text("a file where a folder should be")
    _, told = made()
    assert told[-1].startswith("note: the pre-trained weights can't be kept (")
    assert "the next run makes them again" in told[-1]


def test_pretraining_learns_the_language():
    settings = replace(TINY, steps=60, lr=1e-2)
    assert pretrain(settings.untrained(), settings, lambda text: None) < 3.9


def test_every_run_starts_from_the_same_weights_of_its_own(folder):
    task = TASKS["fine-tuning-tiny"].prepare()
    one, other = task.make_model(0), task.make_model(1)
    assert torch.equal(weights(one), weights(other))
    with torch.no_grad():
        next(one.parameters()).zero_()
    assert not torch.equal(weights(one), weights(other))
    x, _ = next(task.batches(16, 0))
    assert other(x).shape == (16, language.VOCABULARY)


def test_without_transformers_it_is_said_what_to_install(monkeypatch):
    monkeypatch.setattr("benchmarks.race.decoders.missing", lambda: ["transformers"])
    with pytest.raises(ValueError, match=r"fine-tuning needs transformers: pip install 'zo_triton\[transf"):
        TASKS["fine-tuning"].prepare()
