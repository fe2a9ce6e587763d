"""One perturbed linear layer in the engine's layout: what its two ways of drawing U share.

Everything is feature-major: differences lie as [P, features, N], so that samples fill the vector lanes, a layer
is W @ δ, and an evaluation is one piece of memory.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numba import uintp
from torch import Tensor

from zo_triton._precision import factor
from zo_triton.cpu.activating import activate
from zo_triton.cpu.activation import NONE, RELU
from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.bfloat16 import is_emulated
from zo_triton.cpu.compiling import routine
from zo_triton.cpu.scalars import load, store
from zo_triton.cpu.sharing import SharedKernel
from zo_triton.cpu.threads import parallel, together
from zo_triton.cpu.vectors import LANES, WIDTH, add_run, finish_run
from zo_triton.directions import Directions

TILE_ELEMENTS = 1 << 18
"""Weights that are cast, or drawn, at a time: 512 KiB in bfloat16, half of a level-2 cache."""

GROUP_ELEMENTS = 1 << 18
"""Elements of W @ δ that one GEMM makes before the epilogue takes them from the cache."""

TOTALS_ELEMENTS = 1 << 13
"""Float32 totals of a sign product that the epilogue takes together: 32 KiB, 32 samples of 256 features."""

PRODUCT_SHARE, COPIES_SHARE = 8, 16
"""W @ δ that waits for its epilogue, and copies of W, may take one part in so many of a layer's result."""

SMALL_PRODUCT = 1 << 18
"""Bytes of W @ δ that may wait, however small the result is."""

SMALL_COPIES = 1 << 17
"""Bytes that copies of W may take, however small the result is: a GEMM's call costs 10 to 20 µs by itself."""

WIDENED_ELEMENTS = 1 << 14
"""Of W @ δ in float32 before they are rounded: 64 KiB."""

GEMM_SAMPLES = 128
"""Fewer samples than that in a bfloat16 GEMM, and its call would cost as much as its work."""


