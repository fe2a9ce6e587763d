"""What a CUDA graph records, run step by step: without a GPU there is no graph, but nothing may need the host."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import zo_triton as zo

HOST_READS = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "_unique2", "masked_select"}


class NothingLeavesTheDevice(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        assert name not in HOST_READS, f"{name} waits for the device"
        return func(*args, **(kwargs or {}))


class Replayed(zo.CapturedStep):
    """Runs what would be recorded."""

    def __init__(self, optimizer, closure):
        self._prepare(optimizer, closure)

    def __call__(self):
        for (_, rate), group in zip(self._rates, self.optimizer.param_groups, strict=True):
            rate.fill_(group["lr"])
        with NothingLeavesTheDevice():
            self._run()
        return self.loss


class Language(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(11, 6), nn.Linear(6, 11)

    def forward(self, tokens):
        mixed = F.scaled_dot_product_attention(*[self.table(tokens)] * 3, is_causal=True)
        return self.head(mixed).flatten(0, 1)


def perceptron():
    return nn.Sequential(nn.Linear(7, 5), nn.Tanh(), nn.Linear(5, 3))


def images():
    return nn.Sequential(
        nn.Unflatten(1, (1, 1, 7)), nn.Conv2d(1, 2, (1, 3), padding=(0, 1)), nn.ReLU(), nn.MaxPool2d((1, 2)),
        nn.Flatten(), nn.Linear(6, 3),
    )  # fmt: skip


def task(build):
    torch.manual_seed(0)
    model = build()
    if build is Language:
        x, y = torch.randint(11, (2, 5)), torch.randint(11, (10,))
    else:
        x, y = torch.randn(6, 7).to(next(model.parameters()).dtype), torch.randint(3, (6,))
    return model, lambda: F.cross_entropy(model(x), y)


def both(build, **settings):
    """A captured step and an ordinary optimizer that has taken the same first step."""
    made = []
    for _ in range(2):
        model, closure = task(build)
        made.append((zo.ZOSGD(model.parameters(), lr=0.05, directions=4, seed=3, **settings), closure, model))
    (captured, closure, mine), (plain, same_closure, other) = made
    plain.step(same_closure)
    return Replayed(captured, closure), mine, lambda: plain.step(same_closure), other, plain


@pytest.fixture(autouse=True)
def _triton():
    with zo.use_engine("triton"):
        yield


CASES = {
    "perceptron": (perceptron, {}),
    "central with momentum": (perceptron, {"sides": 2, "momentum": 0.9, "weight_decay": 0.01}),
    "normalized": (perceptron, {"aggregator": "normalized", "weight_decay": 0.01}),
    "best": (perceptron, {"aggregator": "best", "distribution": "gaussian"}),
    "sphere": (perceptron, {"distribution": "sphere"}),
    "low rank": (perceptron, {"rank": 2}),
    "bfloat16": (perceptron, {"compute_dtype": torch.bfloat16}),
    "convolution and pooling": (images, {}),
    "language": (Language, {}),
}


@pytest.mark.parametrize("name", CASES)
def test_replayed_steps_are_the_optimizers_own(name):
    build, settings = CASES[name]
    replay, mine, step, other, plain = both(build, **settings)
    for _ in range(2):
        loss = replay()
        assert loss.item() == pytest.approx(step(), rel=1e-5)
    for a, b in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)
    assert replay.optimizer.steps_done == plain.steps_done == 3
    assert replay.skipped.item() == 0


def test_the_learning_rate_may_change_and_low_precision_weights_keep_their_master():
    replay, mine, step, other, plain = both(lambda: perceptron().bfloat16(), momentum=0.5)
    before = [p.detach().clone() for p in mine.parameters()]
    for optimizer in (replay.optimizer, plain):
        optimizer.param_groups[0]["lr"] = 0.0
    replay()
    step()
    assert all(torch.equal(a, b) for a, b in zip(before, mine.parameters(), strict=True))
    for optimizer in (replay.optimizer, plain):
        optimizer.param_groups[0]["lr"] = 0.5
    replay()
    step()
    for a, b, c in zip(mine.parameters(), other.parameters(), before, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-2, atol=1e-2)
        assert not torch.equal(a, c)


def test_a_step_that_is_not_finite_moves_nothing_and_is_counted():
    w, x = torch.tensor([1.0, -2.0]), torch.ones(2)
    replay = Replayed(zo.ZOSGD([w], lr=0.1, directions=4), lambda: (w * x).square().sum())
    before = w.clone()
    x[0] = torch.nan
    assert replay().isnan()
    x[0] = 1.0
    assert torch.equal(w, before)
    replay()
    assert not torch.equal(w, before)
    assert replay.skipped.item() == 1


def test_the_step_number_is_that_of_the_optimizer_even_beyond_31_bits():
    moves = []
    for steps_done in (2**31 + 5, 2**31 + 6):
        w = torch.zeros(8)
        optimizer = zo.ZOSGD([w], lr=1.0, directions=1)
        optimizer.steps_done = steps_done - 1
        replay = Replayed(optimizer, lambda w=w: w.sum())
        before = w.clone()
        replay()
        moves.append(w - before)
        z = zo.sample(zo.Directions(0, steps_done, 1), 0, (8,))[0]
        torch.testing.assert_close(moves[-1], -z * z.sum(), rtol=1e-4, atol=1e-4)
    assert not torch.equal(*moves)


def test_what_cannot_be_recorded_is_named():
    w = torch.zeros(3)
    with pytest.raises(TypeError, match=r"needs a zo\.ZOSGD, got Adam"):
        zo.CapturedStep(torch.optim.Adam([w]), lambda: w.sum())
    with pytest.raises(ValueError, match=r"parameters on a GPU, got cpu; call optimizer\.step"):
        zo.CapturedStep(zo.ZOSGD([w], lr=0.1), lambda: w.sum())
    for name in ("ranked", "align"):
        with pytest.raises(ValueError, match=f"aggregator '{name}' can't be replayed; choose one of"):
            Replayed(zo.ZOSGD([w], lr=0.1, aggregator=name), lambda: w.sum())
    with pytest.raises(ValueError, match="BlackBox is evaluated on the host"):
        Replayed(zo.ZOSGD([w], lr=0.1), zo.BlackBox(lambda: 0.0))
    with pytest.raises(ValueError, match="all its directions are evaluated at once"):
        Replayed(zo.ZOSGD([w], lr=0.1, directions=4, chunk=2), lambda: w.sum())
    with pytest.warns(UserWarning, match="returned a int"), pytest.raises(ValueError, match="as tensors"):
        Replayed(zo.ZOSGD([w], lr=0.1), lambda: 1)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_graph_replays_the_step():
    model, x, y = perceptron().cuda(), torch.randn(6, 7).cuda(), torch.randint(3, (6,)).cuda()
    twin = perceptron().cuda()
    twin.load_state_dict(model.state_dict())
    plain = zo.ZOSGD(twin.parameters(), lr=0.05, directions=4, seed=3)
    step = zo.CapturedStep(
        zo.ZOSGD(model.parameters(), lr=0.05, directions=4, seed=3), lambda: F.cross_entropy(model(x), y)
    )
    for _ in range(3):
        plain.step(lambda: F.cross_entropy(twin(x), y))
    for _ in range(5):
        x.copy_(torch.randn(6, 7))
        assert step().item() == pytest.approx(plain.step(lambda: F.cross_entropy(twin(x), y)), rel=1e-4)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
