"""One rank in this process: what is refused, and that cutting a step up changes nothing but rounding."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton.difference import Evaluation, propagate
from zo_triton.directions import Directions
from zo_triton.optim.measure import measure


def test_without_a_process_group():
    with pytest.raises(ValueError, match=r"no process group: start the program with torchrun"):
        zo.Ranks()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"shards": 0}, "shards must be an int of at least 1, got 0"),
        ({"shards": True}, "shards must be an int"),
        ({"batch_shards": 1.5}, "batch_shards must be an int"),
        ({"check_every": -1}, "check_every must be an int"),
        ({"timeout": 0.0}, "timeout must be positive and finite"),
        ({"timeout": float("inf")}, "timeout must be positive and finite"),
    ],
)
def test_arguments_out_of_range(alone, arguments, message):
    with pytest.raises(ValueError, match=message):
        zo.Ranks(**arguments)


def test_directions_that_the_shards_do_not_divide(alone):
    weight = torch.zeros(3)
    with pytest.raises(ValueError, match="10 directions can't be cut into 4 equal shards"):
        zo.ZOSGD([weight], lr=0.1, directions=10, ranks=zo.Ranks(shards=4))
    model = nn.Linear(2, 2)
    adam = torch.optim.Adam(model.parameters())
    with pytest.raises(ValueError, match="9 directions can't be cut"):
        zo.FusedTrainer(model, adam, directions=9, ranks=zo.Ranks(shards=2))


def test_a_batch_that_its_parts_do_not_divide(alone):
    model = nn.Linear(2, 2)
    before = [param.detach().clone() for param in model.parameters()]
    opt = zo.ZOSGD(model.parameters(), lr=0.1, directions=8, ranks=zo.Ranks(batch_shards=4))
    x, y = torch.randn(6, 2), torch.zeros(6, dtype=torch.int64)
    with pytest.raises(ValueError, match="a batch of 6 can't be cut into 4 equal parts"):
        opt.step(lambda take: F.cross_entropy(model(take(x)), take(y)))
    assert all(map(torch.equal, before, model.parameters()))
    assert opt.steps_done == 0


@pytest.mark.parametrize("batch_shards", [1, 3])
@pytest.mark.parametrize("sides", [1, 2])
def test_measurement_is_that_of_one_process(alone, sides, batch_shards):
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(5, 7), nn.Tanh(), nn.Linear(7, 3))
    x = torch.randn(12, 5, generator=generator)
    y = torch.randint(3, (12,), generator=generator)
    params, directions = list(model.parameters()), Directions(3, 2, 8)

    def closure(take=lambda batch: batch):
        return F.cross_entropy(model(take(x)), take(y))

    whole = measure(closure, params, directions, Evaluation(1e-3, sides))
    ranks = zo.Ranks(shards=4, batch_shards=batch_shards)
    shared = measure(closure, params, directions, Evaluation(1e-3, sides), ranks=ranks)
    assert shared.loss == pytest.approx(whole.loss, rel=1e-6)
    assert shared.differences.shape == whole.differences.shape
    torch.testing.assert_close(shared.differences, whole.differences, rtol=1e-5, atol=1e-8)


def test_compiled_step_does_not_depend_on_the_cut(alone):
    """All directions in one call, or in four, or with other ones beside them: the same bits."""
    found = []
    for shards in (None, 1, 4):
        generator = torch.Generator().manual_seed(1)
        model = nn.Sequential(nn.Linear(6, 9), nn.ReLU(), nn.Linear(9, 3))
        with torch.no_grad():
            for param in model.parameters():
                param.copy_(torch.randn(param.shape, generator=generator))
        ranks = None if shards is None else zo.Ranks(shards=shards)
        adam = torch.optim.Adam(model.parameters(), lr=0.02)
        trainer = zo.FusedTrainer(model, adam, directions=12, sides=2, ranks=ranks)
        assert trainer.is_fused
        for _ in range(3):
            x = torch.randn(10, 6, generator=generator)
            trainer.step(x, torch.randint(3, (10,), generator=generator))
        found.append([param.detach().clone() for param in model.parameters()])
    assert all(torch.equal(a, b) for other in found[1:] for a, b in zip(found[0], other, strict=True))


def test_shards_do_not_see_one_another(alone):
    """A rank that measures half of the directions finds what a rank that measures all of them finds."""
    generator = torch.Generator().manual_seed(1)
    model = nn.Sequential(nn.Linear(40, 33), nn.GELU(), nn.Linear(33, 3))
    x = torch.randn(17, 40, generator=generator)
    params, directions = list(model.parameters()), Directions(3, 2, 24)

    def closure():
        return model(x).square().mean()

    in_fours = Evaluation(1e-3, chunk=4)
    whole = propagate(closure, params, directions, Evaluation(1e-3), period=6).differences
    half = propagate(closure, params, directions[12:], Evaluation(1e-3), period=6).differences
    chunks = propagate(closure, params, directions[6:12], in_fours, period=6).differences
    again = propagate(closure, params, directions, in_fours, period=6).differences
    assert torch.equal(whole[12:], half)
    assert torch.equal(again[6:12], chunks)


def test_scheduled_comparison(alone):
    asked = []
    ranks = zo.Ranks(check_every=3)
    for _ in range(7):
        ranks.check(lambda: asked.append(1) or {"settings": {}})
    assert len(asked) == 3  # before steps 1, 4 and 7


def test_a_copy_belongs_to_no_ranks(alone):
    opt = zo.ZOSGD([torch.zeros(3)], lr=0.1, directions=8, ranks=zo.Ranks())
    assert copy.deepcopy(opt).ranks is None
