"""Layers whose outputs are perturbed: torch multiplies the differences, and in the cache they get their signs.

A layer's evaluations are cut into pieces whose result stays near: so many of them at a time, or of a large one a
run of samples. Threads share the pieces.
"""

from __future__ import annotations

from functools import lru_cache, partial
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zo_triton._precision import convolution_factor, factor
from zo_triton.cpu.activating import kind_of
from zo_triton.cpu.activation import base_terms
from zo_triton.cpu.arrays import as_array, steps_of
from zo_triton.cpu.bfloat16 import is_emulated
from zo_triton.cpu.node_signs import NodeNoise, finish_nodes, node_noise
from zo_triton.cpu.threads import parallel, together
from zo_triton.directions import Directions

PIECE, PIECE_ROWS = 1 << 18, 512
"""Values in a piece, 1 MiB of float32; but so many rows of a linear layer at least, or its product pays too often
for packing the weight."""

SMALL_RESULT = 1 << 15
"""Values of the result below which a second thread costs more than it gives."""

_NOTHING = np.empty(0, np.float32)


def node_sample(out: Tensor, directions: Directions, application: int, first: int) -> None:
    """Same contract as the reference."""
    signs = torch.zeros(out.shape, dtype=torch.float32, device="cpu")
    ones = torch.ones(out.shape[0], dtype=torch.float32, device="cpu")
    node_epilogue(signs, None, directions, application, first, ones, "none")
    out.copy_(signs)


