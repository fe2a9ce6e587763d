"""Parameters and tensors of other classes made inside the closure, and classes that say what torch functions do."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.masked import masked_tensor

import zo_triton as zo
from zo_triton.difference import MissingRuleError, differences

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(3, 4, generator=GENERATOR)
X = torch.randn(2, 4, generator=GENERATOR)
DIRECTIONS = zo.Directions(seed=1, step=2, num=3)


class Plain(Tensor):
    pass


class Halving(Tensor):
    """Halves whatever a function gives."""

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        with torch._C.DisableTorchFunctionSubclass():
            result = func(*args, **(kwargs or {}))
            return result * 0.5 if func is Tensor.square else result


def assigned(a):
    layer = nn.Linear(4, 3, bias=False)
    layer.load_state_dict({"weight": a}, assign=True)
    return layer.weight


def copied(a):
    layer = nn.Linear(4, 3, bias=False)
    layer.weight = nn.Parameter(a)
    return copy.deepcopy(layer).weight


MAKERS = {
    "parameter": nn.Parameter,
    "parameter_of_a_parameter": lambda a: nn.Parameter(nn.Parameter(a), requires_grad=False),
    "buffer": nn.Buffer,
    "subclass": lambda a: a.as_subclass(Plain),
    "subclass_by_keyword": lambda a: a.as_subclass(cls=Plain),
    "and_back": lambda a: a.as_subclass(Plain).as_subclass(Tensor),
    "assigned": assigned,
    "copied": copied,
}


@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("factor", [None, 2])
@pytest.mark.parametrize("name", MAKERS)
def test_a_tensor_under_another_class_carries_its_difference(name, factor, chunk):
    def loss(make):
        return F.linear(X, make(A if factor is None else A * factor)).square().sum().as_subclass(Tensor)

    _, found = differences(lambda: loss(MAKERS[name]), [A], DIRECTIONS, 1e-3, chunk=chunk, strict=True)
    _, expected = differences(lambda: loss(lambda a: a), [A], DIRECTIONS, 1e-3, strict=True)
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6)


def test_a_class_has_its_say():
    def loss(scale, a):
        return a.square().sum().as_subclass(Tensor) * scale

    _, found = differences(lambda: loss(1, (A * 2).as_subclass(Halving)), [A], DIRECTIONS, 1e-3, strict=True)
    _, expected = differences(lambda: loss(0.5, A * 2), [A], DIRECTIONS, 1e-3, strict=True)
    torch.testing.assert_close(found, expected)


@pytest.mark.filterwarnings("ignore:The PyTorch API of MaskedTensors")
def test_a_tensor_wrapped_in_another_is_refused_by_name():
    mask = torch.ones(3, 4, dtype=torch.bool)
    with pytest.raises(MissingRuleError, match=r"torch.Tensor.sum met a tensor .* wrapped in a MaskedTensor"):
        differences(lambda: masked_tensor(A * 2, mask).sum().get_data(), [A], DIRECTIONS, 1e-3)


def test_outside_a_closure_torch_makes_them_as_ever():
    differences(lambda: A.sum(), [A], DIRECTIONS, 1e-3)
    assert type(A.as_subclass(Plain)) is Plain
    assert nn.Parameter(A).requires_grad
    assert not nn.Parameter(A, requires_grad=False).requires_grad
    with torch.device("cpu"):
        assert type(nn.Parameter(A)) is nn.Parameter
        assert type(A.as_subclass(Plain)) is Plain
    assert torch.equal(torch.compile(lambda a: nn.Parameter(a) * 2, backend="eager")(A), A * 2)
