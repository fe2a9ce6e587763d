"""One perturbed linear layer in torch's own order: differences lie as [P, N, features], as everything around them.

An evaluation is δWᵀ, written where the result lies, and then what its direction adds. It is cut into runs of samples
that stay in a core's level-2 cache from the product to the activation; where it is cut depends on the layer alone,
so neither the directions that come together nor the threads change a sum.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from torch import Tensor

from zo_triton.cpu.activation import NAMES, NONE, activate, base_terms
from zo_triton.cpu.arrays import as_array, draw, draw_factors
from zo_triton.cpu.bfloat16 import is_emulated
from zo_triton.cpu.compiling import kernel, routine
from zo_triton.cpu.field import code_of, fill_matrix, key_of
from zo_triton.cpu.fixed_point import fixed_sign_product, to_fixed_point
from zo_triton.cpu.layer import TILE_ELEMENTS
from zo_triton.cpu.scalars import load, store
from zo_triton.cpu.signs import TABLES, draw_signs, line_of_floats, sign_product
from zo_triton.cpu.threads import parallel
from zo_triton.cpu.turning import add_to_rows, sum_of_rows
from zo_triton.cpu.vectors import LANES
from zo_triton.directions import PART_WHOLE, Directions, tensor_word

RUN_ELEMENTS = 1 << 18
"""Inputs and results of a run of samples: 1 MiB in float32, half of a level-2 cache."""

MIN_SAMPLES = 128
"""In a run, if there are so many: a product reads all of W for each run."""

ROWS_TOGETHER = 1024
"""Rows of U whose float32 totals for 32 samples are made before they are added: 128 KiB."""


@dataclass(frozen=True)
class NaturalLayer:
    """One call; W and U are matrices [out, in] here, however the parameter is stored.

    Attributes:
        out: [P, N, out], contiguous.
        base: Float32 [N, in], contiguous.
        difference: [P, N, in] in the dtype of ``out``.
        weight: Wᵀ, [in, out] in the dtype that products are made in.
        terms: Float32 [N, out] each, what the activation reads of the base; empty without one.
        transposed: Whether the parameter is stored as Wᵀ, so that the field's tensor is Uᵀ.
    """

    out: Tensor
    base: Tensor
    difference: Tensor
    weight: Tensor
    directions: Directions
    weight_id: int
    bias_id: int
    signed_eps: np.ndarray
    terms: tuple[np.ndarray, np.ndarray, np.ndarray]
    kind: int
    transposed: bool

    @property
    def sides(self) -> int:
        return self.out.shape[0] // self.directions.num

    @property
    def run(self) -> int:
        """Samples in a run, a multiple of 32: an evaluation of many has two runs at least, for two threads."""
        samples, most = self.base.shape[0], RUN_ELEMENTS // sum(self.weight.shape)
        runs = max(-(-samples // max(MIN_SAMPLES, most)), 2 if samples >= 2 * MIN_SAMPLES else 1)
        return -(-samples // (runs * LANES)) * LANES


def natural_linear(
    out: Tensor,
    base: Tensor,
    difference: Tensor,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    activation: str,
    transposed: bool,
) -> None:
    """As ``perturbed_linear``, for a contiguous ``out`` and a ``difference`` whose features are neighbours."""
    terms = (_NO_TERMS,) * 3
    if activation != "none":
        assert base_output is not None
        a = base_output.detach().float().contiguous()
        terms = tuple(term.contiguous().numpy() for term in (a, *base_terms(a, activation)))  # type: ignore[assignment]
    wide = out.dtype == torch.float32 or is_emulated()
    matrix = weight.detach().to(torch.float32 if wide else out.dtype)
    layer = NaturalLayer(
        out, base.detach().float().contiguous(), difference.detach(), matrix if transposed else matrix.T, directions,
        weight_id, bias_id, signed_eps.numpy(), terms, NAMES.index(activation), transposed,
    )  # fmt: skip
    if directions.rank is None and not directions.signs and weight_id >= 0:
        parallel(partial(_run_dense, layer), directions.num)
        return
    each = _run_signs if directions.rank is None else _run_low_rank
    parallel(partial(each, layer), len(out) * -(-out.shape[1] // layer.run))


_NO_TERMS = np.empty((0, 0), np.float32)


def _product(x: Tensor, matrix: Tensor, out: Tensor) -> None:
    """``out = x @ matrix``; out and x float32 or bfloat16, matrix the dtype to multiply in."""
    if matrix.dtype == out.dtype:
        torch.mm(x, matrix, out=out)
    else:
        out.copy_(x.to(matrix.dtype) @ matrix)


def _bias(layer: NaturalLayer, index: int) -> np.ndarray:
    """v of one direction in float32 [out]; zeros if the bias is not trained."""
    shape = 1, layer.out.shape[2]
    if layer.bias_id < 0:
        return np.zeros(shape[1], np.float32)
    drawn = draw(layer.directions, index, layer.bias_id, PART_WHOLE, shape, layer.out.dtype)
    return drawn.float().numpy()[0]


def _run_signs(layer: NaturalLayer, start: int, stop: int) -> None:
    """Runs start … stop - 1, those of an evaluation one after the other."""
    d, (inner, rows), length, drawn = layer.directions, layer.weight.shape, layer.run, -1
    runs, base, key = -(-layer.out.shape[1] // length), layer.base.numpy(), key_of(d)
    words = np.zeros((1, -(-rows // 4) * 4, -(-inner // 32)), np.uint32)
    if layer.weight_id < 0:
        words = words[:, :0]
    for each in range(start, stop):
        p, first = each // runs, each % runs * length
        if p // layer.sides != drawn:
            drawn = p // layer.sides
            bias = _bias(layer, d.first + drawn)
            if layer.weight_id >= 0:
                _draw_kernel(words, layer.transposed, inner, tensor_word(layer.weight_id), d.first + drawn, key)
        moved = layer.difference[p, first : first + length].contiguous()
        target = layer.out[p, first : first + length]
        _product(moved, layer.weight, target)
        _signs_kernel(
            as_array(target), base, as_array(moved), first, words[0], bias, layer.signed_eps[p], *layer.terms, layer.kind
        )


def _run_low_rank(layer: NaturalLayer, start: int, stop: int) -> None:
    """The same for U = A·Bᵀ/√r: (a+δ)Uᵀ is two thin products."""
    d, length, drawn = layer.directions, layer.run, -1
    runs, stored = -(-layer.out.shape[1] // length), tuple(layer.weight.shape)
    for each in range(start, stop):
        p, first = each // runs, each % runs * length
        if p // layer.sides != drawn:
            drawn = p // layer.sides
            bias = _bias(layer, d.first + drawn)
            if layer.weight_id >= 0:
                shape = stored if layer.transposed else stored[::-1]
                left, right = (
                    f[0] for f in draw_factors(d[drawn : drawn + 1], layer.weight_id, shape, layer.out.dtype)
                )
                into, onto = (left, right) if layer.transposed else (right, left)
        moved = layer.difference[p, first : first + length].contiguous()
        target = layer.out[p, first : first + length]
        _product(moved, layer.weight, target)
        sums = target.float()
        if layer.weight_id >= 0:
            thin = torch.mm(layer.base[first : first + length] + moved, into)
            torch.addmm(sums, thin, onto.T, alpha=float(layer.signed_eps[p]), out=sums)
        _finish_kernel(as_array(target), sums.numpy(), first, bias, layer.signed_eps[p], *layer.terms, layer.kind)


def _run_dense(layer: NaturalLayer, start: int, stop: int) -> None:
    """Directions start … stop - 1, each drawn a tile of its tensor's rows at a time, for both sides."""
    d, sides, narrow = layer.directions, layer.sides, layer.out.dtype != torch.float32
    stored = layer.weight.shape if layer.transposed else layer.weight.shape[::-1]
    height = min(stored[0], max(4, TILE_ELEMENTS // stored[1] // 4 * 4))
    drawn = torch.empty(height, stored[1], dtype=layer.out.dtype)
    sums = torch.empty(sides, *layer.out.shape[1:]) if narrow else None
    for k in range(start, stop):
        ours = slice(k * sides, (k + 1) * sides)
        steps, made = layer.signed_eps[ours], layer.out[ours]
        inputs = [layer.base + moved for moved in layer.difference[ours]]
        for moved, target in zip(layer.difference[ours], made, strict=True):
            _product(moved, layer.weight, target)
        totals = made if sums is None else sums.copy_(made)
        for row in range(0, stored[0], height):
            tile = drawn[: stored[0] - row]
            word = tensor_word(layer.weight_id)
            fill_matrix(as_array(tile), row, word, d.first + k, key_of(d), code_of(d))
            matrix = tile.to(layer.weight.dtype)
            part = slice(row, row + height)
            for x, total, step in zip(inputs, totals, steps, strict=True):
                x = x[:, part] if layer.transposed else x
                target = total if layer.transposed else total[:, part]
                matrix_of = matrix if layer.transposed else matrix.T
                if matrix.dtype == torch.float32:
                    torch.addmm(target, x, matrix_of, alpha=float(step), out=target)
                else:
                    target.add_(torch.mm(x.to(matrix.dtype), matrix_of), alpha=float(step))
        bias = _bias(layer, d.first + k)
        for target, total, step in zip(made, totals, steps, strict=True):
            _finish_kernel(as_array(target), total.numpy(), 0, bias, step, *layer.terms, layer.kind)


@kernel
def _draw_kernel(words, transposed, inner, word, index, key):
    draw_signs(words, transposed, inner, word, index, key)


@kernel
def _signs_kernel(out, base, moved, first, words, bias, step, a, first_term, second_term, kind):
    """``out += step·((a+δ)Uᵀ + v)`` and the activation, for the samples of one run, ``first`` … of the batch.

    out [n, rows] and moved [n, in]: float32 or bfloat16 bits, of the run alone. base: float32 [N, in]. words: uint32
    [at least rows, words a row], or none for a weight that is not trained. bias: float32 [rows].
    """
    samples, rows = out.shape
    narrow, trained = out.itemsize == 2, words.shape[0] > 0
    x = np.zeros((32 * words.shape[1], LANES), np.float32)
    block = min(rows, ROWS_TOGETHER)
    totals = line_of_floats(block * LANES).reshape(block, LANES)
    totals[:] = np.float32(0.0)
    tables = line_of_floats(TABLES)
    short = np.zeros((x.shape[0] if narrow else 0, LANES), np.int16)
    scale, inverse = np.zeros(LANES, np.float32), np.zeros(LANES, np.float32)
    ours = base[first:]
    for sample in range(0, samples, LANES):
        lanes = min(LANES, samples - sample)
        if trained:
            sum_of_rows(x, ours, moved, sample, lanes)
            if narrow:
                to_fixed_point(short, scale, x, inverse)
        for row in range(0, rows, block):
            count = min(block, rows - row)
            if trained and narrow:
                fixed_sign_product(totals, words[row : row + count], short, scale, tables)
            elif trained:
                sign_product(totals.reshape(1, block, LANES), 0, words[row : row + count], x, tables, LANES)
            add_to_rows(out, sample, lanes, row, totals[:count], bias[row : row + count], step)
        if kind != NONE:
            _activate_rows(out[sample : sample + lanes], first + sample, a, first_term, second_term, kind)


@kernel
def _finish_kernel(out, sums, first, bias, step, a, first_term, second_term, kind):
    """``out`` = the activation's difference of ``sums + step·v``, for the samples ``first`` … of the batch."""
    rows = out.shape[1]
    for j in range(out.shape[0]):
        source, target = sums[j], out[j]
        for row in range(rows):
            store(target, row, source[row] + step * bias[row])
    if kind != NONE:
        _activate_rows(out, first, a, first_term, second_term, kind)


@routine
def _activate_rows(out, first, a, first_term, second_term, kind):
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
