"""What a CUDA graph records, run step by step: without a GPU there is no graph, but nothing may need the host."""

import copy
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from host_reads import HostReads
from torch import nn

import zo_triton as zo
from zo_triton.difference import run as run_module


class Replayed(zo.CapturedStep):
    """Runs what would be recorded."""

    def __init__(self, optimizer, closure):
        self._prepare(optimizer, closure)

    def __call__(self):
        self._state.refresh()
        with HostReads() as reads:
            self._run()
        assert reads.names == []
        self._state.count()
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
        made.append((zo.ZOSGD(model.parameters(), lr=0.05, directions=2, seed=3, **settings), closure, model))
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
    assert replay.optimizer.state.keys() == set(mine.parameters() if settings.get("momentum") else ())


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


def close(mine, other):
    for a, b in zip(mine.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_ordinary_steps_may_come_between_replays():
    replay, mine, step, other, _ = both(perceptron, momentum=0.9)
    replay()
    replay.optimizer.step(replay.closure)
    replay()
    for _ in range(3):
        step()
    close(mine, other)
    assert replay.optimizer.steps_done == 4


@pytest.mark.parametrize("build", [perceptron, lambda: perceptron().bfloat16()], ids=["float32", "bfloat16"])
def test_a_loaded_state_goes_on_in_the_tensors_that_were_recorded(build):
    replay, mine, step, other, plain = both(build, momentum=0.9)
    held = [tensor for own in replay.optimizer.state.values() for tensor in own.values()]
    weights, state = copy.deepcopy(mine.state_dict()), replay.optimizer.state_dict()
    for _ in range(2):
        replay()
    mine.load_state_dict(weights)
    replay.optimizer.load_state_dict(state)
    replay(), step()
    assert replay.optimizer.steps_done == plain.steps_done == 2
    close(mine, other)
    now = [tensor for own in replay.optimizer.state.values() for tensor in own.values()]
    assert all(a is b for a, b in zip(now, held, strict=True))


def test_a_loaded_state_without_buffers_starts_them_anew():
    replay, mine, step, other, plain = both(perceptron, momentum=0.9)
    fresh = zo.ZOSGD(perceptron().parameters(), lr=0.05, directions=2, seed=3, momentum=0.9).state_dict()
    replay()
    other.load_state_dict(mine.state_dict())
    for optimizer in (replay.optimizer, plain):
        optimizer.load_state_dict(fresh)
    replay(), step()
    close(mine, other)


def test_what_a_graph_cannot_follow_is_refused(tmp_path):
    replay, mine, *_ = both(perceptron)
    optimizer = replay.optimizer
    before = [param.detach().clone() for param in mine.parameters()]
    optimizer.eps = 1e-2
    with pytest.raises(ValueError, match=r"eps was 0\.0001 when .* and is 0\.01 now; only lr may change"):
        replay()
    optimizer.eps = 1e-4
    optimizer.param_groups[0]["momentum"] = 0.5
    with pytest.raises(ValueError, match=r"momentum of group 0 was 0\.0 .* and is 0\.5 now"):
        replay()
    optimizer.param_groups[0]["momentum"] = 0.0
    with zo.ReplayLog.start(tmp_path / "log.zo", optimizer), pytest.raises(ValueError, match="close the log"):
        replay()
    assert all(torch.equal(a, b) for a, b in zip(before, mine.parameters(), strict=True))
    param = optimizer.param_groups[0]["params"][1]
    param.data = param.detach().clone()
    with pytest.raises(ValueError, match=r"parameter 1 lies elsewhere .*write into it"):
        replay()
    optimizer.add_param_group({"params": [torch.zeros(3)]})
    with pytest.raises(ValueError, match=r"the number of parameters was 4 .* and is 5 now"):
        replay()


class Table(nn.Module):
    """Logits from rows of a long table: [10] indices of 1 000."""

    def __init__(self):
        super().__init__()
        self.table, self.head = nn.Embedding(1000, 6), nn.Linear(6, 11)

    def forward(self, tokens):
        return self.head(self.table(tokens)).flatten(0, 1)


def looked_up():
    torch.manual_seed(0)
    model, tokens = Table(), torch.tensor([[999, 3, 3, 0, 7], [1, 999, 5, 3, 2]])
    labels = torch.randint(11, (10,))
    return model, lambda: F.cross_entropy(model(tokens), labels)


def test_only_the_rows_of_a_long_table_that_are_looked_up_are_drawn(monkeypatch):
    monkeypatch.setattr(run_module, "BUDGET_CPU", 4 * 1000 * 6)  # a quarter of the table's four directions
    (mine, closure), (other, same) = looked_up(), looked_up()
    plain = zo.ZOSGD(other.parameters(), lr=0.05, directions=2, seed=3)
    replay = Replayed(zo.ZOSGD(mine.parameters(), lr=0.05, directions=2, seed=3), closure)
    plain.step(same)
    replay(), plain.step(same)
    close(mine, other)


def test_a_batch_that_has_grown_too_large_for_the_plan_is_refused(monkeypatch):
    monkeypatch.setattr(run_module, "BUDGET_CPU", 4 * 4 * 10 * 5)  # four directions of ten rows
    model, batches = nn.Sequential(nn.Linear(6, 5), nn.Softsign()), [torch.randn(10, 6), torch.randn(11, 6)]
    optimizer = zo.ZOSGD(model.parameters(), lr=0.1, directions=4)
    replay = Replayed(optimizer, lambda: model(batches[optimizer.steps_done]).square().mean())
    with pytest.raises(ValueError, match=r"evaluates all 4 directions at once.*take fewer directions"):
        replay()


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
    ranks = SimpleNamespace(check_directions=lambda directions: None)
    with pytest.raises(ValueError, match="shared among processes"):
        Replayed(zo.ZOSGD([w], lr=0.1, ranks=ranks), lambda: w.sum())
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
    plain = zo.ZOSGD(twin.parameters(), lr=0.05, directions=2, seed=3)
    step = zo.CapturedStep(
        zo.ZOSGD(model.parameters(), lr=0.05, directions=2, seed=3), lambda: F.cross_entropy(model(x), y)
    )
    for _ in range(3):
        plain.step(lambda: F.cross_entropy(twin(x), y))
    for _ in range(5):
        x.copy_(torch.randn(6, 7))
        assert step().item() == pytest.approx(plain.step(lambda: F.cross_entropy(twin(x), y)), rel=1e-4)
    for a, b in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_a_first_group_without_parameters_is_no_obstacle():
    opt = zo.ZOSGD([{"params": []}, {"params": [torch.ones(3)]}], lr=0.1, directions=4)
    with pytest.raises(ValueError, match="CUDA graphs need parameters on a GPU, got cpu"):
        zo.CapturedStep(opt, lambda: opt.param_groups[1]["params"][0].sum())
