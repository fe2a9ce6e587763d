"""Each sample's cross-entropy difference, from logits that never meet their perturbed selves.

With p = softmax(base logits) and target class y:  loss difference = log1p(Σ_i p_i·expm1(Δ_i - Δ_y)).
"""

from __future__ import annotations

import math

import numpy as np
import torch
from llvmlite import ir
from numba import float32, float64, types, uintp
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from zo_triton._memory import in_natural_order
from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.scalars import EXPM1, SHORT, expm1, load, log1p
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together
from zo_triton.cpu.turning import turn_rows
from zo_triton.cpu.vectors import LANES, WIDTH, load_bfloat16, load_vector, store_vector

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
    labels, alone = target.contiguous().numpy(), difference.numel() < SMALL_ELEMENTS
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


@intrinsic
def _short_steps(context, out, moved, moved_bytes, own, probabilities, probability_bytes, count, narrow):
    """``out[j] = Σ_c p[c, j]·expm1(moved[c, j] - own[j])`` for 16 lanes j; whether all exponents are small.

    Up to :data:`SHORT` it is what ``expm1`` makes of them, bit for bit unless subnormal, without the steps that
    only longer ones need. All by address, rows so many bytes apart: out and own float32 [16], moved and
    probabilities float32 [count, 16], moved bfloat16 if ``narrow``.
    """

    def codegen(context, builder, signature, arguments):
        out, moved, moved_bytes, own, probabilities, probability_bytes, count, narrow = arguments
        floats, words = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(ir.IntType(32), WIDTH)
        multiply_add = cgutils.get_or_insert_function(
            builder.module, ir.FunctionType(floats, [floats] * 3), f"llvm.fma.v{WIDTH}f32"
        )
        total, largest = (cgutils.alloca_once_value(builder, kind(None)) for kind in (floats, words))
        here = cgutils.alloca_once(builder, floats)
        own = load_vector(builder, own)
        with cgutils.for_range(builder, count) as loop:
            at = builder.add(moved, builder.mul(loop.index, moved_bytes))
            with builder.if_else(narrow) as (short, full):
                for branch, load_row in ((short, load_bfloat16), (full, load_vector)):
                    with branch:
                        builder.store(load_row(builder, at), here)
            x = builder.fsub(builder.load(here), own)
            p = floats([float(EXPM1[0])] * WIDTH)
            for coefficient in EXPM1[1:]:
                p = builder.call(multiply_add, [p, x, floats([float(coefficient)] * WIDTH)])
            value = builder.call(multiply_add, [builder.fmul(p, x), x, x])
            at = builder.add(probabilities, builder.mul(loop.index, probability_bytes))
            weighted = builder.fmul(load_vector(builder, at), value)
            builder.store(builder.fadd(builder.load(total), weighted), total)
            size = builder.and_(builder.bitcast(x, words), words([0x7FFFFFFF] * WIDTH))
            before = builder.load(largest)
            builder.store(builder.select(builder.icmp_unsigned(">", size, before), size, before), largest)
        store_vector(builder, builder.load(total), out)
        # Bits of floats are in order like the floats, and those of what is not a number come after all others.
        limit = int(SHORT.view(np.uint32))
        long = builder.icmp_unsigned(">", builder.load(largest), words([limit] * WIDTH))
        return builder.icmp_unsigned("==", builder.bitcast(long, ir.IntType(WIDTH)), ir.IntType(WIDTH)(0))

    address = types.uintp
    return (
        types.boolean(address, address, address, address, address, address, types.intp, types.boolean),
        codegen,
    )


@device
def sample_losses(result, moved, logits, probabilities, target, first, count, smoothing, work):
    """Loss differences of one evaluation for the samples first … first + count - 1, written there in result.

    moved: their logit differences [at least C, at least count], float32 or uint16. Of all samples: logits
    [at least C, at least N], probabilities [C, N], target [N]. work: float32 [4, at least count], scratch.
    """
    classes, at = probabilities.shape[0], uintp(first)
    own, total = work[0], work[1]
    for n in range(count):
        own[n] = load(moved[target[first + n], n])
    done = 0
    if smoothing == float32(0.0):
        moved_at, probabilities_at = (
            uintp(moved.ctypes.data),
            uintp(probabilities.ctypes.data) + uintp(4) * at,
        )
        while done + WIDTH <= count and _short_steps(
            uintp(total.ctypes.data) + uintp(4 * done), moved_at + uintp(moved.itemsize * done),
            uintp(moved.strides[0]), uintp(own.ctypes.data) + uintp(4 * done),
            probabilities_at + uintp(4 * done), uintp(probabilities.strides[0]), classes, moved.itemsize == 2,
        ):  # fmt: skip
            done += WIDTH
        for n in range(done):
            result[at + uintp(n)] = log1p(total[n])
    if done < count:
        _long_steps(result, moved, logits, probabilities, first, done, count, smoothing, work)


@routine
def _long_steps(result, moved, logits, probabilities, first, start, stop, smoothing, work):
    """The same for the samples first + start … first + stop - 1, for steps of any length.

    work[0]: the logit difference of each one's own class.
    """
    classes, at = probabilities.shape[0], uintp(first)
    own, total, highest, mean = work[0], work[1], work[2], work[3]
    for n in range(start, stop):
        total[n], highest[n], mean[n] = float32(0.0), float32(0.0), float32(0.0)
    for c in range(classes):
        source, weight = moved[c], probabilities[c]
        for n in range(start, stop):
            gap = load(source[n]) - own[n]
            total[n] += weight[at + uintp(n)] * expm1(gap)
            highest[n] = max(highest[n], gap)
        if smoothing != float32(0.0):
            for n in range(start, stop):
                mean[n] += load(source[n]) - own[n]
    for n in range(start, stop):
        result[at + uintp(n)] = log1p(total[n]) - smoothing * mean[n] / float32(classes)
    for n in range(start, stop):
        # Long steps need no protection from cancellation, but the sum above may overflow, or cancel against
        # the 1 in log1p; a NaN takes this way too and stays one.
        if not (highest[n] < _LARGE and total[n] > _NEARLY_ALL):
            exact = _exactly(logits[:classes, first + n], moved[:classes, n], own[n])
            result[first + n] = exact - smoothing * mean[n] / float32(classes)


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
