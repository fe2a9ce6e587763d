"""The compiled backpropagation takes the eager one's steps."""

import pytest
import torch
from torch import nn

from benchmarks.contenders import contender
from benchmarks.contenders.backprop import Backprop
from benchmarks.contenders.compiled_adam import CompiledAdam
from benchmarks.contenders.contender import COMPILER, Setting
from benchmarks.contenders.registry import METHODS, find_methods
from benchmarks.race.networks import make_mlp

SETTING = Setting(0.03, decay_steps=6)

needs_compiler = pytest.mark.skipif(not contender.has_compiler(), reason=f"needs {COMPILER}")


def batches(count):
    generator = torch.Generator().manual_seed(1)
    return [
        (torch.randn(16, 6, generator=generator), torch.randint(3, (16,), generator=generator))
        for _ in range(count)
    ]


@needs_compiler
def test_it_takes_the_steps_of_eager_adam_at_a_falling_rate_and_compiles_once():
    (example,), models = batches(1), [make_mlp((6, 5, 3), seed) for seed in (0, 7)]
    with torch.compiler.set_stance("default"):
        CompiledAdam(models[0], SETTING).prepare(*example)
    with torch.compiler.set_stance("fail_on_recompile"):
        for seed, model in zip((0, 7), models, strict=True):
            eager = make_mlp((6, 5, 3), seed)
            one, other = Backprop(eager, SETTING), CompiledAdam(model, SETTING)
            other.prepare(*example)
            for x, y in batches(8):
                torch.testing.assert_close(other.step(x, y), one.step(x, y), rtol=1e-5, atol=1e-6)
            for found, wanted in zip(model.parameters(), eager.parameters(), strict=True):
                # Adam divides by the second moment's root: a small gradient's rounding is of the step's size.
                torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-5)


@needs_compiler
def test_what_can_not_be_compiled_is_refused_instead_of_run_as_it_is():
    class Looks(nn.Module):
        def forward(self, x):
            torch._dynamo.graph_break()
            return x

    model = nn.Sequential(nn.Linear(6, 3), Looks())
    with torch.compiler.set_stance("default"), pytest.raises(torch._dynamo.exc.Unsupported):
        CompiledAdam(model, SETTING).prepare(*batches(1)[0])


def test_preparing_trains_nothing():
    model = make_mlp((6, 5, 3), 0)
    before = [param.detach().clone() for param in model.parameters()]
    made = CompiledAdam(model, SETTING)
    made.prepare(*batches(1)[0])
    assert all(map(torch.equal, before, model.parameters()))
    assert not any(tensor.any() for tensors in made._held[1:] for tensor in tensors)


def test_what_is_frozen_stays():
    model = make_mlp((6, 5, 3), 0)
    model[0].requires_grad_(False)
    before = model[0].weight.clone()
    made = CompiledAdam(model, SETTING)
    made.step(*batches(1)[0])
    assert torch.equal(model[0].weight, before)
    assert [len(tensors) for tensors in made._held] == [2, 2, 2, 2]


def test_without_a_compiler_it_is_left_out_by_name(monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    method = METHODS["adam-compiled"]
    assert method.missing == (COMPILER,)
    assert method.why_left_out == "torch.compile needs a C++ compiler and Python's headers."
    assert find_methods(("adam", "adam-compiled")) == [METHODS["adam"]]
