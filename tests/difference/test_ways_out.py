"""What would lose a difference: refused by name whether strict or not, or announced."""

import copy
import warnings

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.autograd import forward_ad

import zo_triton as zo
from zo_triton.difference import MissingRuleError, differences, fallback
from zo_triton.difference.registry import COMPLEX, HANDLERS

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(3, 4, generator=GENERATOR)
COPY = A.clone()
ONES = torch.ones(3, 4)
DIRECTIONS = zo.Directions(seed=1, step=2, num=3)


@pytest.fixture(autouse=True)
def fresh():
    fallback._warned.clear()
    with zo.use_engine("reference"):
        yield


def gradient(a):
    with torch.enable_grad():
        x = torch.ones(4, requires_grad=True)
        return torch.autograd.grad((a @ x).sum(), x)[0]


def backward(a):
    with torch.enable_grad():
        x = torch.ones(4, requires_grad=True)
        (a @ x).sum().backward()
        return x.grad


def dual(a):
    with forward_ad.dual_level():
        return forward_ad.unpack_dual(forward_ad.make_dual(a, ONES))[1]


REFUSED = {
    "vmap_around": (lambda a: torch.vmap(lambda row: (row * a).sum())(ONES), "torch.func transform"),
    "grad": (lambda a: torch.func.grad(lambda x: x.square().sum())(a), "torch.func transform"),
    "grad_around": (lambda a: torch.func.grad(lambda x: (x * a).sum())(ONES), "torch.func transform"),
    "vjp": (lambda a: torch.func.vjp(lambda x: x * 2, ONES)[1](a)[0], "torch.autograd.grad .* derivatives"),
    "jvp": (lambda a: torch.func.jvp(lambda x: x * 2, (ONES,), (a,))[1], "torch.func transform"),
    "jacfwd": (lambda a: torch.func.jacfwd(lambda x: (x * a).sum(0))(ONES), "torch.func transform"),
    "functionalize": (lambda a: torch.func.functionalize(lambda x: x * 2)(a), "torch.func transform"),
    "jacobian": (lambda a: torch.autograd.functional.jacobian(lambda x: (x * a).sum(), ONES), "derivatives"),
    "autograd": (gradient, "torch.autograd.grad .* derivatives"),
    "backward": (backward, "torch.Tensor.backward .* derivatives"),
    "dual": (dual, "_make_dual .* derivatives"),
    "quantised": (
        lambda a: torch.quantize_per_tensor(a, 0.1, 0, torch.qint8).dequantize(),
        "quantised tensor",
    ),
    "sparse": (lambda a: a.to_sparse().to_dense(), "layout torch.sparse_coo"),
    "bits": (lambda a: a.view(torch.int32), "reads the bits of torch.float32 as torch.int32"),
    "another_shape": (lambda a: (a - COPY).unique(), "returns another shape"),
    "memory": (lambda a: torch.as_strided_scatter(a.t(), torch.ones(2), (2,), (1,)), "addresses memory"),
}


@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule", "ignore:torch.quantize")
@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_carried_is_refused_by_name(name):
    function, message = REFUSED[name]
    with pytest.raises(MissingRuleError, match=f"{message}.*zo.BlackBox"):
        differences(lambda: A.sum() + function(A * 1).sum(), [A], DIRECTIONS, 1e-3)
    with pytest.raises(MissingRuleError):
        differences(lambda: A.sum() + function(A * 1).sum(), [A], DIRECTIONS, 1e-3, strict=True)


def test_transforms_of_what_carries_nothing_are_left_alone():
    def closure():
        mask = torch.vmap(lambda row: torch.arange(4) > row)(torch.arange(3))
        slope = torch.func.grad(lambda x: x.square().sum())(ONES)
        return (A * mask * slope).sum()

    _, found = differences(closure, [A], DIRECTIONS, 1e-3, strict=True)
    mask = torch.arange(4) > torch.arange(3)[:, None]
    _, expected = differences(lambda: (A * mask * 2).sum(), [A], DIRECTIONS, 1e-3)
    torch.testing.assert_close(found, expected)


ANNOUNCED = {
    "numpy": (lambda a: a.numpy().sum(), "torch.Tensor.numpy"),
    "tolist": (lambda a: sum(a[0].tolist()), "torch.Tensor.tolist"),
    "asarray": (lambda a: np.asarray(a).sum(), "torch.Tensor.__array__"),
    "dlpack": (lambda a: torch.from_dlpack(a).sum(), "torch.Tensor.__dlpack__"),
    "copy": (lambda a: copy.copy(a).sum(), "torch.Tensor.untyped_storage"),
}


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("name", ANNOUNCED)
def test_ways_out_of_torch_are_announced_once(name, strict):
    function, message = ANNOUNCED[name]
    with pytest.warns(UserWarning, match=f"{message} takes the values .* counts as constant.*zo.BlackBox"):
        differences(lambda: A.sum() + float(function(A * 2)), [A], DIRECTIONS, 1e-3, strict=strict)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        differences(lambda: A.sum() + float(function(A * 2)), [A], DIRECTIONS, 1e-3, strict=strict)


CARRIED = {
    "T": lambda a: a.T,
    "mT": lambda a: a.mT,
    "H": lambda a: a.H,
    "mH": lambda a: a.mH,
    "real": lambda a: a.real,
    "data": lambda a: a.data,
    "detach": lambda a: a.detach(),
    "deepcopy": copy.deepcopy,
    "filled": lambda a: torch.ones(2).new_full((2,), a.sum()),
}


@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule for torch.Tensor.new_full")
@pytest.mark.parametrize("factor", [None, 2])
@pytest.mark.parametrize("name", CARRIED)
def test_attributes_and_copies_carry_the_difference(name, factor):
    def closure(function):
        return function(A if factor is None else A * factor).square().sum()

    plain = (lambda a: a.sum() * 2**0.5) if name == "filled" else (lambda a: a)
    _, found = differences(lambda: closure(CARRIED[name]), [A], DIRECTIONS, 1e-3)
    _, expected = differences(lambda: closure(plain), [A], DIRECTIONS, 1e-3)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_new_takes_no_elements_of_the_tensor_it_is_like():
    def closure():
        location = A * 2
        torch.manual_seed(0)
        drawn = location.new(location.shape).uniform_(-0.9, 0.9)  # as torch.distributions.Laplace does
        return (
            location - location.exp() * drawn.sign() * torch.log1p(-drawn.abs()) + location.new([1.0])
        ).sum()

    def expected():
        location = A * 2
        torch.manual_seed(0)
        drawn = torch.empty(A.shape).uniform_(-0.9, 0.9)
        return (location - location.exp() * drawn.sign() * torch.log1p(-drawn.abs()) + 1.0).sum()

    value, found = differences(closure, [A], DIRECTIONS, 1e-3, strict=True)
    same, wanted = differences(expected, [A], DIRECTIONS, 1e-3, strict=True)
    torch.testing.assert_close((value, found), (same, wanted))


def test_every_attribute_of_a_tensor_is_accounted_for():
    getters = {
        name
        for name in dir(Tensor)
        if not callable(getattr(Tensor, name)) and hasattr(getattr(Tensor, name), "__get__")
    }
    unknown = {name for name in getters if getattr(Tensor, name).__get__ not in HANDLERS | COMPLEX}
    assert unknown <= {"__weakref__"}
