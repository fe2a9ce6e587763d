"""A layer whose full-rank directions are no signs: U drawn a tile of rows at a time, multiplied by torch's GEMM."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zo_triton._precision import factor
from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.compiling import kernel
from zo_triton.cpu.field import code_of, fill_matrix, key_of
from zo_triton.cpu.layer import TILE_ELEMENTS, Layer, carry, finish, product_buffer
from zo_triton.cpu.scalars import load, store
from zo_triton.cpu.threads import parallel
from zo_triton.directions import tensor_word


def run_dense(layer: Layer) -> None:
    """All directions; the threads share them out."""
    parallel(lambda start, stop: _run(layer, start, stop), layer.directions.num)


def _run(layer: Layer, start: int, stop: int) -> None:
    """One direction after the other: its U a tile of rows at a time, both sides from the same tile."""
    d, rows = layer.directions, layer.weight.shape[0]
    samples, sides = layer.samples, layer.sides
    key, code = key_of(d), code_of(d)
    product = product_buffer(layer, 1)
    carried = layer.difference is not None
    inputs = torch.empty(
        layer.base.shape[0], (sides if carried else 1) * samples, dtype=layer.dtype, device="cpu"
    )
    moved = torch.zeros(rows, inputs.shape[1], dtype=layer.dtype, device="cpu")
    bias = np.zeros((1, rows), np.float32)
    if not carried:
        _inputs_kernel(as_array(inputs), layer.base, layer.moved, 0, 0)
    for k in range(start, stop):
        if carried:
            carry(product, layer, k, k + 1, stop - start)
            _inputs_kernel(as_array(inputs), layer.base, layer.moved, k * sides, sides)
        if layer.weight_id >= 0:
            _times_direction(moved, inputs, layer, d.first + k)
        if layer.bias_id >= 0:
            fill_matrix(bias, 0, tensor_word(layer.bias_id), d.first + k, key, code)
            if layer.dtype == torch.bfloat16:
                bias = torch.from_numpy(bias).to(torch.bfloat16).float().numpy()
        _finish_kernel(
            layer.out,
            as_array(product),
            as_array(moved),
            bias[0],
            layer.signed_eps,
            sides,
            k,
            *layer.terms,
            layer.kind,
        )


def _times_direction(moved: Tensor, inputs: Tensor, layer: Layer, index: int) -> None:
    """``moved = U @ inputs`` for one direction."""
    d, (rows, cols) = layer.directions, layer.weight.shape[:: -1 if layer.transposed else 1]
    height = max(4, TILE_ELEMENTS // cols // 4 * 4)
    tile = torch.empty(min(height, rows), cols, dtype=layer.dtype, device="cpu")
    for row in range(0, rows, height):
        part, some = tile[: rows - row], slice(row, row + height)
        fill_matrix(as_array(part), row, tensor_word(layer.weight_id), index, key_of(d), code_of(d))
        if layer.transposed:
            torch.addmm(moved, factor(part.T), factor(inputs[some]), beta=0 if row == 0 else 1, out=moved)
        else:
            torch.mm(factor(part), factor(inputs), out=moved[some])


@kernel
def _inputs_kernel(inputs, base, difference, p, sides):
    """Inputs [in, max(1, sides)·N] = a + δ of the evaluations p, p + 1 …, or just a with no sides."""
    samples = base.shape[1]
    for row in range(base.shape[0]):
        for s in range(max(1, sides)):
            target = inputs[row, s * samples : (s + 1) * samples]
            for j in range(samples):
                value = base[row, j]
                if sides > 0:
                    value += load(difference[p + s, row, j])
                store(target, j, value)


@kernel
def _finish_kernel(out, product, moved, bias, signed_eps, sides, k, a, first_term, second_term, kind):
    """The epilogue of one direction: moved [out, N or sides·N] is U @ inputs, product its W @ δ."""
    rows, samples = moved.shape[0], out.shape[2]
    carried = product.shape[0] > 0
    sums = np.empty((1, rows, samples), np.float32)
    for s in range(sides):
        p = k * sides + s
        source = s * samples if carried else 0
        for row in range(rows):
            for j in range(samples):
                sums[0, row, j] = load(moved[row, source + j])
        if carried:
            finish(
                out[p], product[s], 0, True, sums, bias, signed_eps[p], 0, samples, a, first_term, second_term, kind
            )  # fmt: skip
        else:
            finish(
                out[p],
                out[p],
                0,
                False,
                sums,
                bias,
                signed_eps[p],
                0,
                samples,
                a,
                first_term,
                second_term,
                kind,
            )
