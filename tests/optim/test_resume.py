"""A run that is saved and loaded goes on as if nothing had happened."""

import copy
import io
import pickle

import pytest
import torch

import zo_triton.difference.run
from zo_triton.optim import ZOSGD

SETTINGS = {
    "lr": 0.05,
    "directions": 3,
    "eps": 1e-3,
    "seed": 2**63 + 5,
    "momentum": 0.9,
    "weight_decay": 0.01,
}


class Run:
    """A float32 and a bfloat16 weight on a quadratic loss."""

    def __init__(self, **settings):
        self.full = torch.linspace(-1, 1, 15).view(3, 5)
        self.half = torch.linspace(1, 2, 3).bfloat16()
        self.opt = ZOSGD([{"params": [self.half], "lr": 0.01}, {"params": [self.full]}], **settings)

    def steps(self, count):
        for _ in range(count):
            self.opt.step(lambda: (self.full - 3).square().mean() + self.half.float().square().mean())

    def weights(self):
        return [self.full, self.half]


def test_loading_half_way_ends_bit_identical(bits):
    """Saved live, not deep-copied, and the saved run goes on first: shared memory would show."""
    straight = Run(**SETTINGS)
    straight.steps(4)
    saved = straight.opt.state_dict()
    weights = [weight.clone() for weight in straight.weights()]
    straight.steps(4)

    resumed = Run(lr=1.0, seed=1, directions=9, eps=1.0, distribution="gaussian", sides=2)
    for own, old in zip(resumed.weights(), weights, strict=True):
        own.copy_(old)
    resumed.opt.load_state_dict(saved)
    assert resumed.opt.steps_done == 4
    assert [group["lr"] for group in resumed.opt.param_groups] == [0.01, 0.05]
    resumed.steps(4)
    assert bits(resumed.weights()) == bits(straight.weights())
    ours, theirs = resumed.opt.state_dict(), straight.opt.state_dict()
    assert ours["zo"] == theirs["zo"]
    for index, state in theirs["state"].items():
        for name, value in state.items():
            assert torch.equal(ours["state"][index][name], value)


def test_one_saved_state_can_be_loaded_twice(bits):
    source = Run(**SETTINGS)
    source.steps(2)
    saved = source.opt.state_dict()
    ends = []
    for _ in range(2):
        run = Run(**SETTINGS)
        run.opt.load_state_dict(saved)
        run.steps(2)
        ends.append(bits(run.weights()))
    assert ends[0] == ends[1]


def test_survives_a_file_of_plain_tensors(bits):
    run = Run(**SETTINGS, compute_dtype=torch.bfloat16, rank=2, distribution="gaussian")
    run.steps(2)
    file = io.BytesIO()
    torch.save(run.opt.state_dict(), file)
    file.seek(0)
    other = Run(**SETTINGS)
    other.opt.load_state_dict(torch.load(file, weights_only=True))
    assert other.opt.compute_dtype == torch.bfloat16
    assert other.opt.next_directions() == run.opt.next_directions()


@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda run: pickle.loads(pickle.dumps(run))], ids=["deepcopy", "pickle"]
)
def test_copies_of_the_optimizer_go_on_alike(bits, duplicate):
    run = Run(**SETTINGS)
    run.steps(3)
    twin = duplicate(run)
    run.steps(3)
    twin.steps(3)
    assert bits(twin.weights()) == bits(run.weights())


def test_master_weights_are_saved_in_full_precision():
    run = Run(**SETTINGS)
    run.steps(3)
    saved = run.opt.state_dict()["state"][0]
    assert {name: value.dtype for name, value in saved.items()} == {
        "master": torch.float32,
        "momentum_buffer": torch.float32,
    }
    other = Run(**SETTINGS)
    other.opt.load_state_dict(run.opt.state_dict())
    assert torch.equal(other.opt.state[other.half]["master"], saved["master"])


def test_chunk_size_learnt_on_a_large_batch_is_kept(model, monkeypatch, bits):
    """Another chunk size rounds differently, so a resumed run must not have to learn it again."""
    monkeypatch.setattr(zo_triton.difference.run, "BUDGET_CPU", 4 * 7 * 11 * 3)
    opt = ZOSGD(model.parameters(), lr=0.1, directions=8)
    opt.step(lambda: model(torch.ones(11, 5)).square().mean())
    assert opt.last.plan.chunk == 3
    other = copy.deepcopy(model)
    twin = ZOSGD(other.parameters(), lr=0.1)
    twin.load_state_dict(opt.state_dict())
    opt.step(lambda: model(torch.ones(1, 5)).square().mean())
    twin.step(lambda: other(torch.ones(1, 5)).square().mean())
    assert bits(list(model.parameters())) == bits(list(other.parameters()))
    assert twin.last.plan.chunk == opt.last.plan.chunk == 3
    opt.directions = 16
    opt.step(lambda: model(torch.ones(1, 5)).square().mean())
    assert opt.last.plan.chunk == 16


def test_chunk_and_strict_stay_the_machine_s_own():
    run, other = Run(**SETTINGS, chunk=1), Run(**SETTINGS, chunk=2, strict=True)
    other.opt.load_state_dict(run.opt.state_dict())
    assert (other.opt.chunk, other.opt.strict) == (2, True)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda saved: saved.pop("zo"), ValueError, "entry 'zo' must hold"),
        (lambda saved: saved["zo"].pop("eps"), ValueError, "entry 'zo' must hold"),
        (lambda saved: saved["zo"].update(eps=-1.0), ValueError, "eps must be positive and finite, got -1.0"),
        (lambda saved: saved["zo"].update(steps_done=1.5), TypeError, "step must be an int, got 1.5"),
        (lambda saved: saved["zo"].update(rank=4), ValueError, "rank 4 exceeds"),
        (
            lambda saved: saved["param_groups"][0].update(lr=-1),
            ValueError,
            "lr must be finite and not negative",
        ),
        (lambda saved: saved["param_groups"].pop(), ValueError, "different number of parameter groups"),
    ],
)
def test_spoilt_state_is_refused_whole(bits, spoil, error, message):
    run, source = Run(**SETTINGS), Run(**{**SETTINGS, "seed": 9})
    source.steps(2)
    saved = source.opt.state_dict()
    spoil(saved)
    with pytest.raises(error, match=message):
        run.opt.load_state_dict(saved)
    assert run.opt.seed == SETTINGS["seed"]
    assert run.opt.steps_done == 0
    assert not run.opt.state
