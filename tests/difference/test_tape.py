"""The base pass on record: one run of the closure for all chunks, with the values of one chunk."""

from __future__ import annotations

import weakref
from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zo_triton as zo
from zo_triton.difference import Evaluation, base_pass, propagate
from zo_triton.difference.mode import DifferenceMode
from zo_triton.difference.registry import HANDLERS

K = 6
EPS = 1e-3
DIRECTIONS = zo.Directions(seed=3, step=1, num=K)
X = torch.randn(8, 5, generator=torch.Generator().manual_seed(0))


def runs_of(closure: Callable[[], Tensor], params: list[Tensor], chunk: int = 2) -> tuple[int, Tensor]:
    """How often the closure runs for three chunks, and the differences; the same as in one chunk, checked."""
    runs = 0

    def counting() -> Tensor:
        nonlocal runs
        runs += 1
        return closure()

    torch.manual_seed(7)
    value, whole = zo.differences(closure, params, DIRECTIONS, EPS)
    after = torch.rand(())
    torch.manual_seed(7)
    again, found = zo.differences(counting, params, DIRECTIONS, EPS, chunk=chunk)
    assert torch.equal(again, value)
    torch.testing.assert_close(found, whole, rtol=1e-5, atol=1e-9)
    assert torch.equal(torch.rand(()), after)
    return runs, found


def weights(*shapes: tuple[int, ...]) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator) / 2 for shape in shapes]


@pytest.mark.parametrize("chunk", [1, 2, 4])
def test_a_network_runs_once(chunk: int):
    net = nn.Sequential(nn.Linear(5, 7), nn.GELU(), nn.LayerNorm(7), nn.Linear(7, 3), nn.Tanh())
    runs, _ = runs_of(lambda: net(X).square().mean(), list(net.parameters()), chunk)
    assert runs == 1


def _dropout(w: Tensor) -> Tensor:
    return F.dropout(X @ w, 0.4).square().mean()


def _attention_with_dropout(w: Tensor) -> Tensor:
    heads = (X @ w).view(1, 8, 5)
    return F.scaled_dot_product_attention(heads, heads, heads, dropout_p=0.3).square().mean()


LSTM = nn.LSTM(5, 4, num_layers=2, dropout=0.5)


def _recurrent(w: Tensor) -> Tensor:
    return LSTM((X @ w).unsqueeze(1))[0].square().mean()


def _without_rule(w: Tensor) -> Tensor:
    return F.rrelu(X @ w - 1, training=True).square().mean()


def _pieces(w: Tensor) -> Tensor:
    return F.normalize(X @ w, dim=-1).square()[:, 0].mean()


def _several_results(w: Tensor) -> Tensor:
    first, second = (X @ w).split([2, 3], dim=1)
    values, places = second.max(dim=1)
    return (first.sum(1) * values).mean() + 0 * places.sum()


def _used_twice(w: Tensor) -> Tensor:
    h = X @ w
    return (h + h.tanh()).square().mean() + h.mean()


def _head_and_table(w: Tensor) -> Tensor:
    tokens = torch.tensor([0, 3, 1])
    return F.cross_entropy(F.linear(F.embedding(tokens, w), w), tokens)


@pytest.mark.parametrize(
    "function",
    [
        _dropout,
        _attention_with_dropout,
        _recurrent,
        _without_rule,
        _pieces,
        _several_results,
        _used_twice,
        _head_and_table,
    ],
)
@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule")
def test_what_a_replay_must_not_do_anew(function: Callable[[Tensor], Tensor]):
    (w,) = weights((5, 5))
    runs, _ = runs_of(lambda: function(w), [w])
    assert runs == 1


def test_batch_statistics_advance_once():
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1))
    once = {name: buffer.clone() for name, buffer in net.named_buffers()}
    expected = nn.BatchNorm1d(4)
    with torch.no_grad():
        expected(net[0](X))
    zo.differences(lambda: net(X).mean(), net.parameters(), DIRECTIONS, EPS, chunk=2)
    assert once["1.num_batches_tracked"] == 0
    for name, buffer in expected.named_buffers():
        torch.testing.assert_close(getattr(net[1], name), buffer)


