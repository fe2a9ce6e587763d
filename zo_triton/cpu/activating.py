"""Activations' exact differences in kernels: ReLU's is compiled into each, another's once and apart when one runs.

A network has one activation, most often ReLU: with all rules in it a small MLP's kernel took 2.5 CPU seconds of 10
longer to compile.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from numba import uintp
from torch import Tensor

from zo_triton.cpu.activation import (
    NAMES,
    NONE,
    RELU,
    SIGMOID,
    SILU,
    base_terms,
    gelu_steps,
    gelu_tanh_steps,
    relu_steps,
    sigmoid_steps,
    tanh_steps,
)
from zo_triton.cpu.apart import address_of, call_at, floats_at
from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.compiling import device, kernel, routine, wide_vectors
from zo_triton.cpu.scalars import load, store
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together


@device
def _arrays(steps_at, a_at, first_at, second_at, count):
    return (
        floats_at(steps_at, count),
        floats_at(a_at, count),
        floats_at(first_at, count),
        floats_at(second_at, count),
    )


@routine
def _tanh(steps_at, a_at, first_at, second_at, count):
    steps, a, first, second = _arrays(steps_at, a_at, first_at, second_at, count)
    tanh_steps(steps, a, first, second, uintp(0), count)


@routine
def _sigmoid(steps_at, a_at, first_at, second_at, count):
    steps, a, first, second = _arrays(steps_at, a_at, first_at, second_at, count)
    sigmoid_steps(steps, a, first, second, uintp(0), count, SIGMOID)


@routine
def _silu(steps_at, a_at, first_at, second_at, count):
    steps, a, first, second = _arrays(steps_at, a_at, first_at, second_at, count)
    sigmoid_steps(steps, a, first, second, uintp(0), count, SILU)


@routine
def _gelu(steps_at, a_at, first_at, second_at, count):
    steps, a, first, _ = _arrays(steps_at, a_at, first_at, second_at, count)
    gelu_steps(steps, a, first, uintp(0), count)


@routine
def _gelu_tanh(steps_at, a_at, first_at, second_at, count):
    steps, a, first, second = _arrays(steps_at, a_at, first_at, second_at, count)
    gelu_tanh_steps(steps, a, first, second, uintp(0), count)


@kernel
def _tanh_kernel():
    return address_of(_tanh)


@kernel
def _sigmoid_kernel():
    return address_of(_sigmoid)


@kernel
def _silu_kernel():
    return address_of(_silu)


@kernel
def _gelu_kernel():
    return address_of(_gelu)


@kernel
def _gelu_tanh_kernel():
    return address_of(_gelu_tanh)


_APART = {
    "tanh": _tanh_kernel, "sigmoid": _sigmoid_kernel, "silu": _silu_kernel, "gelu": _gelu_kernel,
    "gelu_tanh": _gelu_tanh_kernel,
}  # fmt: skip


@cache
def kind_of(activation: str) -> int:
    """What kernels know an activation by: NONE, RELU, or the address of its rule, which belongs to this process."""
    return _APART[activation]() if activation in _APART else NAMES.index(activation)


@device
def activate(steps, a, first, second, at, count, kind):
    """Replaces pre-activation differences by the activation's.

    steps: float32 [count or more]; a, first, second: float32, read from the unsigned offset ``at`` on. kind: from
    :func:`kind_of`.
    """
    if kind == RELU:
        relu_steps(steps, a, at, count)
    elif kind != NONE:
        call_at(uintp(kind), steps, a, first, second, at, count)


@shared
def _activation_kernel(out, difference, a, first, second, kind, start, stop):
    """Evaluations start … stop - 1 of out, difference [P, M]; a, first, second float32 [M]."""
    wide_vectors()
    n = a.shape[0]
    steps = np.empty(n, np.float32)
    for p in range(start, stop):
        source, target = difference[p], out[p]
        for j in range(n):
            steps[j] = load(source[j])
        activate(steps, a, first, second, uintp(0), n, kind)
        for j in range(n):
            store(target, j, steps[j])


def activation_difference(out: Tensor, base: Tensor, difference: Tensor, activation: str) -> None:
    """``out[p] = f(base + difference[p]) - f(base)``; same contract as the reference."""
    evaluations = difference.shape[0]
    base = base.float()
    first, second = base_terms(base, activation)
    source = difference
    if base.dim() == 2 and source.stride(1) == 1 and source.stride(2) == base.shape[0]:  # [P, F, N] in memory
        source, base, first, second = (t.transpose(-2, -1) for t in (source, base, first, second))
    terms = [term.contiguous().view(-1).numpy() for term in (base, first, second)]
    moved = as_array(source.contiguous().view(evaluations, base.numel()))
    result = torch.empty(source.shape, dtype=out.dtype, device="cpu")
    target, kind = as_array(result.view(evaluations, -1)), kind_of(activation)
    together(_activation_kernel, (target, moved, *terms, kind), evaluations)
    out.copy_(result if source is difference else result.transpose(-2, -1))


@routine
def activate_rows(out, first, a, first_term, second_term, kind):
    """Pre-activation differences [n, rows] become the activation's; the base's terms begin at row ``first``."""
    samples, rows = out.shape
    steps = np.empty(rows, np.float32)
    for j in range(samples):
        line = out[j]
        for row in range(rows):
            steps[row] = load(line[row])
        activate(steps, a[first + j], first_term[first + j], second_term[first + j], np.uintp(0), rows, kind)
        for row in range(rows):
            store(line, row, steps[row])