@dataclass(frozen=True)
class Layer:
    """One call, in the engine's layout; arrays view the tensors' memory."""

    directions: Directions
    sides: int
    signed_eps: np.ndarray
    out: np.ndarray  # [P, at least out, N]
    base: np.ndarray  # float32 [N / 32, in, 32], both rounded up to 32; for a dense product [in, N]
    fixed: tuple[np.ndarray, np.ndarray]  # that of a first layer in bfloat16, in fixed point: see fixed_point
    difference: Tensor | None  # [P, at least in, N]
    moved: np.ndarray  # the same as the kernels see it, empty for None
    weight: Tensor  # [out, in], a view if ``transposed``
    transposed: bool  # whether the parameter, and so the field's tensor, is [in, out]
    stack: Tensor | None  # [copies, out, in], see _stack
    packed: np.ndarray  # W for the product in ``bfloat16``; empty where torch's GEMM does it
    weight_id: int
    bias_id: int
    terms: tuple[np.ndarray, np.ndarray, np.ndarray]  # [out, N] each, what the activation reads of the base
    kind: int
    dtype: torch.dtype
    samples: int

    @property
    def inline_product(self) -> bool:
        """Whether the kernels compute W @ δ themselves, a run of samples at a time."""
        return self.packed.shape[0] > 0

    @property
    def is_widened(self) -> bool:
        """Whether W @ δ is made in float32, an evaluation at a time, and then rounded: see :func:`carry`."""
        return self.dtype != torch.float32 and is_emulated()

    @property
    def evaluation_bytes(self) -> int:
        """Size of one evaluation's result."""
        return self.weight.shape[0] * self.samples * self.dtype.itemsize

    def group(self, directions: int) -> int:
        """Directions whose W @ δ a thread with so many of them makes before it runs their epilogue."""
        if self.is_widened:
            return 1
        each = max(1, self.sides * self.evaluation_bytes)
        share = max(SMALL_PRODUCT, self.directions.num * each // PRODUCT_SHARE) * directions
        most = min(GROUP_ELEMENTS * self.dtype.itemsize, share // self.directions.num)
        return max(1, min(directions, most // each))


def copies_of(matrix_bytes: int, samples: int, result_bytes: int) -> int:
    """How many copies of a bfloat16 matrix may lie there, for evaluations to go through a GEMM together."""
    enough = -(-GEMM_SAMPLES // max(1, samples))
    return max(enough, max(SMALL_COPIES, result_bytes // COPIES_SHARE) // max(1, matrix_bytes))


def product_buffer(layer: Layer, directions: int) -> Tensor:
    """Where W @ δ of so many directions goes, [their evaluations, out, N]; empty in a first layer."""
    count = 0 if layer.difference is None else directions * layer.sides
    return torch.empty(count, layer.weight.shape[0], layer.samples, dtype=layer.dtype, device="cpu")


def run_layer(layer: Layer, kernel: SharedKernel, arguments: tuple[Any, ...], grain: int) -> None:
    """All directions of a layer, ``grain`` of them at a time where torch has no part in it.

    Args:
        layer: The layer.
        kernel: Takes W @ δ of its directions, [their evaluations, out, N], empty where it makes them or there are
            none; ``arguments``; and from which direction to which it goes.
        arguments: For the kernel.
        grain: Directions that are worth a call.
    """
    if layer.difference is None or layer.inline_product:
        together(kernel, (_NO_PRODUCT, *arguments), layer.directions.num, grain)
        return

    def run(start: int, stop: int) -> None:
        group = layer.group(stop - start)
        product = product_buffer(layer, group)
        for first in range(start, stop, group):
            last = min(stop, first + group)
            carry(product, layer, first, last, stop - start)
            kernel(as_array(product), *arguments, first, last)

    parallel(run, layer.directions.num)


_NO_PRODUCT = np.empty((0, 0, 0), np.float32)


def carry(product: Tensor, layer: Layer, first: int, last: int, share: int) -> None:
    """``product = W @ δ`` for the directions first … last - 1 of a thread that has ``share`` of them.

    A large W is cast a tile of rows at a time.
    """
    assert layer.difference is not None
    rows, inner = layer.weight.shape
    moved = layer.difference[first * layer.sides : last * layer.sides, :inner]
    count = moved.shape[0]
    tile = rows if layer.stack is not None else max(1, TILE_ELEMENTS // inner)
    if layer.is_widened:
        _carry_widened(product, layer.weight, moved, max(1, min(tile, WIDENED_ELEMENTS // layer.samples)))
        return
    for row in range(0, rows, tile):
        weight = layer.stack
        if weight is None:
            cast = factor(layer.weight[row : row + tile].to(layer.dtype))
            copies = count
            if layer.dtype != torch.float32:
                result_bytes = share * layer.sides * layer.evaluation_bytes
                copies = copies_of(cast.nbytes, layer.samples, result_bytes)
            weight = cast.expand(copies, -1, -1)
        for p in range(0, count, weight.shape[0]):
            some = factor(moved[p : p + weight.shape[0]])
            torch.bmm(weight[: some.shape[0]], some, out=product[p : p + some.shape[0], row : row + tile])


def _carry_widened(product: Tensor, weight: Tensor, moved: Tensor, tile: int) -> None:
    """The product in float32, an evaluation at a time: quicker than torch's emulation, and in less memory."""
    for made, each in zip(product, moved, strict=False):
        wide = each.float()
        for row in range(0, weight.shape[0], tile):
            made[row : row + tile] = factor(weight[row : row + tile].float()) @ wide


def difference_or_none(difference: Tensor | None, dtype: torch.dtype) -> np.ndarray:
    """δ, or an empty array of as many dimensions: a kernel's argument has one type."""
    return as_array(torch.empty(0, 0, 0, dtype=dtype, device="cpu") if difference is None else difference)


@routine
def gather(x, base, difference, rows, sample, samples):
    """X = a + δ for a run of 32 samples, [at least rows, 32] each; difference [at least rows, N]."""
    at, lanes = uintp(sample), min(LANES, samples - sample)
    if lanes == LANES:
        # By address: a loop over 32 elements of a slice costs several times its loads and stores.
        target_at, source_at = uintp(x.ctypes.data), uintp(base.ctypes.data)
        size = uintp(difference.itemsize)
        moved_at, row_bytes = uintp(difference.ctypes.data) + size * at, size * uintp(difference.shape[1])
        for _ in range(rows):
            add_run(target_at, source_at, moved_at, difference.itemsize == 2)
            target_at, source_at = target_at + uintp(4 * LANES), source_at + uintp(4 * LANES)
            moved_at += row_bytes
        return
    for row in range(rows):
        target, source, moved = x[row], base[row], difference[row]
        for j in range(lanes):
            target[j] = source[j] + load(moved[at + uintp(j)])


@routine
def finish(out, product, column, carried, sums, bias, step, sample, lanes, a, first_term, second_term, kind):
    """out[:, sample …] = activation(W @ δ + step·(U @ (a+δ) + v)) for one evaluation.

    out: [at least rows, N]. product: W @ δ, [at least rows, columns], read from ``column`` on if ``carried``. sums:
    float32 [runs, rows, samples a run], U @ (a+δ) for these samples.
    """
    whole = lanes // WIDTH * WIDTH if kind in (NONE, RELU) else 0
    width, size, moved_size = sums.shape[2], uintp(out.itemsize), uintp(product.itemsize)
    row_bytes, moved_bytes = size * uintp(out.shape[1]), moved_size * uintp(product.shape[1])
    base_bytes, sum_bytes, relu = uintp(4 * a.shape[1]), uintp(sums.strides[1]), kind == RELU
    for first in range(0, whole, width):
        # By address: a slice for each vector would cost more than the vector.
        out_at = uintp(out.ctypes.data) + size * uintp(sample + first)
        product_at = uintp(product.ctypes.data) + moved_size * uintp(column + first)
        base_at = uintp(a.ctypes.data) + uintp(4 * (sample + first))
        sums_at = uintp(sums.ctypes.data) + uintp(first // width * sums.strides[0])
        for row in range(sums.shape[1]):
            for j in range(0, min(width, whole - first), WIDTH):
                on = uintp(j)
                finish_run(
                    out_at + size * on, product_at + moved_size * on, sums_at + uintp(4) * on,
                    base_at + uintp(4) * on, step, bias[row], carried, relu, out.itemsize == 2,
                    product.itemsize == 2,
                )  # fmt: skip
            out_at, product_at = out_at + row_bytes, product_at + moved_bytes
            base_at, sums_at = base_at + base_bytes, sums_at + sum_bytes
    if whole < lanes:
        _finish_rest(
            out, product, column, carried, sums, bias, step, sample, whole, lanes, a, first_term, second_term, kind,
        )  # fmt: skip


@routine
def _finish_rest(
    out, product, column, carried, sums, bias, step, sample, start, lanes, a, first_term, second_term, kind
):
    """The same for the samples from ``start`` on, element by element and with any activation."""
    # Unsigned offsets: a signed one could be negative, and Numba would test each element for that.
    at, moved_at, width = uintp(sample), uintp(column), sums.shape[2]
    steps = np.empty(lanes, np.float32)
    for row in range(sums.shape[1]):
        shift, target, moved = bias[row], out[row], product[row]
        for j in range(start, lanes):
            steps[j] = step * (sums[j // width, row, j % width] + shift)
        if carried:
            for j in range(start, lanes):
                steps[j] += load(moved[moved_at + uintp(j)])
        if kind != NONE:
            rest = at + uintp(start)
            activate(steps[start:], a[row], first_term[row], second_term[row], rest, lanes - start, kind)
        for j in range(start, lanes):
            store(target, at + uintp(j), steps[j])
