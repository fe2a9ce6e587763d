"""Attention's differences in one call, against float64: in float32 products, with rounded factors, and in parts."""

import math

import pytest
import torch

from zo_triton import cpu
from zo_triton._precision import rounds_factors
from zo_triton.cpu import attention, attention_pieces
from zo_triton.cpu.squares import most_parts
from zo_triton.cpu.tiles import PARTS


@pytest.fixture(params=["rows", "parts", "rounded"], autouse=True)
def way(request, monkeypatch):
    if request.param != "rows" and not most_parts():
        pytest.skip("this processor has nothing for bfloat16")
    parts = 0 if request.param == "rows" else PARTS  # also where float32 is as quick
    monkeypatch.setattr(attention, "most_parts", lambda: parts)
    torch.set_float32_matmul_precision("medium" if request.param == "rounded" else "highest")
    if request.param == "rounded" and not rounds_factors():
        pytest.skip("torch rounds no factor here")
    yield request.param
    torch.set_float32_matmul_precision("highest")


def only(*ways):
    return pytest.mark.parametrize("way", ways, indirect=True)


def normal(*shape, seed=0):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def bound():
    """Of the relative error: a factor that is another float32 by its last bit may be rounded the other way."""
    return 3e-4 if rounds_factors() else 1e-6


def exactly(tensor):
    """What a factor is, in float64."""
    return tensor.float().bfloat16().double() if rounds_factors() else tensor.double()


def expected_attention(values, changes, scale, is_causal):
    """The result's difference in float64, each factor of a product rounded where the engine rounds it."""
    q, k, v = (each.double() for each in values)
    dq, dk, dv = (
        torch.zeros_like(value).unsqueeze(0) if change is None else change.double()
        for value, change in zip(values, changes, strict=True)
    )
    groups = q.shape[-3] // k.shape[-3]
    k, v, dk, dv = (each.repeat_interleave(groups, -3) for each in (k, v, dk, dv))
    scores = scale * (exactly(q) @ exactly(k).mT)
    if is_causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:]).triu(1).bool(), -math.inf)
    change = exactly(scale * dq) @ exactly(k).mT + exactly(scale * (q + dq)) @ exactly(dk).mT
    shares = scores.softmax(-1)
    total = (shares * change.expm1()).sum(-1, keepdim=True)
    moved = shares * (change.expm1() - total) / (1 + total)
    return exactly(moved) @ exactly(v + dv) + exactly(shares) @ exactly(dv)


def heads(*shape, count, width, seed):
    """As a projection leaves them: [*shape, rows, count·width] seen as [*shape, count, rows, width]."""
    *batch, rows = shape
    return normal(*batch, rows, count * width, seed=seed).unflatten(-1, (count, width)).transpose(-3, -2)


def inputs(batch=2, count=3, queries=40, keys=40, inner=16, columns=24, groups=1, evaluations=4, eps=1e-2):
    values = [
        heads(batch, queries, count=count * groups, width=inner, seed=1),
        heads(batch, keys, count=count, width=inner, seed=2),
        heads(batch, keys, count=count, width=columns, seed=3),
    ]
    sizes = [(queries, inner, count * groups), (keys, inner, count), (keys, columns, count)]
    changes = [
        eps * heads(evaluations, batch, rows, count=number, width=width, seed=4 + i)
        for i, (rows, width, number) in enumerate(sizes)
    ]
    return values, changes


def run(values, changes, scale=0.3, is_causal=False, mask=None, kept=None):
    query, value = values[0], values[2]
    output = torch.empty(*query.shape[:-1], value.shape[-1])
    moving = next(each for each in changes if each is not None)
    return cpu.attention_difference(
        output, (*values, mask, kept), (*changes, None), len(moving), scale, is_causal, moving.dtype
    )


CASES = {
    "whole-squares": {"queries": 64, "keys": 32, "inner": 64, "columns": 32},
    "less-than-a-square": {"queries": 5, "keys": 3, "inner": 7, "columns": 2},
    "several-pieces": {"queries": 300, "keys": 300, "batch": 1, "count": 2},
    "few-keys": {"queries": 130, "keys": 20},
    "many-keys": {"queries": 20, "keys": 130},
    "one-query": {"queries": 1, "keys": 33},
    "large-heads": {"queries": 70, "keys": 70, "inner": 200, "columns": 256},
    "grouped": {"groups": 2},
    "long-steps": {"eps": 3.0},
}


@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_float64(case, is_causal):
    values, changes = inputs(**case)
    found = run(values, changes, is_causal=is_causal)
    expected = expected_attention(values, changes, 0.3, is_causal)
    assert (found - expected).norm() <= bound() * expected.norm()


@pytest.mark.parametrize("moving", [(0,), (1,), (2,), (0, 1), (1, 2)], ids=str)
def test_any_of_the_three_may_stand_still(moving):
    values, changes = inputs()
    changes = [each if i in moving else None for i, each in enumerate(changes)]
    expected = expected_attention(values, changes, 0.3, True)
    assert (run(values, changes, is_causal=True) - expected).norm() <= bound() * expected.norm()


