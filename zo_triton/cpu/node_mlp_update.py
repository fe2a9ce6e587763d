"""The second half of a small network's step with signs on its outputs: gradients of weights, and the move."""

from __future__ import annotations

import numpy as np
from numba import float32, uintp

from zo_triton.cpu.addresses import addresses_of, matrix_at
from zo_triton.cpu.mlp_step import _move
from zo_triton.cpu.node_mlp import NodeMeasure
from zo_triton.cpu.node_mlp_base import INNER, INPUT_AT, ROW_AT, ROWS, STRIDE, node_layout
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together
from zo_triton.cpu.vectors import LANES, dense_rows, sum_of_doubles

SMALL_UPDATE = 1 << 19
"""Multiply-adds below which a second thread costs more than it gives."""


def node_mlp_update(
    tensors: list[np.ndarray],
    first: list[np.ndarray],
    second: list[np.ndarray],
    rule: tuple[float, ...],
    x: np.ndarray,
    measured: NodeMeasure,
) -> None:
    """Adam or SGD along the gradient of what was measured; the arguments are those of the op."""
    samples = x.shape[0]
    layout = node_layout(tuple([tensor.shape for tensor in tensors[::2]]), samples)
    if x.shape[1] < LANES:
        x = np.pad(x, ((0, 0), (0, LANES - x.shape[1])))
    arguments = (
        *(addresses_of(arrays) for arrays in (tensors, first, second)),
        tuple([np.float32(value) for value in rule]), x, samples, layout, measured.gradients, measured.inputs,
    )  # fmt: skip
    work = samples * sum(tensor.size for tensor in tensors)
    together(_update_kernel, arguments, int(layout[-1, ROW_AT]) // 4, alone=work < SMALL_UPDATE)


@shared
def _update_kernel(
    tensors, first_moments, second_moments, rule, x, samples, layout, gradients, inputs, start, stop
):
    """Blocks start … stop - 1 of four rows, counted through all layers; a bias moves with its row.

    x: float32 [samples, at least 32]. gradients, inputs: see ``NodeMeasure``.
    """
    sums, line = np.empty((4, LANES), np.float32), gradients.shape[1]
    for block in range(start, stop):
        layer = 0
        while layout[layer + 1, ROW_AT] <= 4 * block:
            layer += 1
        sizes = layout[layer]
        row, inner = 4 * block - sizes[ROW_AT], sizes[INNER]
        count = min(4, sizes[ROWS] - row)
        own_at = uintp(gradients[4 * block].ctypes.data)
        stride, input_at, last = x.shape[1], uintp(x.ctypes.data), max(0, inner - LANES)
        if layer > 0:
            stride, last = sizes[STRIDE], inner
            input_at = uintp(inputs.ctypes.data) + uintp(4 * sizes[INPUT_AT])
        rows, i = sizes[ROWS], 2 * layer
        weight = matrix_at(tensors[i], rows, inner)
        first, second = matrix_at(first_moments[i], rows, inner), matrix_at(second_moments[i], rows, inner)
        for column in range(0, inner, LANES):
            # The last columns of a batch that has no more memory come again with those before them.
            begin = min(column, last)
            dense_rows(uintp(sums.ctypes.data), own_at, line, input_at + uintp(4 * begin), stride, samples)
            end = min(column + LANES, inner)
            for lane in range(count):
                gradient = sums[lane, column - begin :]
                _move(
                    weight[row + lane, column:end], first[row + lane, column:end], second[row + lane, column:end],
                    gradient, rule,
                )  # fmt: skip
        for lane in range(count):
            at = own_at + uintp(4 * lane * line)
            sums[0, lane] = float32(sum_of_doubles(at, line // 8))
        i += 1
        bias = matrix_at(tensors[i], 1, rows)
        first, second = matrix_at(first_moments[i], 1, rows), matrix_at(second_moments[i], 1, rows)
        _move(
            bias[0, row : row + count],
            first[0, row : row + count],
            second[0, row : row + count],
            sums[0],
            rule,
        )
