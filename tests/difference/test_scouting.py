"""What is known of a closure's layers is found out along one direction, before all are evaluated."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from node_models import CLASSES, LABELS, N, error, made, measured, noise
from torch import Tensor, nn

from zo_triton.difference.base_pass import BasePass

TOKENS = torch.arange(N) % 4


@pytest.fixture
def seen(monkeypatch):
    """How many evaluations each run took; more than ``limit`` of them don't fit."""
    run = BasePass.run

    class Seen(list):
        limit = 1 << 30

    found = Seen()

    def noting(self, mode, more):
        found.append(mode.evaluations)
        if mode.evaluations > found.limit:
            raise MemoryError("Unable to allocate 1 TiB")
        return run(self, mode, more)

    monkeypatch.setattr(BasePass, "run", noting)
    return found


class Case:
    """A network whose embedding belongs to no layer; counts its calls."""

    def __init__(self):
        self.model = made(nn.Sequential(nn.Embedding(4, 7), nn.Tanh(), nn.Linear(7, CLASSES)))
        self.params, self.calls = list(self.model.parameters()), 0

    def losses(self) -> Tensor:
        self.calls += 1
        return F.cross_entropy(self.model(TOKENS), LABELS, reduction="none")


def test_a_first_step_learns_along_one_direction_and_a_later_one_knows(seen):
    case = Case()
    found = measured(case.losses, case.params, 16)
    # Along one direction, the masks of three bits, and all directions.
    assert seen == [1, 6, 16]
    assert case.calls == 1
    assert found.on_nodes == {1, 2}
    seen.clear()
    measured(case.losses, case.params, 16, plan=found.plan)
    assert seen == [16, 2]


class Tied(nn.Module):
    """Two layers, and the first one's bias is read by something else as well, before or after them."""

    def __init__(self, after: bool) -> None:
        super().__init__()
        self.first, self.last, self.after = nn.Linear(7, 7), nn.Linear(7, CLASSES), after

    def forward(self, x: Tensor) -> Tensor:
        bias = self.first.bias
        if self.after:
            return self.last(torch.tanh(self.first(x)) * bias.exp())
        return self.last(torch.tanh(self.first(x * bias.exp())))


@pytest.mark.parametrize(("after", "runs"), [(True, [1, 1, 6, 1024]), (False, [1, 6, 1024])])
def test_a_layer_that_turns_out_to_be_none_is_met_anew(seen, after, runs):
    """Its outputs had noise in the run that found that out."""
    model = made(Tied(after))
    x, params = noise(N, 7), list(model.parameters())

    def losses() -> Tensor:
        return F.cross_entropy(model(x), LABELS, reduction="none")

    found = measured(losses, params)
    assert seen == runs
    assert found.on_nodes == {2, 3}
    assert error(found, losses, params) < 1e-3


def test_where_masks_do_not_fit_fewer_are_tried_at_once(seen):
    case = Case()
    roomy = measured(case.losses, case.params, 16)
    seen.limit = 4
    with pytest.warns(RuntimeWarning, match="16 directions at once did not fit.* went on with 4 at once"):
        found = measured(case.losses, case.params, 16)
    for ours, theirs in zip(found.gradients, roomy.gradients, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-6)
