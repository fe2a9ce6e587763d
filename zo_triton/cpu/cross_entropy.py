"""Each sample's cross-entropy difference, from logits that never meet their perturbed selves.

With p = softmax(base logits) and target class y:  loss difference = log1p(Σ_i p_i·expm1(Δ_i - Δ_y)).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import float32, uintp
from torch import Tensor

from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.compiling import device
from zo_triton.cpu.scalars import expm1, load, log1p
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together

GRAIN = 4
"""Evaluations that a thread takes at a time."""

SMALL_ELEMENTS = 1 << 13
"""Below this many logit differences a second thread costs more than it gives."""

_LARGE, _NEARLY_ALL = np.float32(30.0), np.float32(-0.5)


def cross_entropy_difference(
    out: Tensor, logits: Tensor, difference: Tensor, target: Tensor, label_smoothing: float
) -> None:
    """Same contract as the reference; fastest if ``difference`` lies in memory as [P, C, N]."""
    if difference.numel() == 0:
        return
    probabilities = as_array(torch.softmax(logits.detach().float(), dim=-1).t().contiguous())
    lying = difference.transpose(1, 2)
    evaluations, classes, samples = lying.shape
    inner = lying.stride()[1:] == (samples, 1)
    slot = lying.stride(0) // samples if evaluations > 1 else classes
    if not inner or (evaluations > 1 and (lying.stride(0) % samples or slot < classes)):
        lying, slot = lying.contiguous(), classes
    moved = as_array(lying.as_strided((evaluations, slot, samples), (slot * samples, samples, 1)))
    result = out if out.is_contiguous() and out.dtype == torch.float32 else torch.empty(out.shape)
    target_array, result_array, smoothing = (
        target.contiguous().numpy(),
        result.numpy(),
        np.float32(label_smoothing),
    )
    arguments = result_array, probabilities, moved, target_array, smoothing
    together(_kernel, arguments, evaluations, GRAIN, alone=lying.numel() < SMALL_ELEMENTS)
    if result is not out:
        out.copy_(result)


@device
def _long(probabilities, moved, own, highest):
    """Log of Σ_c p_c·exp(Δ_c - Δ_y) of one sample, in float64 with the largest exponent taken out."""
    total = 0.0
    for c in range(probabilities.shape[0]):
        total += probabilities[c] * math.exp(float(load(moved[c])) - float(own) - float(highest))
    return float32(float(highest) + math.log(total))


@device
def sample_losses(result, moved, probabilities, target, first, count, smoothing, work):
    """Loss differences of one evaluation for the samples first … first + count - 1, written there in result.

    moved: their logit differences [at least C, at least count], float32 or uint16. probabilities [C, N],
    target [N]: of all samples. work: float32 [4, at least count], scratch.
    """
    classes, at = probabilities.shape[0], uintp(first)
    own, total, highest, mean = work[0], work[1], work[2], work[3]
    for n in range(count):
        own[n] = load(moved[target[first + n], n])
        total[n], highest[n], mean[n] = float32(0.0), float32(0.0), float32(0.0)
    for c in range(classes):
        source, weight = moved[c], probabilities[c]
        for n in range(count):
            gap = load(source[n]) - own[n]
            total[n] += weight[at + uintp(n)] * expm1(gap)
            highest[n] = max(highest[n], gap)
        if smoothing != float32(0.0):
            for n in range(count):
                mean[n] += load(source[n]) - own[n]
    for n in range(count):
        result[at + uintp(n)] = log1p(total[n]) - smoothing * mean[n] / float32(classes)
    for n in range(count):
        # Long steps need no protection from cancellation, but the sum above may overflow, or cancel against
        # the 1 in log1p; a NaN takes this way too and stays one.
        if not (highest[n] < _LARGE and total[n] > _NEARLY_ALL):
            exact = _long(probabilities[:, first + n], moved[:, n], own[n], highest[n])
            result[first + n] = exact - smoothing * mean[n] / float32(classes)


@shared
def _kernel(out, probabilities, difference, target, smoothing, start, stop):
    """Evaluations start … stop - 1: out [P, N], probabilities [C, N], difference [P, at least C, N]."""
    samples = probabilities.shape[1]
    work = np.empty((4, samples), np.float32)
    for p in range(start, stop):
        sample_losses(out[p], difference[p], probabilities, target, 0, samples, smoothing, work)
