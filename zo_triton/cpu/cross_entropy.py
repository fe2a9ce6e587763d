"""Each sample's cross-entropy difference, from logits that never meet their perturbed selves.

With p = softmax(base logits) and target class y:  loss difference = log1p(Σ_i p_i·expm1(Δ_i - Δ_y)).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from numba import float32, float64, uintp
from torch import Tensor

from zo_triton._memory import in_natural_order
from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.cross_entropy_lanes import sum_steps
from zo_triton.cpu.scalars import expm1, load, log1p
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together
from zo_triton.cpu.turning import turn_rows
from zo_triton.cpu.vectors import LANES, WIDTH

GRAIN = 4
"""Evaluations that a thread takes at a time."""

FEW_ITEMS = 16
"""With fewer runs of samples the evaluations are shared out as well."""

SMALL_ELEMENTS = 1 << 13
"""Below this many logit differences a second thread costs more than it gives."""

_LARGE, _NEARLY_ALL = np.float32(30.0), np.float32(-0.5)


def cross_entropy_difference(
    out: Tensor, logits: Tensor, difference: Tensor, target: Tensor, label_smoothing: float
) -> None:
    """Same contract as the reference; fastest if ``difference`` lies in memory as [P, C, N] or as [P, N, C]."""
    if difference.numel() == 0:
        return
    logits, smoothing = logits.detach().float().contiguous(), np.float32(label_smoothing)
    shares = torch.softmax(logits, dim=-1)
    fits = out.is_contiguous() and out.dtype == torch.float32
    result = out if fits else torch.empty(out.shape, dtype=torch.float32, device="cpu")
    labels, alone = labels_of(target, logits.shape[1]), difference.numel() < SMALL_ELEMENTS
    if difference.is_contiguous() and in_natural_order(difference):
        evaluations, runs = difference.shape[0], -(-difference.shape[1] // LANES)
        groups = min(evaluations, -(-FEW_ITEMS // runs))
        given = result.numpy(), logits.numpy(), shares.numpy(), as_array(difference), labels, smoothing
        together(_rows_kernel, (*given, groups), runs * groups, alone=alone)
    else:
        base, probabilities = (each.t().contiguous().numpy() for each in (logits, shares))
        given = result.numpy(), base, probabilities, _slots(difference), labels, smoothing
        together(_kernel, given, difference.shape[0], GRAIN, alone=alone)
    if result is not out:
        out.copy_(result)


def labels_of(target: Tensor, classes: int) -> np.ndarray:
    """Labels as an array; kernels read memory by them.

    Raises:
        ValueError: One names no class.
    """
    labels = target.long().contiguous().numpy()
    # As an unsigned number a negative one is larger than any class.
    if labels.size and labels.view(np.uint64).max() >= classes:
        raise ValueError(f"labels must be in [0, {classes}), got {labels.min()} to {labels.max()}.")
    return labels


def _slots(difference: Tensor) -> np.ndarray:
    """[P, N, C] as the memory [P, at least C, N] it lies in, or as a copy that lies so."""
    lying = difference.transpose(1, 2)
    evaluations, classes, samples = lying.shape
    inner = lying.stride()[1:] == (samples, 1)
    slot = lying.stride(0) // samples if evaluations > 1 else classes
    if not inner or (evaluations > 1 and (lying.stride(0) % samples or slot < classes)):
        lying, slot = lying.contiguous(), classes
    return as_array(lying.as_strided((evaluations, slot, samples), (slot * samples, samples, 1)))


@device
def _exactly(logits, moved, own):
    """Σ_c exp(a_c + Δ_c) over Σ_c exp(a_c) as a logarithm, less Δ_y: of one sample, in float64.

    From logits a, since the share of a class may have underflowed that the step makes the largest.
    """
    highest, top = -math.inf, -math.inf
    for c in range(moved.shape[0]):
        highest = max(highest, float64(logits[c]))
        top = max(top, float64(logits[c]) + float64(load(moved[c])))
    before, after = 0.0, 0.0
    for c in range(moved.shape[0]):
        before += math.exp(float64(logits[c]) - highest)
        after += math.exp(float64(logits[c]) + float64(load(moved[c])) - top)
    return float32((top - highest - float64(own)) + math.log(after / before))


@routine
def sample_losses(result, moved, logits, probabilities, target, first, count, smoothing, work):
    """Loss differences of one evaluation for the samples first … first + count - 1, written there in result.

    moved: their logit differences [at least C, at least count], float32 or uint16. Of all samples: logits
    [at least C, at least N], probabilities [C, N], target [N]. work: float32 [4, at least count], scratch.
    """
    classes, at = probabilities.shape[0], uintp(first)
    own, total, highest, mean = work[0], work[1], work[2], work[3]
    for n in range(count):
        own[n] = load(moved[target[first + n], n])
    alone = count // WIDTH * WIDTH
    for n in range(0, alone, WIDTH):
        sum_steps(*_sixteen(work, moved, probabilities, first, n))
    for n in range(alone, count):
        total[n], highest[n] = float32(0.0), float32(0.0)
        for c in range(classes):
            gap = load(moved[c, n]) - own[n]
            total[n] += probabilities[c, at + uintp(n)] * expm1(gap)
            highest[n] = max(highest[n], gap)
    for n in range(count):
        mean[n] = float32(0.0)
    if smoothing != float32(0.0):
        for c in range(classes):
            source = moved[c]
            for n in range(count):
                mean[n] += load(source[n]) - own[n]
    for n in range(count):
        result[at + uintp(n)] = log1p(total[n]) - smoothing * mean[n] / float32(classes)
    for n in range(count):
        # Long steps need no protection from cancellation, but the sum above may overflow, or cancel against
        # the 1 in log1p; a NaN takes this way too and stays one.
        if not (highest[n] < _LARGE and total[n] > _NEARLY_ALL):
            exact = _exactly(logits[:classes, first + n], moved[:classes, n], own[n])
            result[first + n] = exact - smoothing * mean[n] / float32(classes)


@device
def _sixteen(work, moved, probabilities, first, done):
    """Where the samples first + done … first + done + 15 lie; see ``cross_entropy_lanes``."""
    where, lanes = uintp(4 * done), uintp(4 * (first + done))
    return (
        uintp(work[1].ctypes.data) + where, uintp(work[2].ctypes.data) + where,
        uintp(moved.ctypes.data) + uintp(moved.itemsize * done), uintp(moved.strides[0]),
        uintp(work[0].ctypes.data) + where, uintp(probabilities.ctypes.data) + lanes,
        uintp(probabilities.strides[0]), probabilities.shape[0], moved.itemsize == 2,
    )  # fmt: skip


@shared
def _kernel(out, logits, probabilities, difference, target, smoothing, start, stop):
    """Evaluations start … stop - 1: out [P, N], logits and probabilities [C, N], difference [P, at least C, N]."""
    samples = probabilities.shape[1]
    work = np.empty((4, samples), np.float32)
    for p in range(start, stop):
        sample_losses(out[p], difference[p], logits, probabilities, target, 0, samples, smoothing, work)


@shared
def _rows_kernel(out, logits, probabilities, difference, target, smoothing, groups, start, stop):
    """The same for logits and probabilities [N, C], difference [P, N, C]: 32 samples are turned over at a time.

    Items start … stop - 1, each a run of samples and a group of evaluations.
    """
    evaluations, samples, classes = difference.shape
    shares, moved = np.empty((classes, LANES), np.float32), np.empty((classes, LANES), np.float32)
    work = np.empty((4, LANES), np.float32)
    for item in range(start, stop):
        first, group = item // groups * LANES, item % groups
        count = min(LANES, samples - first)
        some, labels = logits[first : first + count].T, target[first : first + count]
        turn_rows(shares, probabilities, first, count)
        for p in range(group * evaluations // groups, (group + 1) * evaluations // groups):
            turn_rows(moved, difference[p], first, count)
            losses = out[p, first : first + count]
            sample_losses(losses, moved, some, shares, labels, 0, count, smoothing, work)
