"""Exact differences against f(a+δ) - f(a) in float64, from steps that cancel to steps that saturate."""

import pytest
import torch

from zo_triton import cpu, reference

ACTIVATIONS = ("relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh")
SIZES = {"cancelling": 1e-6, "ordinary": 1e-2, "across-the-kink": 1.0, "saturating": 10.0}


def _compare(function, out, *arguments):
    out.fill_(torch.nan)
    getattr(cpu, function)(out, *arguments)
    expected = torch.empty(out.shape, dtype=torch.float64)
    getattr(reference, function)(expected, *arguments)
    return out.double(), expected


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation, size):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(37, 29, generator=generator) * 4
    step = torch.randn(3, 37, 29, generator=generator) * size
    ours, expected = _compare("activation_difference", torch.empty_like(step), base, step, activation)
    assert (ours - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert ((ours - expected).abs() / expected.abs().clamp_min(1e-30)).median() <= 3e-7
    lying = step.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(
        _compare("activation_difference", torch.empty_like(lying), base, lying, activation)[0], ours
    )


def test_activation_of_a_base_of_any_shape():
    base, step = torch.randn(2, 3, 4, 5), torch.randn(6, 2, 3, 4, 5)
    ours, expected = _compare("activation_difference", torch.empty_like(step), base, step, "tanh")
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 60.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("layout", ["samples-inside", "classes-inside"])
def test_cross_entropy(size, smoothing, layout):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(33, 10, generator=generator) * 3
    target = torch.randint(0, 10, (33,), generator=generator)
    step = torch.randn(4, 33, 10, generator=generator) * size
    if layout == "samples-inside":
        step = step.transpose(1, 2).contiguous().transpose(1, 2)
    out = torch.empty(4, 33)
    ours, expected = _compare("cross_entropy_difference", out, logits, step, target, smoothing)
    assert (ours - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_not_a_number_stays_one():
    step = torch.zeros(1, 2, 3)
    step[0, 1, 2] = torch.nan
    out = torch.empty(1, 2)
    cpu.cross_entropy_difference(out, torch.zeros(2, 3), step, torch.tensor([0, 1]), 0.0)
    assert out.isnan().tolist() == [[False, True]]