def test_a_sign_that_torch_has_yet_to_turn_is_turned():
    """The imaginary part of a conjugate lies in memory with the other sign, and of one feature as rows do."""
    values, changes = inputs(inner=1, columns=1)
    unturned = [torch.complex(each, each).conj().imag for each in values]
    moving = [torch.complex(each, each).conj().imag for each in changes]
    assert all(each.is_neg() for each in (*unturned, *moving))
    assert torch.equal(run(unturned, moving), run([-each for each in values], [-each for each in changes]))


@pytest.mark.parametrize("is_causal", [False, True])
def test_neither_threads_nor_chunks_nor_pieces_of_work_change_a_bit(is_causal, monkeypatch):
    values, changes = inputs(queries=300, keys=300, batch=1, count=1)
    whole, before = run(values, changes, is_causal=is_causal), torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for p in range(len(whole)):
                one = run(values, [each[p : p + 1] for each in changes], is_causal=is_causal)
                assert torch.equal(one[0], whole[p])
        monkeypatch.setattr(attention_pieces, "FEW_ITEMS", 1)
        assert torch.equal(run(values, changes, is_causal=is_causal), whole)
    finally:
        torch.set_num_threads(before)


@only(
    "rows",
    pytest.param(
        "parts", marks=pytest.mark.skipif(most_parts() < PARTS, reason="not taken on this processor")
    ),
)
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_errs_no_more_than_torchs_products(case, is_causal, way):
    values, changes = inputs(**case)
    expected = expected_attention(values, changes, 0.3, is_causal)
    ours = run(values, changes, is_causal=is_causal)
    theirs = run(values, changes, is_causal=is_causal, kept=torch.ones(1))
    # After long steps of few features both ways' errors are those of the softmax, to a hundredth.
    slack = 1.02 if way == "rows" else 1.0
    assert (ours - expected).norm() <= slack * (theirs - expected).norm()


@only("rows")
@pytest.mark.parametrize("is_causal", [False, True])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_bfloat16_is_read_and_rounded_once(case, is_causal):
    values, changes = inputs(**case)
    narrow = [each.bfloat16() for each in changes]
    found = run(values, narrow, is_causal=is_causal)
    assert torch.equal(found, run(values, [each.float() for each in narrow], is_causal=is_causal).bfloat16())


@only("rows")
def test_a_base_in_bfloat16_is_taken_as_float32():
    values, changes = inputs(groups=2)
    narrow = [each.bfloat16() for each in values]
    assert torch.equal(run(narrow, changes), run([each.float() for each in narrow], changes))


def test_a_memory_in_another_order_changes_nothing():
    values, changes = inputs()
    turned = [each.mT.contiguous().mT for each in changes]
    assert torch.equal(run(values, turned), run(values, changes))


def test_what_is_not_a_number_stays_so():
    values, changes = inputs()
    values[0][0, 0, 0, 0] = math.nan
    found = run(values, changes)
    assert found[:, 0, 0, 0].isnan().all()
    assert found[:, 1].isfinite().all()


@only("parts", "rounded")
def test_a_mask_takes_another_way_than_squares(monkeypatch):
    monkeypatch.setattr(attention, "attention_in_tiles", lambda *_: pytest.fail("it knows of no mask"))
    values, changes = inputs()
    found = run(values, changes, mask=torch.ones(40, 40).tril().bool())
    expected = expected_attention(values, changes, 0.3, True)
    assert (found - expected).norm() <= bound() * expected.norm()


def padding(*lengths):
    """True where there is a key; the mask of sequences of 40 tokens, [batch, 1, 1, 40]."""
    return (torch.arange(40) < torch.tensor(lengths)[:, None])[:, None, None]


CAUSAL = torch.ones(40, 40).tril().bool()

MASKS = {
    "causal": CAUSAL,
    "keys": padding(40, 23),
    "causal-of-some-keys": CAUSAL & padding(40, 23),
    "sees-nothing": CAUSAL & padding(40, 0),
    "added": normal(3, 40, 40, seed=9),
    "infinite": torch.zeros(2, 1, 1, 40).masked_fill(~padding(40, 23), -math.inf),
}


@only("rows")
@pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS)
def test_a_mask_comes_along(mask, monkeypatch):
    values, changes = inputs()
    theirs = run(values, changes, mask=mask, kept=torch.ones(1))
    monkeypatch.setattr(attention, "_blocks", lambda *_: pytest.fail("it is one call"))
    found = run(values, changes, mask=mask)
    assert (found - theirs).norm() <= bound() * theirs.norm()


@only("rows")
def test_a_mask_that_hides_what_comes_later_is_as_quick_as_a_causal_one(monkeypatch):
    values, changes = inputs()
    hints, whole = [], attention.attention_in_rows

    def listen(*arguments):
        hints.append(arguments[-1])
        whole(*arguments)

    monkeypatch.setattr(attention, "attention_in_rows", listen)
    assert torch.equal(run(values, changes, mask=CAUSAL), run(values, changes, is_causal=True))
    run(values, changes, mask=padding(40, 23))
    assert hints == [True, True, False]
