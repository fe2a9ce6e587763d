"""Modules that count by binding something new are, after a step in chunks, as after one ordinary run."""

from collections import deque
from copy import deepcopy
from functools import partial

import pytest
import torch
from torch import nn

import zo_triton as zo
from zo_triton.difference import differences

X = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
DIRECTIONS = zo.Directions(seed=2, step=0, num=10)

pytestmark = pytest.mark.usefixtures("untaped")


class Counting(nn.Module):
    """Counts its runs in every way there is, and lets each run's value depend on the count."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.linear = nn.Linear(4, 3)
        self.register_buffer("rebound", torch.zeros(()))
        self.register_buffer("written", torch.zeros(()))
        self.register_buffer("written_then_rebound", torch.zeros(()))
        self.register_buffer("absent", None)
        self.number, self.tensor = 0, torch.zeros(())
        self.list, self.dict, self.set, self.deque = [], {0: 0}, set(), deque([-1])
        self.nested = {"runs": [], "pairs": [[0], [0]]}

    def forward(self, x):
        self.rebound = self.rebound + 1
        self.written.add_(1)
        self.written_then_rebound.add_(1)
        self.written_then_rebound = self.written_then_rebound + 1
        self.absent = torch.ones(()) if self.absent is None else self.absent + 1
        self.number += 1
        self.tensor = self.tensor + 1
        self.list.append(self.number)
        self.set.add(self.number)
        self.deque.append(self.number)
        self.dict[self.number] = self.number
        self.nested["runs"].append(self.number)
        self.nested["pairs"][1][0] += 1
        self.made_here = getattr(self, "made_here", 0) + 1
        return self.linear(x).square().mean() * (1 + self.rebound / 10)

    def held(self):
        buffers = {name: buffer.item() for name, buffer in self.named_buffers()}
        plain = {
            name: deepcopy(getattr(self, name))
            for name in ("number", "list", "dict", "set", "deque", "nested", "made_here")
            if hasattr(self, name)
        }
        return buffers, plain, self.tensor.item(), self.absent is None


class Holder:
    def __init__(self, value):
        self.value = value

    def loss(self):
        return self.value(X)

    def loss_of_inner(self):
        return self.value.value(X)


model_of_this_file = None


def loss_of_this_file():
    return model_of_this_file(X)


def by_a_global(model):
    global model_of_this_file
    model_of_this_file = model
    return lambda: loss_of_this_file()


def by_a_default(model):
    def closure(model=model):
        return model(X)

    return closure


REACHED = {
    "cell": lambda model: lambda: model(X),
    "global": by_a_global,
    "default": by_a_default,
    "partial": lambda model: partial(model, X),
    "list": lambda model: lambda models=[model]: models[0](X),
    "bound method": lambda model: Holder(model).loss,
    "object in an object": lambda model: Holder(Holder(model)).loss_of_inner,
    "object in a cell": lambda model: (lambda holder: lambda: holder.value.value(X))(Holder(Holder(model))),
    "within another": lambda model: (lambda outer: lambda: outer(X))(nn.Sequential(model)),
    "method": lambda model: lambda: model.forward(X),
}


@pytest.mark.parametrize("chunk", [2, 3, 10])
@pytest.mark.parametrize("name", REACHED)
def test_after_chunks_a_module_is_as_after_one_run(name, chunk):
    plain, model = Counting(), Counting()
    for _ in range(2):
        with torch.no_grad():
            expected = plain(X)
        value, found = differences(REACHED[name](model), model.parameters(), DIRECTIONS, 1e-3, chunk=chunk)
        torch.testing.assert_close(value, expected)
        assert model.held() == plain.held()
    again = Counting()
    with torch.no_grad():
        again(X)
    _, at_once = differences(lambda: again(X), again.parameters(), DIRECTIONS, 1e-3)
    torch.testing.assert_close(found, at_once, rtol=1e-4, atol=1e-9)


@pytest.mark.parametrize("chunk", [2, 10])
def test_a_failed_step_leaves_a_module_as_it_was(chunk):
    model = Counting()

    def fail():
        model(X)
        raise ArithmeticError("fail")

    before = model.held()
    with pytest.raises(ArithmeticError):
        differences(fail, model.parameters(), DIRECTIONS, 1e-3, chunk=chunk)
    assert model.held() == before
    opt = zo.ZOSGD(model.parameters(), lr=0.1, directions=4)
    with pytest.raises(zo.NonFiniteLossError):
        opt.step(lambda: model(X) * float("inf"))
    assert model.held() == before


def test_a_trainers_model_counts_once_a_step():
    model = Counting()
    trainer = zo.FusedTrainer(
        model, torch.optim.SGD(model.parameters(), lr=0.1), directions=10, loss=lambda output, _: output
    )
    trainer.plan = {"chunk": 2, "fixed": False, "keep": []}
    trainer.step(X, X)
    assert model.held()[0] == {"rebound": 1, "written": 1, "written_then_rebound": 2, "absent": 1}
    assert model.number == 1


def test_a_module_too_far_to_be_seen_is_announced_where_it_matters():
    model = Counting()
    far = Holder(Holder(Holder(Holder(model))))

    def closure():
        return far.value.value.value.value(X)

    differences(closure, model.parameters(), DIRECTIONS, 1e-3)
    assert model.number == 1
    with (
        pytest.warns(
            RuntimeWarning, match=r"Counting\.\w+ was bound anew .*once a chunk\. Let the closure name"
        ),
        pytest.raises(ValueError, match="changed from"),
    ):
        differences(closure, model.parameters(), DIRECTIONS, 1e-3, chunk=2)
