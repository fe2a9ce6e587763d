"""Attention on the CPU engine, block by block, against float64 and against the rule that holds all the scores."""

import math

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, relative_error
from torch.nn.attention.bias import causal_lower_right

import zo_triton as zo
from zo_triton.cpu import attention as blocks

DIRECTIONS = zo.Directions(seed=1, step=2, num=3, distribution="gaussian")
GENERATOR = torch.Generator().manual_seed(5)


def random(*shape):
    return torch.randn(*shape, generator=GENERATOR)


def attend(**options):
    return lambda q, k, v: F.scaled_dot_product_attention(q, k, v, **options)


def masked(mask):
    """With a mask that carries nothing, in the dtype of the query."""

    def function(q, k, v):
        added = mask if mask.dtype == torch.bool else mask.to(q.dtype)
        return F.scaled_dot_product_attention(q, k, v, added)

    return function


def like(tensor, *others):
    return tuple(each.to(tensor.dtype) for each in others)


QUERY, KEY, VALUE = random(2, 3, 7, 5), random(2, 3, 9, 5), random(2, 3, 9, 6)
ALLOWED = torch.rand(7, 9, generator=GENERATOR) > 0.4
BLIND = ALLOWED & (torch.arange(7) != 2)[:, None]
ONE_KEY = torch.arange(9) == 4
HIDDEN = torch.zeros(2, 1, 7, 9).masked_fill(~BLIND, -math.inf)
ABSORBED = torch.zeros(2, 1, 7, 9).masked_fill(~BLIND, torch.finfo(torch.float32).min)
PARTLY = ABSORBED.clone()
PARTLY[:, :, 2, 5:] = -math.inf

CASES = {
    "plain": (attend(), (QUERY, KEY, VALUE)),
    "causal": (attend(is_causal=True), (QUERY, KEY, VALUE)),
    "causal_of_few_keys": (attend(is_causal=True), (KEY, QUERY, random(2, 3, 7, 4))),
    "scaled": (attend(scale=0.3), (QUERY, KEY, VALUE)),
    "matrices": (attend(), (QUERY[0], KEY[0], VALUE[0])),
    "five_axes": (attend(), (random(2, 2, 3, 5, 4), random(2, 2, 3, 6, 4), random(2, 2, 3, 6, 4))),
    "one_batch_for_all": (attend(), (QUERY, KEY[:1], VALUE[:1])),
    "grouped": (attend(enable_gqa=True), (random(2, 6, 7, 5), random(2, 2, 9, 5), random(2, 2, 9, 4))),
    "grouped_under_a_mask": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, BLIND, enable_gqa=True),
        (random(2, 6, 7, 5), random(2, 3, 9, 5), random(2, 3, 9, 4)),
    ),
    "mask": (masked(ALLOWED), (QUERY, KEY, VALUE)),
    "mask_of_keys": (masked(ALLOWED[:1]), (QUERY, KEY, VALUE)),
    "mask_of_each_batch": (masked(torch.stack([ALLOWED, BLIND])[:, None]), (QUERY, KEY, VALUE)),
    "sees_nothing": (masked(BLIND), (QUERY, KEY, VALUE)),
    "sees_one": (masked(ONE_KEY[None]), (QUERY, KEY, VALUE)),
    "added_mask": (masked(random(3, 1, 9)), (QUERY, KEY, VALUE)),
    "added_infinities": (masked(HIDDEN), (QUERY, KEY, VALUE)),
    "added_numbers_that_absorb": (masked(ABSORBED), (QUERY, KEY, VALUE)),
    "absorbed_or_infinite": (masked(PARTLY), (QUERY, KEY, VALUE)),
    "absorbed_of_all": (masked(ABSORBED[0, 0, 2:3]), (QUERY, KEY, VALUE)),
    "absorbed_in_a_trained_mask": (
        lambda q, m: F.scaled_dot_product_attention(
            q, *like(q, KEY, VALUE), attn_mask=m + ABSORBED.to(m.dtype)
        ),
        (QUERY, random(7, 9)),
    ),
    "written_out_and_absorbed": (
        lambda q, k, v: torch.softmax(q @ k.mT + ABSORBED.to(q.dtype), -1) @ v,
        (QUERY, KEY, VALUE),
    ),
    "query_alone": (lambda q: attend()(q, *like(q, KEY, VALUE)), (QUERY,)),
    "key_alone": (lambda k: attend()(*like(k, QUERY), k, *like(k, VALUE)), (KEY,)),
    "value_alone": (lambda v: attend()(*like(v, QUERY, KEY), v), (VALUE,)),
    "key_and_value": (lambda k, v: attend()(*like(k, QUERY), k, v), (KEY, VALUE)),
    "trained_mask": (
        lambda m: F.scaled_dot_product_attention(*like(m, QUERY, KEY, VALUE), attn_mask=m),
        (random(2, 1, 7, 9),),
    ),
    "trained_mask_and_query": (
        lambda q, m: F.scaled_dot_product_attention(q, *like(q, KEY, VALUE), attn_mask=m),
        (QUERY, random(7, 9)),
    ),
    "transposed": (
        lambda x: attend(is_causal=True)(*x.unflatten(-1, (3, 4, 5)).movedim(-3, 0).transpose(2, 3)),
        (random(2, 9, 60),),
    ),
}


