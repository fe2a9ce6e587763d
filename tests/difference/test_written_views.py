"""Writes to tensors that others look at: a difference follows into the base and into each of its views."""

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, relative_error
from hypothesis import given, settings
from hypothesis import strategies as st

import zo_triton as zo
from zo_triton.difference import MissingRuleError, differences
from zo_triton.difference.registry import HANDLERS, handler_of

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(4, 4, generator=GENERATOR)
B = torch.randn(4, 4, generator=GENERATOR)
DIRECTIONS = zo.Directions(seed=1, step=2, num=5)
EPS = 1e-3

ENDS = torch.tensor([-1, 0])

VIEWS = {
    "whole": lambda x: x,
    "slice": lambda x: x[1:, ::2],
    "row": lambda x: x[2],
    "transpose": lambda x: x.transpose(0, 1),
    "reshape": lambda x: x.reshape(2, 8),
    "unbind": lambda x: x.unbind(1)[3],
    "chunk": lambda x: x.chunk(2, 1)[1],
    "split": lambda x: x.split([1, 3])[1],
    "diagonal": lambda x: x.diagonal(),
    "detached": lambda x: x.detach()[:3],
    "added_axis": lambda x: x[:, None, 1:],
}


def first_half(x):
    return torch.arange((x.shape[-1] + 1) // 2)


def mask(x):
    return torch.arange(x.numel()).view(x.shape) % 3 == 0


def dropped(x, y):
    torch.manual_seed(3)
    F.dropout(x, 0.5, inplace=True)


def shifted(x, y):
    x[..., 1:] = x[..., :-1].clone() * 2


def augmented_slice(x, y):
    x[..., :2] += y[..., :2]


FORMS = {
    "set_slice": lambda x, y: x.__setitem__((..., slice(1, None)), y[..., 1:]),
    "set_number": lambda x, y: x.__setitem__(0, 3.0),
    "set_spread": lambda x, y: x.__setitem__(..., y.flatten()[:1]),
    "set_leading_ones": lambda x, y: x.__setitem__(0, y[:1].unsqueeze(0)),
    "set_mask": lambda x, y: x.__setitem__(mask(x), y[mask(x)]),
    "set_mask_number": lambda x, y: x.__setitem__(mask(x), 0.5),
    "set_index": lambda x, y: x.__setitem__((..., first_half(x)), y[..., first_half(x)]),
    "set_two_indices": lambda x, y: x.__setitem__((ENDS, ..., None), y[ENDS, ..., None]),
    "copy_": lambda x, y: x.copy_(y),
    "copy_spread": lambda x, y: x.copy_(y.sum()),
    "fill_": lambda x, y: x.fill_(y.sum()),
    "fill_number": lambda x, y: x.fill_(2.0),
    "zero_": lambda x, y: x.zero_(),
    "add_": lambda x, y: x.add_(y, alpha=0.5),
    "addcmul_": lambda x, y: x.addcmul_(y, y),
    "mul_number": lambda x, y: x.mul_(2.0),
    "isub": lambda x, y: x.__isub__(y),
    "augmented_slice": augmented_slice,
    "shifted": shifted,
    "index_add_": lambda x, y: x.index_add_(-1, first_half(x), y[..., first_half(x)]),
    "index_copy_": lambda x, y: x.index_copy_(-1, first_half(x), y[..., first_half(x)]),
    "index_fill_": lambda x, y: x.index_fill_(-1, first_half(x), y.sum()),
    "index_fill_number": lambda x, y: x.index_fill_(-1, first_half(x), 1.5),
    "index_put_": lambda x, y: x.index_put_((mask(x),), y[mask(x)]),
    "index_put_accumulate": lambda x, y: x.index_put_((ENDS,), y[:1], accumulate=True),
    "scatter_": lambda x, y: x.scatter_(-1, first_half(x).flip(0).expand(*x.shape[:-1], -1), y),
    "scatter_number": lambda x, y: x.scatter_(-1, first_half(x).expand(*x.shape[:-1], -1), 2.5),
    "scatter_add_": lambda x, y: x.scatter_add_(-1, torch.zeros(x.shape, dtype=torch.int64), y),
    "masked_fill_": lambda x, y: x.masked_fill_(mask(x), -1.0),
    "masked_fill_tensor": lambda x, y: x.masked_fill_(mask(x), y.sum()),
    "masked_scatter_": lambda x, y: x.masked_scatter_(mask(x), y),
    "clamp_": lambda x, y: x.clamp_(-0.5, 0.5),
    "relu": lambda x, y: F.relu(x, inplace=True),
    "dropout": dropped,
    "out": lambda x, y: torch.mul(y, y, out=x),
    "gt_": lambda x, y: x.gt_(y),
}  # fmt: skip
WITHOUT_RULE = {"addcmul_", "index_put_accumulate"}


def carrier(a):
    return a * 2


def plain(a):
    return torch.zeros(4, 4, dtype=a.dtype)


def plain_part(a):
    return torch.ones(50, dtype=a.dtype)[3:35:2].view(4, 4)


DESTINATIONS = (carrier, plain, plain_part)


def written(make, view, form):
    """Writes through one view and reads back through the base, this view, and others made before and after."""

    def function(a, b):
        base = make(a)
        before = base.t()
        target = VIEWS[view](base)
        twin = VIEWS[view](base)
        FORMS[form](target, (b * b).flatten()[: target.numel()].view(target.shape))
        parts = (a, base, before, target, twin, base.detach().flatten(), base.exp())
        return torch.cat([part.flatten() for part in parts])

    return function


def agrees(function, bound=1e-5, **options):
    with zo.use_engine("reference"):
        value, found = differences(lambda: function(A, B), [A, B], DIRECTIONS, EPS, **options)
    torch.testing.assert_close(value, function(A, B), rtol=1e-5, atol=1e-6)
    dtype = options.get("compute_dtype", torch.float32)
    expected = expected_differences(function, [A, B], DIRECTIONS, EPS, options.get("sides", 1), dtype)
    assert relative_error(found, expected) < bound


@pytest.mark.parametrize("make", DESTINATIONS, ids=lambda make: make.__name__)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule")
def test_each_form_on_each_view(make, form):
    for view in VIEWS:
        agrees(written(make, view, form), sides=2, chunk=2, strict=form not in WITHOUT_RULE)


@pytest.mark.parametrize("form", ["set_slice", "set_mask", "add_", "index_copy_", "relu"])
def test_bfloat16(form):
    agrees(written(plain_part, "slice", form), 2e-2, compute_dtype=torch.bfloat16, strict=True)


STEPS = st.lists(
    st.tuples(
        st.sampled_from(sorted(set(FORMS) - WITHOUT_RULE)),
        st.lists(st.sampled_from(sorted(VIEWS)), max_size=2),
    ),
    min_size=1,
    max_size=5,
)


@settings(max_examples=40, deadline=None)
@given(
    steps=STEPS, make=st.sampled_from(DESTINATIONS), sides=st.sampled_from([1, 2]), chunk=st.integers(1, 5)
)
def test_random_writes_through_random_views(steps, make, sides, chunk):
    def function(a, b):
        base, source = make(a), b.tanh()
        copies, parts = [], []
        for form, views in steps:
            part = base
            for view in views:
                part = VIEWS[view](part) if part.dim() == 2 and min(part.shape) > 3 else part
            copies.append(base.clone())  # what was read before a write must not change by it
            FORMS[form](part, source.flatten().repeat(2)[: part.numel()].view(part.shape))
            base.mul_(0.5)
            parts += [part, part.exp() - part.sum()]
        return torch.cat([each.flatten() for each in (a, base, *parts, *copies)])

    agrees(function, 2e-5, sides=sides, chunk=chunk, strict=True)


def recurrent_outputs(a, b):
    out, h = torch.zeros(6, 4, dtype=a.dtype), b[0]
    for step in range(6):
        h = F.linear(h, a).tanh()
        out[step] = h
    return F.linear(out, a).relu()


def cache(a, b):
    keys, seen = a.new_zeros(2, 8, 4), []
    for step in range(3):
        keys[:, step : step + 1] = F.linear(b[:2, None], a)
        seen.append(keys[:, : step + 1].sum(1))
    return torch.stack(seen)


def shifted_tokens(a, b):
    moved = a.new_zeros(a.shape)
    moved[:, 1:] = a[:, :-1]
    moved[:, 0] = 1
    return torch.softmax(F.linear(moved, b), -1)


def routed(a, b):
    chosen, total = b.argmax(1), torch.zeros_like(a)
    for expert in range(4):
        rows = torch.where(chosen == expert)[0]
        total.index_add_(0, rows, F.linear(a[rows], b) * 2)
    return total


def scaled_in_place(a, b):
    x = F.linear(a, b)
    q, k, v = x.view(4, 2, 2).unbind(1)[0], *x.chunk(2, -1)
    q *= 0.5
    x.div_(2)
    return torch.cat([q, k, v, x], 1)


def turned(a, b):
    x = (a * b)[:3]
    x.t_()
    x.unsqueeze_(0)
    x[:, 1] += 1
    return x.square()


def outputs(a, b):
    values, indices = torch.empty(0, dtype=a.dtype), torch.empty(0, dtype=torch.int64)
    torch.max(a * b, 0, out=(values, indices))
    return values * 2


@pytest.mark.parametrize(
    "function",
    [recurrent_outputs, cache, shifted_tokens, routed, scaled_in_place, turned, outputs],
    ids=lambda function: function.__name__,
)
def test_as_models_write(function):
    agrees(function, sides=2, chunk=2, strict=True)


def test_integers_take_no_difference():
    counts = torch.zeros(4, 4, dtype=torch.int64)

    def closure():
        counts.copy_(A * 10)
        counts[0] = B[0]
        return (counts * A).sum()

    value, _ = differences(closure, [A, B], DIRECTIONS, EPS)
    assert float(value) == float((counts * A).sum())


def test_what_lived_before_the_closure_is_as_after_one_run():
    buffer = torch.ones(4, 4)

    def closure():
        buffer[1:] += A[1:]
        return (buffer * 2).sum()

    differences(closure, [A], DIRECTIONS, EPS, chunk=1)
    assert torch.equal(buffer[1:], 1 + A[1:])


def test_memory_of_the_dead_is_not_taken_for_that_of_the_living():
    def function(a, b):
        total = a.sum()
        for _ in range(20):
            out = torch.zeros(4, 4, dtype=a.dtype)
            out[0] = a[0]
            total = total + out.sum()
            del out
            total = total + torch.zeros(4, 4, dtype=a.dtype).sum()
        return total

    agrees(function, strict=True)


def test_strict_refuses_a_written_form_without_a_rule():
    with pytest.raises(MissingRuleError, match=r"no difference rule for .*erfinv"):
        differences(lambda: (A * 0.2).erfinv_(), [A], DIRECTIONS, EPS, strict=True)


@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule")
def test_a_written_argument_that_a_rule_passes_over_is_subtracted(monkeypatch):
    def of_the_first_alone(mode, base, input, other):
        return mode.needed(input) * (input / base)

    def function(a, b):
        out = torch.zeros(4, 4, dtype=a.dtype)
        out[:, 1:] = b.flatten().repeat(2)[:12].view(4, 3)
        return torch.hypot(a.flatten()[:4] + 2, out[:, 2])

    monkeypatch.setitem(HANDLERS, torch.hypot, handler_of(of_the_first_alone))
    agrees(function)
