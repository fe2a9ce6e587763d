"""Exact differences of the activations: against float64 subtraction, and at tiny δ against the derivative."""

import pytest
import torch

from zo_triton import reference
from zo_triton.kernels import activation_difference
from zo_triton.kernels.activation import ACTIVATIONS
from zo_triton.reference.operations import ACTIVATIONS as FUNCTIONS

FOUR_ROUNDINGS = 4 * 2.0**-23
BASES = torch.cat(
    [torch.linspace(-12, 12, 97), torch.tensor([-100.0, -30.0, -1e-5, -0.0, 1e-5, 30.0, 100.0])]
)
SIZES = torch.tensor([1e-6, 1e-4, 1e-2, 0.49, 0.51, 1.0, 3.0, 10.0, 40.0])


def _difference(base, difference, activation, device):
    out = torch.full_like(difference, float("nan"))
    out = out.to(device)
    activation_difference(out, base.to(device), difference.to(device), activation)
    return out.cpu()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_difference_is_exact_to_roundings_of_delta(activation, device):
    difference = torch.cat([SIZES, -SIZES])[:, None].expand(-1, len(BASES)).contiguous()
    out = _difference(BASES, difference, activation, device)
    expected = torch.empty(difference.shape, dtype=torch.float64)
    reference.activation_difference(expected, BASES, difference, activation)
    # b = a + δ rounds once in float32, which is worth an ulp of a at a kink's far side and nowhere else.
    rounded = 2.0**-24 * (BASES.abs() * (difference.abs() > BASES.abs()))
    assert ((out - expected).abs() <= FOUR_ROUNDINGS * difference.abs() + rounded + 1e-14).all()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_tiny_differences_follow_the_derivative(activation, device):
    base = BASES[BASES != 0].double().requires_grad_()
    (slope,) = torch.autograd.grad(FUNCTIONS[activation](base).sum(), base)
    difference = torch.full((1, base.numel()), 1e-12)
    out = _difference(base.detach().float(), difference, activation, device)[0]
    assert ((out.double() - 1e-12 * slope).abs() <= FOUR_ROUNDINGS * 1e-12).all()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid"])
def test_saturated_units_keep_their_relative_accuracy(activation, device):
    """tanh(10.1) - tanh(10) is 7e-10: it is there, to six digits, where a subtraction gives 0."""
    base, difference = torch.tensor([-20.0, -10.0, 10.0, 20.0]), torch.full((1, 4), 0.1)
    out = _difference(base, difference, activation, device)[0].double()
    a, b = base.double(), base.double() + difference[0].double()
    if activation == "sigmoid":
        a, b = a / 2, b / 2
    exact = torch.sinh(b - a) / (torch.cosh(a) * torch.cosh(b)) * (0.5 if activation == "sigmoid" else 1.0)
    assert ((out - exact).abs() <= 1e-5 * exact).all()


def test_result_may_overwrite_the_difference_and_be_bfloat16(device):
    base, difference = torch.randn(5, 7, generator=torch.manual_seed(0)), torch.ones(3, 5, 7)
    difference = (difference * torch.tensor([0.5, -1.0, 2.0])[:, None, None]).to(torch.bfloat16).to(device)
    expected = torch.empty(difference.shape, dtype=torch.float64)
    reference.activation_difference(expected, base, difference.cpu(), "tanh")
    activation_difference(difference, base.to(device), difference, "tanh")
    assert ((difference.cpu().double() - expected).abs() <= 2.0**-8 * expected.abs()).all()


def test_layout_views_are_read_and_written_where_they_lie(device):
    generator = torch.Generator().manual_seed(0)
    lying = torch.randn(7, 3, 5, generator=generator)
    base, difference = torch.randn(7, 5, generator=generator).T, lying.permute(1, 2, 0)
    out = torch.full((7, 3, 5), float("nan"), device=device).permute(1, 2, 0)
    activation_difference(out, base.to(device), difference.to(device), "relu")
    expected = torch.empty(3, 5, 7, dtype=torch.float64)
    reference.activation_difference(expected, base, difference, "relu")
    torch.testing.assert_close(out.cpu().double(), expected, rtol=0, atol=1e-6)


def test_empty_batch_and_unknown_name(device):
    empty = torch.empty(2, 0, 3, device=device)
    activation_difference(empty, torch.empty(0, 3, device=device), empty, "relu")
    with pytest.raises(ValueError, match=r"unknown activation 'swish'; choose one of"):
        activation_difference(empty, torch.empty(0, 3, device=device), empty, "swish")