def differences(function, params, eps, engine="cpu", **options):
    with zo.use_engine(engine):
        return zo.differences(lambda: function(*params), params, DIRECTIONS, eps, strict=True, **options)


@pytest.fixture(params=[None, 1 << 17, 32], ids=["one_call", "whole", "cut"])
def block(request, monkeypatch):
    """One call where that is possible, or blocks of all there is, or of a few queries each."""
    if request.param:
        monkeypatch.setattr(blocks, "_in_one_call", lambda *_: False)
    if request.param == 32:
        monkeypatch.setattr(blocks, "BLOCK_SCORES", request.param)
        monkeypatch.setattr(blocks, "SHORTEST", 2)


@pytest.mark.parametrize("eps", [1e-3, 0.5])
@pytest.mark.parametrize("name", CASES)
def test_attention(name, eps, block):
    function, params = CASES[name]
    _, found = differences(function, params, eps)
    assert relative_error(found, expected_differences(function, params, DIRECTIONS, eps)) < 3e-6


@pytest.mark.parametrize("name", CASES)
def test_attention_in_bfloat16(name):
    function, params = CASES[name]
    _, found = differences(function, params, 1e-3, compute_dtype=torch.bfloat16)
    expected = expected_differences(function, params, DIRECTIONS, 1e-3, dtype=torch.bfloat16)
    assert relative_error(found, expected) < 8 * 2**-9


@pytest.mark.parametrize("scale", [1.0, 30.0, 1e4])
@pytest.mark.parametrize("eps", [1e-3, 1.0, 30.0])
@pytest.mark.parametrize(
    "name", ["plain", "causal", "added_infinities", "sees_one", "trained_mask_and_query"]
)
def test_saturated_scores(name, eps, scale):
    """Shares that underflow may grow to all there is; scores near 1000 are rounded by 6e-5 themselves."""
    function, params = CASES[name]
    params = tuple(each * scale if i == 0 else each for i, each in enumerate(params))
    expected = expected_differences(function, params, DIRECTIONS, eps)
    _, found = differences(function, params, eps)
    assert (found - expected).abs().max() <= 1e-4 * expected.abs().max()


def test_shares_that_underflow_grow_by_the_general_rule_too():
    function, (query, key, value) = CASES["added_infinities"]
    params = query * 30, key, value
    _, found = differences(function, params, 1.0, "reference")
    assert relative_error(found, expected_differences(function, params, DIRECTIONS, 1.0)) < 1e-4


def test_what_is_not_a_number_stays_so():
    query = QUERY.clone()
    query[0, 0, 0, 0] = math.nan
    _, found = differences(CASES["plain"][0], (query, KEY, VALUE), 1e-3)
    assert found[:, 0, 0, 0].isnan().all()
    assert found[:, 1].isfinite().all()


@pytest.mark.parametrize("name", ["plain", "causal", "grouped", "mask_of_each_batch", "transposed"])
def test_chunks_of_directions_change_nothing(name):
    function, params = CASES[name]
    _, whole = differences(function, params, 1e-3)
    for chunk in (1, 2):
        assert torch.equal(differences(function, params, 1e-3, chunk=chunk)[1], whole)


@pytest.mark.parametrize("chunk", [1, 3])
def test_dropout_keeps_the_same_shares_in_every_chunk(chunk):
    def function(q, k, v):
        return F.scaled_dot_product_attention(q, k, v, BLIND, dropout_p=0.4)

    found = {}
    for engine in ("cpu", "reference"):
        torch.manual_seed(3)
        found[engine] = differences(function, (QUERY, KEY, VALUE), 1e-2, engine, chunk=chunk)[1]
    assert relative_error(found["cpu"], found["reference"].double()) < 1e-5


@pytest.mark.parametrize("function", [F.softmax, F.log_softmax, F.softmin], ids=lambda f: f.__name__)
@pytest.mark.parametrize("columns", [1, 15, 16, 37])
@pytest.mark.parametrize(("scale", "eps"), [(1, 1e-4), (1, 0.5), (30, 1.0), (30, 300.0)])
def test_softmax_along_rows(function, columns, scale, eps):
    params = (random(2, 5, columns) * scale,)
    _, found = differences(lambda a: function(a, -1), params, eps)
    expected = expected_differences(lambda a: function(a, -1), params, DIRECTIONS, eps)
    # Long steps are rounded themselves.
    assert (found - expected).abs().max() <= 1e-6 * expected.abs().max() + 2e-7 * eps


def test_a_causal_bias_made_before_the_closure():
    mask = torch.ones(7, 9, dtype=torch.bool).tril(2)
    bias = causal_lower_right(7, 9)
    _, found = differences(
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, bias), (QUERY, KEY, VALUE), 1e-3
    )
    expected = expected_differences(masked(mask), (QUERY, KEY, VALUE), DIRECTIONS, 1e-3)
    assert relative_error(found, expected) < 3e-6


def test_a_causal_bias_made_in_the_closure_is_told_what_to_do():
    with pytest.raises(TypeError, match="make it before the closure runs"):
        differences(
            lambda q, k, v: F.scaled_dot_product_attention(q, k, v, causal_lower_right(7, 9)),
            (QUERY, KEY, VALUE),
            1e-3,
        )
