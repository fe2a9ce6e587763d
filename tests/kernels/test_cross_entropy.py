"""Cross-entropy differences against float64, from 1e-7 to those that overflow an exponential."""

import pytest
import torch

from zo_triton import reference
from zo_triton.kernels import cross_entropy_difference


def _both(logits, difference, target, smoothing, device):
    expected = torch.full(difference.shape[:2], float("nan"), dtype=torch.float64)
    reference.cross_entropy_difference(expected, logits, difference, target, smoothing)
    out = torch.full(difference.shape[:2], float("nan"), device=device)
    cross_entropy_difference(out, logits.to(device), difference.to(device), target.to(device), smoothing)
    return out.cpu().double(), expected


def _case(classes, scale, samples=11):
    generator = torch.Generator().manual_seed(classes)
    logits = 3 * torch.randn(samples, classes, generator=generator)
    difference = scale * torch.randn(3, samples, classes, generator=generator)
    return logits, difference, torch.randint(0, classes, (samples,), generator=generator)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("scale", [1e-7, 1e-3, 1.0, 200.0])
@pytest.mark.parametrize("classes", [2, 10, 300], ids=["two", "digits", "more than a block"])
def test_relative_accuracy_at_any_size(classes, scale, smoothing, device):
    logits, difference, target = _case(classes, scale)
    out, expected = _both(logits, difference, target, smoothing, device)
    assert ((out - expected).abs() <= 2e-6 * difference.abs().amax(-1)).all()


def test_unlikely_class_that_leaps_is_summed_without_overflow(device):
    logits = torch.tensor([[0.0, -200.0], [0.0, -200.0]])
    difference = torch.tensor([[[0.0, 300.0], [0.0, 100.0]]])
    out, expected = _both(logits, difference, torch.tensor([0, 0]), 0.0, device)
    torch.testing.assert_close(out, expected, rtol=1e-6, atol=1e-30)


def test_certain_target_that_becomes_more_certain_keeps_its_digits(device):
    """The difference is -9e-17 here: the reference's float64 subtraction itself has lost it."""
    logits, difference = torch.tensor([[30.0, 0.0]]), torch.tensor([[[1e-3, 0.0]]])
    out, _ = _both(logits, difference, torch.tensor([0]), 0.0, device)
    other = torch.softmax(logits.double(), 1)[0, 1]
    expected = torch.log1p(other * torch.expm1(-difference[0, 0, 0].double()))
    torch.testing.assert_close(out[0, 0], expected, rtol=1e-5, atol=0)


def test_common_shift_of_all_logits_changes_nothing(device):
    logits, _, target = _case(10, 1.0)
    out, _ = _both(logits, torch.full((3, 11, 10), 7.0), target, 0.1, device)
    assert not out.any()


def test_strided_bfloat16_differences(device):
    logits, difference, target = _case(10, 1e-2)
    difference = difference.to(torch.bfloat16).permute(2, 0, 1).contiguous().permute(1, 2, 0)
    out, expected = _both(logits, difference, target, 0.0, device)
    assert ((out - expected).abs() <= 2e-6 * difference.float().abs().amax(-1)).all()


def test_label_smoothing_must_be_a_share(device):
    logits, difference, target = (tensor.to(device) for tensor in _case(2, 1.0))
    with pytest.raises(ValueError, match=r"label_smoothing must be in \[0, 1\], got 1.5"):
        cross_entropy_difference(torch.empty(3, 11, device=device), logits, difference, target, 1.5)
