"""Functions that overwrite a tensor: those that are carried along, and those that are refused."""

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, relative_error

import zo_triton as zo
from zo_triton.difference import differences

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(3, 4, generator=GENERATOR)
ROW = torch.randn(4, generator=GENERATOR)
DIRECTIONS = zo.Directions(seed=1, step=2, num=3)


@pytest.fixture(autouse=True)
def reference_engine():
    with zo.use_engine("reference"):
        yield


def buffer_gains_a_difference(a, b):
    total = torch.zeros(3, 4, dtype=a.dtype)
    total.add_(a)
    total += b
    return total


def pending_input_is_overwritten(a, b):
    x = torch.arange(8.0).view(2, 4).to(a.dtype)
    y = F.linear(x, a)
    x.zero_()
    return torch.tanh(y)


def pending_layer_is_overwritten(a, b):
    y = F.linear(torch.eye(4).to(a.dtype), a)
    y.mul_(2)
    return F.relu_(y)


def out_is_given(a, b):
    out = torch.empty(3, 4, dtype=a.dtype)
    torch.mul(a, b, out=out)
    return out


def assigned(a, b):
    h = a * 2
    h.copy_(b)
    return h * a


def cleared(a, b):
    h = a * 2
    h.zero_()
    return h + b


def divided_by_itself(a, b):
    h = a * 2
    h /= h + 10
    h -= b
    return h.exp_()


def inplace_argument(a, b):
    return F.leaky_relu(F.relu(a * 2, inplace=True) - b, 0.1, inplace=True)


FOLLOWED = [
    buffer_gains_a_difference, pending_input_is_overwritten, pending_layer_is_overwritten, out_is_given,
    assigned, cleared, divided_by_itself, inplace_argument,
]  # fmt: skip


@pytest.mark.parametrize("function", FOLLOWED, ids=lambda function: function.__name__)
def test_followed(function):
    value, found = differences(lambda: function(A, ROW), [A, ROW], DIRECTIONS, 1e-3, sides=2, strict=True)
    assert torch.equal(value, function(A, ROW))
    assert relative_error(found, expected_differences(function, [A, ROW], DIRECTIONS, 1e-3, sides=2)) < 1e-5


def view_of_a_carrier(a):
    h = a * 2
    h[0].add_(1)
    return h


def carrier_with_a_view(a):
    h = a * 2
    first = h[0]
    h.add_(a)
    return first.sum() + h.sum()


def part_of_a_buffer(a):
    buffer = torch.zeros(2, 3, 4)
    buffer[0].copy_(a)
    return buffer


def whole_view_of_a_buffer(a):
    buffer = torch.zeros(3, 4)
    buffer.view(4, 3).t().add_(a.view(4, 3).t())
    return buffer + a


def item_assignment(a):
    buffer = torch.zeros(3, 4)
    buffer[0] = a[0]
    return buffer


def alias_of_a_carrier(a):
    h = a * 2
    h.detach().mul_(3)
    return h


REFUSED = {
    "__setitem__": (item_assignment, "Tensor.__setitem__ in place has no difference rule.*a new tensor"),
    "cumsum_": (lambda a: (a * 2).cumsum_(0), "Tensor.cumsum_ in place has no difference rule"),
    "view_of_a_carrier": (view_of_a_carrier, "Tensor.add_ in place would change a view"),
    "carrier_with_a_view": (carrier_with_a_view, "Tensor.add_ in place would change a view"),
    "alias_of_a_carrier": (alias_of_a_carrier, "Tensor.mul_ in place would change a view"),
    "part_of_a_buffer": (part_of_a_buffer, "Tensor.copy_ in place would change a view"),
    "whole_view_of_a_buffer": (whole_view_of_a_buffer, "Tensor.add_ in place would change a view"),
    "several": (lambda a: torch._foreach_add_([a * 2], 1.0), "foreach_add_ in place writes to several"),
    "out_of_an_unknown_function": (lambda a: torch.erf(a, out=torch.empty(3, 4)), "erf in place"),
    "rrelu_inplace": (lambda a: F.rrelu(a * 2, inplace=True), "rrelu in place has no difference rule"),
    "new_shape": (lambda a: (a[0] * 2).add_(a), "output with shape|would turn a tensor of shape"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    function, message = REFUSED[name]
    with pytest.raises(ValueError, match=message):
        differences(lambda: function(A), [A], DIRECTIONS, 1e-3)


ON_A_PARAMETER = {
    "add_": lambda a: a.add_(1),
    "iadd": lambda a: a.__iadd__(1),
    "mul_of_a_view": lambda a: a.view(-1)[2:].mul_(2),
    "data": lambda a: a.data.zero_(),
    "detached": lambda a: a.detach().fill_(1.0),
    "set_item": lambda a: a.__setitem__(0, 1.0),
    "set_data": lambda a: setattr(a, "data", torch.zeros(3, 4)),
    "relu": lambda a: F.relu(a, inplace=True),
    "out": lambda a: torch.add(torch.ones(3, 4), 1, out=a),
    "init": lambda a: torch.nn.init.normal_(a),
    "foreach": lambda a: torch._foreach_mul_([a], 2.0),
    "aten": lambda a: torch.ops.aten.add_(a, 1),
    "aten_overload": lambda a: torch.ops.aten.add_.Tensor(a, torch.ones(4)),
}


@pytest.mark.parametrize("name", ON_A_PARAMETER)
def test_trained_parameters_are_never_written(name):
    parameter = A.clone()
    with pytest.raises(ValueError, match="would change a trained parameter inside the closure"):
        differences(lambda: ON_A_PARAMETER[name](parameter), [parameter], DIRECTIONS, 1e-3)
    assert torch.equal(parameter, A)


def test_buffers_and_gradients_may_be_written():
    parameter, counter = torch.nn.Parameter(A.clone()), torch.zeros(2)

    def closure():
        parameter.grad = None
        counter.add_(1)
        counter[0] = 5
        return (parameter.requires_grad_(True) * 2).sum()

    differences(closure, [parameter], DIRECTIONS, 1e-3)
    assert counter.tolist() == [5.0, 1.0]
