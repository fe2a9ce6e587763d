"""The measure itself, on networks whose outcome is known."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.compatibility import check
from benchmarks.compatibility.model import Model, called, distance, numbers
from benchmarks.compatibility.models import Kind
from benchmarks.compatibility.run import has_failed, run_compatibility
from zo_triton._progress import Monitor


class Network(nn.Module):
    """Dropout, a cast to float32, and whatever is tried."""

    def __init__(self, function):
        super().__init__()
        self.first, self.last, self.function = nn.Linear(6, 32), nn.Linear(32, 4), function

    def forward(self, x):
        hidden = F.dropout(torch.tanh(self.first(x)).float(), 0.3, self.training)
        return self.last(self.function(hidden).to(x.dtype))


def outcome(function, dtype=torch.float32):
    def build():
        return Network(function), lambda module: distance(called(module, {"x": numbers(16, 6)}))

    return check.outcome(Model("network", build, dtype))


def lost(hidden):
    return torch.tensor(hidden.tolist(), dtype=hidden.dtype)


def broken(hidden):
    if type(hidden) is torch.Tensor and hidden.dtype is torch.float32:
        raise KeyError("something that the library does not mean")
    return hidden


def routed(hidden):
    """Jumps wherever a wave changes sign, which is so short that every step of ε meets one."""
    return torch.where(torch.sin(1000 * hidden) > 0, hidden + 0.02, hidden)


OUTCOMES = [
    (torch.sigmoid, check.STRICT),
    (lambda hidden: hidden.topk(8, dim=1).values.repeat(1, 4), check.STRICT),
    (torch.special.bessel_j1, check.ANNOUNCED),
    (lambda hidden: hidden.to_sparse().to_dense(), check.REFUSED),
    (lambda hidden: hidden + lost(hidden), check.WRONG),
    (broken, check.CRASHED),
    (lambda hidden: hidden[:, :3], check.ABSENT),
]


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(("function", "word"), OUTCOMES, ids=[word for _, word in OUTCOMES])
def test_outcome(function, word):
    came_of_it = outcome(function)
    assert came_of_it.word == word, came_of_it.why
    if word == check.STRICT:
        assert came_of_it.error < 1e-5


def test_narrow_weights_have_their_own_bound():
    came_of_it = outcome(torch.tanh, torch.bfloat16)
    assert came_of_it.word in (check.STRICT, check.ROUNDED)
    assert came_of_it.error > 1e-5


def test_a_choice_that_flips_is_told_apart():
    came_of_it = outcome(routed)
    assert came_of_it.word == check.KEPT, came_of_it.why
    assert came_of_it.error < 1e-3


def test_the_section_counts_and_a_wrong_row_fails():
    class Quiet(Monitor):
        said = ()

        def say(self, message):
            self.said = (*self.said, message)

    def row(function):
        return Model(
            "network",
            lambda: (
                Network(function),
                lambda module: distance(module(numbers(16, 6).to(next(module.parameters()).dtype))),
            ),
        )

    kinds = [Kind("ours", "Ours", (), (row(torch.tanh),)), Kind("absent", "Absent", ("nothing",), ())]
    told = Quiet()
    section = run_compatibility(told, found=kinds)
    assert told.said == ("1 of 1: network: strict",)
    assert section["counts"] == {"strict": 1}
    assert section["kinds"][1] == {"title": "Absent", "missing": ["nothing"], "rows": []}
    assert not has_failed(section)
    assert has_failed({"counts": {"wrong": 1}})
