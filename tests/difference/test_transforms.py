"""``torch.vmap`` in the closure: subtracted where its operands depend on the weights; what it captures may not."""

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, relative_error

import zo_triton as zo
from zo_triton.difference import MissingRuleError, differences, fallback

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(3, 4, generator=GENERATOR)
B = torch.randn(2, 3, 4, generator=GENERATOR)
X = torch.randn(5, 4, generator=GENERATOR)
DIRECTIONS = zo.Directions(seed=1, step=2, num=3)


@pytest.fixture(autouse=True)
def fresh():
    fallback._warned.clear()
    with zo.use_engine("reference"):
        yield


def ensemble(a, b):
    weights = {"weight": b * a}
    return torch.vmap(lambda own, x: F.linear(x, own["weight"]).tanh(), in_dims=(0, None))(weights, X.to(a))


def gradients(a, b):
    def loss(weight, x):
        return F.linear(x, weight).tanh().sum()

    return torch.vmap(torch.func.grad(loss), in_dims=(None, 0))(a * 2, X.to(a)) + b.sum(0)


MAPPED = {
    "rows": lambda a, b: torch.vmap(lambda row: row.exp().sum())(a * 2) + b.sum(),
    "columns": lambda a, b: torch.vmap(lambda column, each: column * each, in_dims=(1, 2), out_dims=1)(a, b),
    "nested": lambda a, b: torch.vmap(torch.vmap(lambda x, y: x @ y), in_dims=(None, 0))(a, b),
    "two_results": lambda a, b: torch.vmap(lambda row: (row.sin(), row.sum()))(a * b[0])[0],
    "in_chunks": lambda a, b: torch.vmap(lambda row: row.exp(), chunk_size=2)(a * b[0]),
    "ensemble": ensemble,
    "gradients": gradients,
}


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("name", MAPPED)
def test_a_vmap_is_subtracted(name, chunk):
    function = MAPPED[name]
    with pytest.warns(UserWarning, match="no difference rule for torch.vmap"):
        value, found = differences(lambda: function(A, B), [A, B], DIRECTIONS, 1e-4, chunk=chunk)
    torch.testing.assert_close(value, function(A, B))
    assert relative_error(found, expected_differences(function, [A, B], DIRECTIONS, 1e-4)) < 1e-4


CAPTURING = {
    "tensor": lambda a: torch.vmap(lambda row: row * a)(X),
    "beside_an_operand": lambda a: torch.vmap(lambda row, x: row * x * a.sum(), in_dims=(0, None))(
        a * 2, X[0]
    ),
    "the_operand_too": lambda a: torch.vmap(lambda row: row * a[0])(a),
}


@pytest.mark.parametrize("name", CAPTURING)
def test_what_a_vmap_captures_is_refused(name):
    with pytest.raises(MissingRuleError, match=r"runs inside a torch.func transform"):
        differences(lambda: CAPTURING[name](A * 1).sum() + A.sum(), [A], DIRECTIONS, 1e-3)


def test_strict_refuses_a_vmap():
    with pytest.raises(MissingRuleError, match=r"no difference rule for torch.vmap and strict=True"):
        differences(lambda: torch.vmap(torch.exp)(A), [A], DIRECTIONS, 1e-3, strict=True)


def test_outside_a_closure_vmap_is_as_ever():
    differences(lambda: A.sum(), [A], DIRECTIONS, 1e-3)
    expected = A.exp()
    assert torch.equal(torch.vmap(torch.exp)(A), expected)
    with torch.device("cpu"):
        assert torch.equal(torch.vmap(torch.exp)(A), expected)
    assert torch.equal(torch.compile(torch.vmap(torch.exp), backend="eager", fullgraph=True)(A), expected)


@pytest.mark.parametrize("held", ["tensor", "module"])
@pytest.mark.filterwarnings("ignore")  # flex_attention warns that it is not compiled
def test_a_score_mod_that_captures_trained_numbers_is_refused(held):
    flex = pytest.importorskip("torch.nn.attention.flex_attention").flex_attention
    module = torch.nn.Module()
    module.slope = torch.nn.Parameter(torch.rand(2), requires_grad=False)
    slope, x = module.slope, B[None] * 1.0
    read = {
        "tensor": lambda score, b, h, i, j: score - slope[h] * (i - j),
        "module": lambda score, b, h, i, j: score - module.slope[h] * (i - j),
    }[held]
    for scale in (slope.sum, torch.ones(()).sum):  # whether or not an operand depends on them as well
        with pytest.raises(MissingRuleError, match="captures one in a function"):
            differences(
                lambda scale=scale: flex(x * scale(), x, x, score_mod=read), [slope], DIRECTIONS, 1e-3
            )
