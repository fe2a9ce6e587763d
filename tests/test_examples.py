"""The examples run; what they print is theirs, here for a few steps only."""

import re
import runpy
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

EXAMPLES = Path(__file__).resolve().parents[1] / "examples"


@pytest.fixture(autouse=True)
def same_numbers(one_thread):
    with torch.random.fork_rng():
        yield


def printed(capsys, monkeypatch, name, *arguments):
    monkeypatch.setattr(sys, "argv", [name, *arguments])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    return capsys.readouterr().out


@pytest.mark.filterwarnings(
    "ignore:`is_gradient_checkpointing` is deprecated:FutureWarning"
)  # PEFT still asks
@pytest.mark.parametrize(("arguments", "weights"), [((), 21664), (("--lora",), 4352)], ids=["full", "lora"])
def test_a_llama_is_fine_tuned(capsys, monkeypatch, arguments, weights):
    text = printed(capsys, monkeypatch, "finetune_llama.py", "--steps", "12", *arguments)
    assert "before: counts in ones 100%, in twos 0%" in text
    losses = [float(loss) for loss in re.findall(r"'loss': '([\d.]+)'", text)]
    assert losses[-1] < losses[2]
    assert f"after moving {weights} weights" in text


def test_a_bert_is_trained(capsys, monkeypatch):
    text = printed(capsys, monkeypatch, "classify_bert.py", "--steps", "10")
    assert re.search(r"before: accuracy \d\d%", text)
    assert re.search(r"after 10 steps: accuracy \d\d%", text)


def test_a_timm_model_is_trained(capsys, monkeypatch):
    try:
        import_module("timm")
    except Exception as error:
        pytest.skip(f"timm can't be imported: {error}")
    text = printed(capsys, monkeypatch, "vision_timm.py", "--steps", "10")
    assert re.search(r"step 10: loss [\d.]+, test accuracy \d+%", text)


def test_each_is_in_the_list():
    table = (EXAMPLES / "README.md").read_text(encoding="utf-8")
    files = [path.name for path in EXAMPLES.iterdir() if path.suffix in (".py", ".ipynb")]
    assert [name for name in files if f"`{name}`" not in table] == []
