"""Step times and peak memory of Hugging Face's decoders."""

from dataclasses import replace

import pytest
import torch

from benchmarks.contenders.contender import Setting
from benchmarks.contenders.registry import METHODS
from benchmarks.contenders.vmap_ensemble import VmapEnsemble
from benchmarks.measure import transformer_steps
from benchmarks.measure.step_time import TinyGPTCase, contenders, example
from benchmarks.measure.transformer_steps import TINY_CASES, TINY_LARGE, TransformerCase, run_transformers
from benchmarks.race.decoders import gpt2, llama, next_token_loss
from benchmarks.race.networks import count_parameters
from benchmarks.report.sections.transformers import SECTION

pytest.importorskip("transformers")


def test_without_transformers_the_section_is_what_to_install(monkeypatch):
    monkeypatch.setattr(transformer_steps, "missing", lambda: ["transformers"])
    section = run_transformers(TINY_CASES, TINY_LARGE, 0.01, lambda text: None)
    assert section["cases"] == section["memory"] == []
    assert SECTION.blocks(section, lambda figure: []) == [
        "## Transformers",
        "Left out: transformers is not installed; `pip install 'zo_triton[transformers]'`.",
    ]
    assert SECTION.findings(section).sentences == []
    assert SECTION.findings(section).lost is None
    assert SECTION.headline(section) == {}


@pytest.mark.parametrize(("make", "weights"), [(gpt2, 3448320), (llama, 3676416)])
def test_the_decoders_are_those_that_the_table_names(make, weights):
    torch.manual_seed(3)
    expected = torch.rand(1)
    torch.manual_seed(3)
    model = make(1000, 256, 4, 4, 128)
    assert torch.equal(torch.rand(1), expected)
    assert count_parameters(model) == weights
    whole, last = model(torch.zeros(2, 5)), make(1000, 256, 4, 4, 128, last=True)(torch.zeros(2, 5))
    assert whole.shape == (2, 5, 1000)
    torch.testing.assert_close(last, whole[:, -1], rtol=1e-5, atol=1e-6)


def test_only_the_steps_of_the_rounded_method_are_rounded(monkeypatch):
    model, x, y = TINY_CASES[0].example()
    contender = METHODS["zo-medium"].build(model, Setting(0.1, 0, 2, loss=next_token_loss))
    seen = []
    monkeypatch.setattr(
        contender.optimizer, "step", lambda closure: seen.append(torch.get_float32_matmul_precision())
    )
    contender.step(x, y)
    assert seen == ["medium"]
    assert torch.get_float32_matmul_precision() == "highest"


def test_targets_are_the_tokens_that_follow():
    case = replace(TINY_CASES[0], batch=3)
    model, x, y = case.example()
    assert torch.equal(x[:, 1:], y[:, :-1])
    expected = torch.nn.functional.cross_entropy(model(x).reshape(-1, 32), y.reshape(-1))
    torch.testing.assert_close(next_token_loss(model(x), y), expected)


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_chunks_of_copies_change_no_slope():
    model, x, y = TransformerCase("GPT-2", 3, 32, 16, 1, 2, 8, 2).example()
    setting = Setting(0.1, 0, 3, loss=next_token_loss)
    noise = {name: torch.randn(3, *weight.shape) for name, weight in model.named_parameters()}
    found = [VmapEnsemble(model, setting, chunk=chunk).slopes(noise, x, y)[1] for chunk in (None, 2)]
    # Losses of some 3.5, rounded to 4e-7, over ε = 1e-3.
    torch.testing.assert_close(*found, rtol=0, atol=4e-3)


def test_tiny_gpt_is_timed_as_it_races():
    case = replace(TinyGPTCase(), directions=2)
    model, x, y = example(case)
    assert case.name == "tiny-gpt, batch 64, K = 2"
    assert model(x).shape == (64, 19)
    assert y.max() < 19
    assert {"zo", "vmap", "mezo", "sgd"} < {one.name for one in contenders(case)}
