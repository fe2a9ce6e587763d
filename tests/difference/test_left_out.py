"""Arguments that torch's own Python functions forget to hand to a mode."""

import ast
import inspect

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, relative_error

import zo_triton as zo

DIRECTIONS = zo.Directions(seed=1, step=0, num=4, distribution="gaussian")
EPS = 1e-2
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 4, generator=GENERATOR)
W = torch.randn(5, 4, generator=GENERATOR)
TARGET = torch.randn(6, 5, generator=GENERATOR)
LEFT = torch.randn(3, 6, generator=GENERATOR)
FORGOTTEN = {("l1_loss", "weight"), ("chain_matmul", "out")}


def weighted(w, **options):
    weight = TARGET.to(w.dtype).abs() + 1
    return F.l1_loss(F.linear(X.to(w.dtype), w), TARGET.to(w.dtype), weight=weight, **options)


def trained_weight(w):
    return F.l1_loss(F.linear(X.to(w.dtype), w), TARGET.to(w.dtype), weight=F.linear(X.to(w.dtype), w).exp())


def constant(w):
    target = TARGET.to(w.dtype)
    return F.l1_loss(target.flip(0), target, weight=target.abs()) * w.sum()


def written(w):
    out = w.new_zeros(3, 5)
    torch.chain_matmul(LEFT.to(w.dtype), X.to(w.dtype), w.t(), out=out)
    return out.square()


CASES = {
    "mean": weighted,
    "sum": lambda w: weighted(w, reduction="sum"),
    "none": lambda w: weighted(w, reduction="none"),
    "a weight that moves": trained_weight,
    "constants": constant,
    "chain_matmul": written,
}


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:torch.chain_matmul is deprecated")
def test_what_torch_forgets_counts(case, chunk):
    function = CASES[case]
    value, found = zo.differences(lambda: function(W), [W], DIRECTIONS, EPS, chunk=chunk, strict=True)
    torch.testing.assert_close(value, function(W))
    assert relative_error(found, expected_differences(function, [W], DIRECTIONS, EPS)) < 1e-5


def test_torch_forgets_nothing_else():
    forgotten = set()
    for module in (F, torch.functional):
        for function in ast.walk(ast.parse(inspect.getsource(module))):
            if isinstance(function, ast.FunctionDef):
                forgotten |= {(function.name, name) for name in _forgotten_by(function)}
    assert forgotten <= FORGOTTEN


def _forgotten_by(function):
    """The parameters that do not stand among what it hands to modes."""
    asked = function.args
    names = {each.arg for each in (*asked.posonlyargs, *asked.args, *asked.kwonlyargs)}
    for call in ast.walk(function):
        if isinstance(call, ast.Call) and getattr(call.func, "id", "") == "handle_torch_function":
            handed = [*call.args[2:], *(keyword.value for keyword in call.keywords)]
            names -= {part.id for each in handed for part in ast.walk(each) if isinstance(part, ast.Name)}
            return names
    return set()