def test_writes_to_memory_with_differences_are_no_matter_for_a_tape():
    (w,) = weights((5, 5))

    def closure() -> Tensor:
        out = torch.zeros(8, 5)
        out[:, 1:] = (X @ w)[:, 1:]
        return out.square().mean()

    runs, _ = runs_of(closure, [w])
    assert runs == 3


def test_a_constant_that_changes_after_its_use_is_no_matter_for_a_tape():
    (w,) = weights((5, 5))

    def closure() -> Tensor:
        scale = torch.ones(5)
        first = X @ w * scale
        scale.mul_(3)
        return (first + X @ w * scale).square().mean()

    runs, _ = runs_of(closure, [w])
    assert runs == 3


def test_more_than_the_budget_is_not_kept(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base_pass, "TAPE_CPU", 100)
    (w,) = weights((5, 5))
    runs, _ = runs_of(lambda: (X @ w).tanh().mean(), [w])
    assert runs == 3


def test_a_handler_that_makes_its_base_anew_costs_runs_but_no_digit(monkeypatch: pytest.MonkeyPatch):
    def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Tensor:
        return mode.apply(lambda mode, base, x: 2 * mode.needed(x), 2 * args[0], function, args, kwargs)

    monkeypatch.setitem(HANDLERS, torch.i0, handle)
    (w,) = weights((5, 5))
    runs = 0

    def closure() -> Tensor:
        nonlocal runs
        runs += 1
        return torch.i0(X @ w).sum()

    _, found = zo.differences(closure, [w], DIRECTIONS, EPS, chunk=2)
    expected = [2 * EPS * float((X @ z).sum()) for z in zo.sample(DIRECTIONS, 0, w.shape)]
    torch.testing.assert_close(found, torch.tensor(expected), rtol=1e-5, atol=1e-8)
    assert runs == 3  # recorded, found out in the replay, then once for each of the other chunks


def test_a_replay_holds_no_more_differences_than_the_run(monkeypatch: pytest.MonkeyPatch):
    """A base tensor that dies in the closure ends its difference in a replay as well."""
    most: list[int] = []
    record = DifferenceMode.put

    def counting(self: DifferenceMode, base: Tensor, entry) -> None:
        record(self, base, entry)
        most[-1] = max(most[-1], len(self.entries))

    class Counted(DifferenceMode):
        put = counting

        def __init__(self, *args, **kwargs):
            super().__init__(*args, **kwargs)
            most.append(0)

    monkeypatch.setattr("zo_triton.difference.run.DifferenceMode", Counted)
    ws = weights(*[(5, 5)] * 6)

    def closure() -> Tensor:
        h = X
        for w in ws:
            h = (h @ w).tanh().cumsum(0)
        return h.mean()

    zo.differences(closure, ws, DIRECTIONS, EPS, chunk=2)
    assert len(most) == 3
    assert most[1] <= most[0] + 1
    assert most[2] <= most[0] + 1


def test_out_of_memory_is_answered_without_a_tape_first(monkeypatch: pytest.MonkeyPatch):
    """The chunk stays as it is, the next step does not try again, and the closure counts as run once."""
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Tanh(), nn.Linear(4, 1))
    params = list(net.parameters())
    _, expected = zo.differences(lambda: net(X).mean(), params, DIRECTIONS, EPS)
    before = net[1].running_mean.clone()
    tried = []

    def failing(self, mode):
        tried.append(mode)
        raise MemoryError("planted")

    monkeypatch.setattr(base_pass.Tape, "replay", failing)
    found = propagate(lambda: net(X).mean(), params, DIRECTIONS, Evaluation(EPS, chunk=1))
    torch.testing.assert_close(found.differences, expected, rtol=1e-5, atol=1e-8)
    assert (found.plan.chunk, found.plan.taped) == (1, False)
    with torch.no_grad():
        batch = net[0](X).mean(0)
    torch.testing.assert_close(net[1].running_mean, 0.9 * before + 0.1 * batch)
    propagate(lambda: net(X).mean(), params, DIRECTIONS, Evaluation(EPS), plan=found.plan)
    assert len(tried) == 1


