"""Adapters: nothing at first, and all that moves."""

import pytest
import torch

from benchmarks.contenders.contender import Setting, trained
from benchmarks.contenders.lora import METHODS, RANK, LowRank, with_adapters
from benchmarks.race.networks import make_mlp


def test_a_fresh_adapter_changes_nothing_and_its_weights_alone_are_trained():
    model, x = make_mlp((6, 5, 3), 0), torch.randn(4, 6)
    before = model(x)
    assert with_adapters(model) is model
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    assert [tuple(each.shape) for each in trained(model)] == [(6, RANK), (RANK, 5), (5, RANK), (RANK, 3)]


def test_an_adapter_adds_its_product():
    layer = torch.nn.Linear(5, 3)
    adapted = LowRank(layer, 5, 3, torch.Generator().manual_seed(0))
    with torch.no_grad():
        adapted.second.normal_()
    x = torch.randn(7, 5)
    merged = layer.weight + 2.0 * (adapted.first @ adapted.second).T
    torch.testing.assert_close(adapted(x), x @ merged.T + layer.bias)


@pytest.mark.parametrize("method", METHODS, ids=lambda method: method.name)
def test_frozen_weights_stay_and_adapters_move(method):
    model = make_mlp((6, 5, 3), 0)
    frozen = {name: each.clone() for name, each in model.state_dict().items()}
    contender = method.build(model, Setting(0.1, 0, 4))
    adapters = [each.detach().clone() for each in trained(model)]
    for _ in range(2):
        contender.step(torch.randn(16, 6), torch.arange(16) % 3)
    found = model.state_dict()
    assert all(torch.equal(found[name.replace(".", ".layer.")], each) for name, each in frozen.items())
    assert all(not torch.equal(old, new) for old, new in zip(adapters, trained(model), strict=True))


def test_a_decoder_is_adapted_in_its_attention():
    pytest.importorskip("transformers")
    from benchmarks.race.decoders import gpt2

    model = gpt2(32, 16, 2, 2, 8)
    x = torch.zeros(2, 8)
    before = model(x)
    with_adapters(model)
    torch.testing.assert_close(model(x), before, rtol=0, atol=0)
    assert [tuple(each.shape) for each in trained(model)] == [(16, RANK), (RANK, 48)] * 2
