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


REFUSED = {
    "list": (lambda a: (a * 2).__setitem__(0, list(a[0])), "Tensor.__setitem__ in place makes a new tensor of a"),
    "new_memory": (lambda a: (a * 2).resize_(2, 6), "Tensor.resize_ in place has no form"),
    "data": (lambda a: setattr(a * 2, "data", a), "in place has no form that differences can follow"),
    "several": (lambda a: torch._foreach_add_([a * 2], 1.0), "foreach_add_ in place writes to several"),
    "drawn": (lambda a: torch.zeros(3, 4).bernoulli_(a.sigmoid()), "bernoulli_ in place draws random numbers"),
    "bits": (lambda a: bits_of_a_written_tensor(a), "reads the bits of torch.float32 as torch.int32"),
    "new_shape": (lambda a: (a[0] * 2).add_(a), "output with shape|would turn a tensor of shape"),
}  # fmt: skip


def complex_of(a):
    return torch.view_as_complex((a * 2).view(3, 2, 2))


def test_constant_complex_tensors_may_be_written():
    constant = torch.zeros(3, 2, dtype=torch.cfloat)

    def closure():
        h = complex_of(A)
        constant.add_(1)
        constant[0] = 3
        return (h * constant).abs().sum()

    value, found = differences(closure, [A], DIRECTIONS, 1e-3, chunk=1)
    assert constant.tolist() == [[3, 3], [1, 1], [1, 1]]
    factor = torch.tensor([3.0, 1.0, 1.0]).view(3, 1)
    again, expected = differences(lambda: (complex_of(A) * factor).abs().sum(), [A], DIRECTIONS, 1e-3)
    torch.testing.assert_close((value, found), (again, expected))


def bits_of_a_written_tensor(a):
    out = torch.zeros(3, 4)
    out[0] = a[0]
    return out.view(torch.int32).double()


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


def cast_in_the_forward_pass(a):
    layer = torch.nn.Linear(1, 1)
    layer.weight = a
    return layer.to(torch.float32).weight.square()


def data_set_to_itself(a):
    a.data = a.data
    return a.square()


@pytest.mark.parametrize(
    "function", [cast_in_the_forward_pass, data_set_to_itself], ids=lambda each: each.__name__
)
def test_a_parameter_may_be_given_the_memory_that_it_has(function):
    parameter = torch.nn.Parameter(A.clone())
    _, found = differences(lambda: function(parameter), [parameter], DIRECTIONS, 1e-3, strict=True)
    expected = expected_differences(lambda a: a.square(), [parameter], DIRECTIONS, 1e-3)
    assert relative_error(found, expected) < 1e-5


def test_buffers_and_gradients_may_be_written():
    parameter, counter = torch.nn.Parameter(A.clone()), torch.zeros(2)

    def closure():
        parameter.grad = None
        counter.add_(1)
        counter[0] = 5
        return (parameter.requires_grad_(True) * 2).sum()

    differences(closure, [parameter], DIRECTIONS, 1e-3)
    assert counter.tolist() == [5.0, 1.0]


def turning(states, row):
    """Writes to tensors that look at their memories in another way afterwards."""
    constant, moved, turned, written = states
    torch.matmul(A.t(), A, out=constant)
    torch.mul(A[:1], row, out=moved)
    turned.t_()
    written.t()[0] = row[0]
    written.t_().unsqueeze_(0)
    return (constant @ row).sum() + moved.tanh().sum() + (turned[1] * row[:3]).sum() + written.sum()


def states_to_turn():
    return [torch.empty(0), torch.empty(0), A.clone(), A.clone()]


@pytest.mark.parametrize("chunk", [None, 1, 2])
def test_another_look_at_a_memory_is_put_back_between_chunks(chunk):
    found, wanted = states_to_turn(), states_to_turn()
    value, moved = differences(lambda: turning(found, ROW), [ROW], DIRECTIONS, 1e-3, chunk=chunk)
    torch.testing.assert_close(value, turning(wanted, ROW))
    torch.testing.assert_close(found, wanted)

    def plain(row):
        products = ((A.t() @ A).double() @ row).sum() + (A[:1] * row).tanh().sum()
        return products + (A.t()[1] * row[:3]).sum() + 3 * row[0]

    assert relative_error(moved, expected_differences(plain, [ROW], DIRECTIONS, 1e-3)) < 1e-4


def test_another_look_at_a_memory_is_put_back_after_an_error():
    states = states_to_turn()
    with pytest.raises(KeyError):
        differences(lambda: {}[turning(states, ROW)], [ROW], DIRECTIONS, 1e-3)
    torch.testing.assert_close(states, states_to_turn(), rtol=0, atol=0)


def test_a_write_to_no_element_changes_nothing():
    def empty_part(a):
        same = a.view(-1)
        same[3:3].mul_(a[0])
        return same * 2

    value, found = differences(lambda: empty_part(ROW), [ROW], DIRECTIONS, 1e-3, strict=True)
    assert torch.equal(value, ROW * 2)
    assert relative_error(found, expected_differences(lambda a: a * 2, [ROW], DIRECTIONS, 1e-3)) < 1e-5


@pytest.mark.parametrize("write", [lambda x, a: x.add_(a[0]), lambda x, a: x[1:].copy_(a[:2])])
def test_a_write_to_elements_that_share_memory_is_refused(write):
    with pytest.raises(ValueError, match=r"elements share memory.*clone"):
        differences(lambda: write((ROW * 2).unfold(0, 2, 1), ROW), [ROW], DIRECTIONS, 1e-3)


@pytest.mark.parametrize(
    "view",
    [
        lambda x: x.unfold(1, 2, 2),
        lambda x: x[:, ::2].t(),
        lambda x: x.diagonal(),
        lambda x: x.unfold(1, 3, 1)[0, 1],
    ],
)
def test_strides_that_do_not_meet_are_written_to(view):
    def written(a):
        x = a * 2
        view(x).mul_(a[0, 0])
        return x

    found = differences(lambda: written(A), [A], DIRECTIONS, 1e-3, strict=True)[1]
    assert relative_error(found, expected_differences(written, [A], DIRECTIONS, 1e-3)) < 1e-5