@pytest.mark.parametrize("kind", ["result", "argument", "mask"])
def test_all_that_a_tape_keeps_alive_counts(kind: str, monkeypatch: pytest.MonkeyPatch):
    """Also constants that only the tape would hold, as what frozen layers made; parameters do not."""
    monkeypatch.setattr(base_pass, "TAPE_CPU", 3_000)
    frozen = nn.Linear(5, 1000).requires_grad_(False)
    small, wide = weights((5,), (5, 1000))
    closures = {
        "result": lambda: (X[:1] @ wide).tanh().mean(),
        "argument": lambda: (frozen(X[:1]) * small[0]).mean(),
        "mask": lambda: F.dropout(X[:1, :1].expand(1000, 1) * small[0], 0.5).mean(),
    }
    trained = wide if kind == "result" else small
    runs, _ = runs_of(closures[kind], [trained])
    assert runs == 3
    monkeypatch.setattr(base_pass, "TAPE_CPU", 30_000)
    runs, _ = runs_of(closures[kind], [trained])
    assert runs == 1


def test_parameters_cost_a_tape_nothing(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base_pass, "TAPE_CPU", 3_000)
    down, up = nn.Linear(5, 1000).requires_grad_(False), nn.Linear(1000, 5)
    (w,) = weights((5, 5))
    runs, _ = runs_of(lambda: (X @ w @ up.weight[:, :5] @ down.weight[:5].T).mean(), [w])
    assert runs == 1


def test_a_lost_tape_keeps_nothing_alive(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(base_pass, "TAPE_CPU", -1)
    (w,) = weights((5, 5))
    seen = []

    def closure() -> Tensor:
        h = X @ w
        seen.append(weakref.ref(h))
        h = h.tanh()
        seen.append(weakref.ref(h))
        h = h * 2
        assert seen[-2]() is None
        assert seen[-1]() is None
        return h.mean()

    zo.differences(closure, [w], DIRECTIONS, EPS, chunk=2)
    assert len(seen) == 6


def test_an_error_in_a_replay_puts_everything_back(monkeypatch: pytest.MonkeyPatch):
    net = nn.Sequential(nn.Linear(5, 4), nn.BatchNorm1d(4), nn.Dropout(0.5))
    before = {name: buffer.clone() for name, buffer in net.named_buffers()}
    torch.manual_seed(5)
    expected = torch.rand(3)

    def failing(self, mode):
        raise ArithmeticError("planted")

    monkeypatch.setattr(base_pass.Tape, "replay", failing)
    torch.manual_seed(5)
    with pytest.raises(ArithmeticError):
        zo.differences(lambda: net(X).mean(), net.parameters(), DIRECTIONS, EPS, chunk=2)
    assert torch.equal(torch.rand(3), expected)
    for name, buffer in net.named_buffers():
        assert torch.equal(buffer, before[name])


@pytest.mark.parametrize("alias", [Tensor.detach, lambda buffer: buffer.data], ids=["detach", "data"])
def test_a_buffer_that_is_written_to_under_another_name(alias: Callable[[Tensor], Tensor]):
    """The tape ends, and the buffer is put back before the closure runs again, though the name is gone by then."""
    (w,) = weights((5, 4))
    buffer = torch.ones(8, 4)

    def closure() -> Tensor:
        y = (X @ w).tanh() * buffer
        alias(buffer).mul_(2)
        return (y + buffer * (X @ w)).mean()

    found = []
    for chunk in (None, 2):
        buffer.fill_(1)
        found.append(zo.differences(closure, [w], DIRECTIONS, EPS, chunk=chunk))
        assert torch.equal(buffer, torch.full((8, 4), 2.0))
    assert torch.equal(found[1][0], found[0][0])
    torch.testing.assert_close(found[1][1], found[0][1], rtol=1e-5, atol=1e-9)


def test_a_returned_buffer_is_not_put_back():
    """The closure returns memory that it wrote to before it runs again."""
    (w,) = weights((5, 4))

    def closure() -> Tensor:
        total = torch.zeros(8, 4)
        total += 1
        total[:, 1:] += (X @ w)[:, 1:]
        return total

    runs_of(closure, [w])