def node_epilogue(
    out: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    application: int,
    first: int,
    signed_eps: Tensor,
    activation: str,
) -> None:
    """Same contract as the reference, for float32 and bfloat16."""
    if out.numel() == 0:
        return
    result = out if out.is_contiguous() else out.contiguous()
    evaluations, samples = out.shape[:2]
    cut = _cut(evaluations, samples, out.numel() // evaluations, out.numel())
    layer = _layer(result, base_output, directions, application, first, signed_eps, activation, cut)
    items = evaluations * -(-samples // cut.run)
    together(finish_nodes, layer.arguments(layer.out, 0, 0), items, alone=out.numel() < SMALL_RESULT)
    if result is not out:
        out.copy_(result)


def node_linear(
    out: Tensor,
    difference: Tensor,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    application: int,
    first: int,
    samples: int,
    signed_eps: Tensor,
    activation: str,
    transposed: bool = False,
) -> None:
    """Same contract as the reference, for float32 and bfloat16."""
    if out.numel() == 0:
        return
    result = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device="cpu")
    evaluations, rows, features = out.shape
    cut = _cut(evaluations, samples, rows * min(features, PIECE // PIECE_ROWS), out.numel())
    layer = _layer(result, base_output, directions, application, first, signed_eps, activation, cut)
    turned = weight.detach() if transposed else weight.detach().T
    turned, difference = factor(turned.to(_product_dtype(out.dtype))), difference.detach()
    per_sample = rows // samples

    def run(start: int, stop: int) -> None:
        for p, last, n, final in cut.pieces[start:stop]:
            given, target = difference, result
            if len(cut.pieces) > 1:
                here = slice(n * per_sample, final * per_sample)
                given, target = given[p:last, here], target[p:last, here]
            given, target = given.reshape(-1, given.shape[2]), target.view(-1, features)
            if turned.dtype == out.dtype:
                torch.mm(factor(given), turned, out=target)
            else:
                target.copy_(given.to(turned.dtype) @ turned)
            layer.finish(layer.out, 0, 0, p, last, n)

    parallel(run, len(cut.pieces))
    if result is not out:
        out.copy_(result)


def node_conv2d(
    out: Tensor,
    difference: Tensor,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    application: int,
    first: int,
    signed_eps: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
) -> None:
    """Same contract as the reference, for float32 and bfloat16."""
    if out.numel() == 0:
        return
    result = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device="cpu")
    evaluations, samples = out.shape[:2]
    cut = _cut(evaluations, samples, out.numel() // evaluations, out.numel())
    layer = _layer(result, base_output, directions, application, first, signed_eps, activation, cut)
    dtype = _product_dtype(out.dtype)
    matrix, difference = convolution_factor(weight.detach().to(dtype)), difference.detach()
    convolve = partial(torch.conv2d, stride=stride, padding=padding, dilation=dilation, groups=groups)

    def run(start: int, stop: int) -> None:
        for p, last, n, final in cut.pieces[start:stop]:
            given = convolution_factor(difference[p:last, n:final].flatten(0, 1).to(dtype))
            product = convolve(given, matrix).to(out.dtype).contiguous()
            layer.finish(as_array(product.view(last - p, final - n, -1)), p, n, p, last, n)

    parallel(run, len(cut.pieces))
    if result is not out:
        out.copy_(result)


class _Cut(NamedTuple):
    """How a layer's result falls into pieces.

    Attributes:
        run: Samples in a piece.
        pieces: Evaluations p … last - 1 of samples n … final - 1, each as (p, last, n, final).
    """

    run: int
    pieces: tuple[tuple[int, int, int, int], ...]


@lru_cache(maxsize=64)
def _cut(evaluations: int, samples: int, each: int, size: int) -> _Cut:
    """How a result of ``size`` values falls into pieces, if an evaluation has ``each`` on its way, at most."""
    run = min(-(-samples // 4) * 4, max(4, PIECE // max(1, each // samples) // 4 * 4))
    if evaluations == 1 and samples > 4:
        run = min(run, -(-samples // 8) * 4)  # two runs at least, for two threads
    together = 1
    if run >= samples:  # of a large result another thread gets its part
        worthy = evaluations if size < SMALL_RESULT else (evaluations + 1) // 2
        together = max(1, min(PIECE // max(1, each), worthy))
    pieces = tuple(
        (p, min(evaluations, p + together), n, min(samples, n + run))
        for n in range(0, samples, run)
        for p in range(0, evaluations, together)
    )
    return _Cut(run, pieces)


class _Layer(NamedTuple):
    """One call: what :func:`finish_nodes` takes."""

    out: np.ndarray  # [P, N, Q]
    noise: NodeNoise
    signed_eps: np.ndarray
    sides: int
    terms: tuple[np.ndarray, np.ndarray, np.ndarray]
    kind: int
    run: int  # samples in a piece

    def arguments(self, source: np.ndarray, p: int, n: int) -> tuple[Any, ...]:
        """Of :func:`finish_nodes` but for the items; ``source`` begins at evaluation p and sample n."""
        return (
            self.out, source, p, n, *self.noise, self.signed_eps, self.sides, *self.terms, self.kind, self.run,
        )  # fmt: skip

    def finish(self, source: np.ndarray, source_p: int, source_n: int, p: int, last: int, n: int) -> None:
        """What follows the product of the evaluations p … last - 1, for the run that begins at sample n."""
        at = n // self.run * len(self.out)
        finish_nodes(*self.arguments(source, source_p, source_n), at + p, at + last)


def _layer(
    out: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    application: int,
    first: int,
    signed_eps: Tensor,
    activation: str,
    cut: _Cut,
) -> _Layer:
    """One call: out [P, N, *] or [P, R, *], contiguous."""
    samples = cut.pieces[-1][3]
    flat = as_array(out.view(out.shape[0], samples, -1))
    terms = [_NOTHING] * 3
    if activation != "none":
        assert base_output is not None
        z = base_output.detach().float().flatten()
        terms = [term.contiguous().numpy() for term in (z, *base_terms(z, activation))]
    noise = node_noise(directions, application, first, *flat.shape[1:])
    steps = steps_of(signed_eps)
    first_term, second_term, third_term = terms
    return _Layer(
        flat, noise, steps, steps.size // directions.num, (first_term, second_term, third_term),
        kind_of(activation), cut.run,
    )  # fmt: skip


def _product_dtype(dtype: torch.dtype) -> torch.dtype:
    """In which to multiply differences of this one."""
    return torch.float32 if dtype == torch.float32 or is_emulated() else dtype
