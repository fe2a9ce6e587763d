"""How often a step lets the host wait for the device: once, with every model of the suite."""

import pytest
import torch
import torch.nn.functional as F
from host_reads import HostReads, far_away
from torch import nn

import zo_triton as zo
from benchmarks.race.gpt import TinyGPT
from benchmarks.race.networks import make_cnn, make_lenet, make_mlp

MODELS = {
    "perceptron": lambda: (make_mlp((12, 9, 5), 0), (6, 12)),
    "GELU": lambda: (make_mlp((12, 9, 5), 0, nn.GELU), (6, 12)),
    "lenet": lambda: (make_lenet(0), (4, 784)),
    "convolutions": lambda: (make_cnn((1, 8, 8), 5, 0), (6, 64)),
    "tiny-gpt": lambda: (TinyGPT(60, 8, 0), (6, 8)),
    "bfloat16 weights": lambda: (make_mlp((12, 9, 5), 0).bfloat16(), (6, 12)),
}
SETTINGS = {
    "one-sided": {},
    "both sides, momentum, decay": {"sides": 2, "momentum": 0.9, "weight_decay": 0.01},
    "normalized": {"aggregator": "normalized"},
    "sphere": {"distribution": "sphere"},
    "activations": {"perturb": "activations"},
    "auto": {"perturb": "auto"},
}


@pytest.fixture(autouse=True)
def _reference():
    with zo.use_engine("reference"):
        yield


def stepper(name, settings):
    """A model, its optimizer, and a closure on one batch."""
    model, shape = MODELS[name]()
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(shape, generator=generator), torch.randint(5, shape[:1], generator=generator)
    x = (
        torch.randint(60, shape, generator=generator)
        if name == "tiny-gpt"
        else x.to(next(model.parameters()).dtype)
    )
    optimizer = zo.ZOSGD(model.parameters(), lr=0.05, directions=4, seed=3, **settings)
    return model, optimizer, lambda: F.cross_entropy(model(x).float(), y, reduction="none").mean()


CASES = [(name, "one-sided") for name in MODELS] + [("perceptron", setting) for setting in SETTINGS]


@pytest.mark.parametrize(("name", "setting"), list(dict.fromkeys(CASES)))
def test_a_step_reads_once_and_does_what_it_does_on_a_cpu(name, setting, monkeypatch):
    (mine, far, closure), (other, near, same) = (stepper(name, SETTINGS[setting]) for _ in range(2))
    # The steps before settle the plan; in the second and third it is looked at once more which samples depend.
    for _ in range(3):
        far.step(closure), near.step(same)
    loss = near.step(same)
    reads = far_away(monkeypatch)
    with HostReads() as waiting:
        assert far.step(closure) == pytest.approx(loss, rel=1e-5)
    assert waiting.names == []
    assert reads == ["read"]
    for a, b in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("setting", ["one-sided", "activations"])
def test_what_no_step_can_use_is_refused_far_away_too(setting, monkeypatch):
    far_away(monkeypatch)
    w, x = torch.ones(3, 2), torch.ones(4, 2)
    optimizer = zo.ZOSGD([w], lr=0.1, directions=4, **SETTINGS[setting])
    x[0] = torch.nan
    with pytest.raises(zo.NonFiniteLossError, match="the loss is nan"):
        optimizer.step(lambda: F.linear(x, w).square().sum(1).mean())
    assert torch.equal(w, torch.ones(3, 2))
