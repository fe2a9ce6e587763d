"""tensor += Σ_k a_k z_k in place: all K directions in one pass over the weights.

A thread takes a share of the tensor's rows, four at a time because that is what a block of the field covers.
The sum over k runs in order in float32 and reaches the weight in one addition, so neither the number of threads
nor their shares can change a bit.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numba import carray, float32, uintp
from torch import Tensor

from zo_triton.cpu.addresses import pointer
from zo_triton.cpu.compiling import device, routine
from zo_triton.cpu.field import code_of, key_of, real_rows, sign_words
from zo_triton.cpu.low_rank import draw_factors_of, factor_words
from zo_triton.cpu.scalars import round_bfloat16
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.signs import sums_of_signs
from zo_triton.cpu.threads import together
from zo_triton.cpu.vectors import LANES, dense_rows, float_from_bits
from zo_triton.directions import Directions, matrix_shape, tensor_word

PIECE_FACTORS, PIECE_BLOCKS = 4, 4
"""Directions, and blocks of four rows, that a thread takes at a time of a low-rank update."""

SMALL_PRODUCT = 1 << 18
"""Multiply-adds of a low-rank update below which a second thread costs more than it gives."""

SMALL_ELEMENTS = 1 << 14
"""Below this many values to draw (weights × K / 32 for signs) a second thread costs more than it gives."""

ADDRESS, ROWS, COLS, WORD, FIRST = range(5)
"""Columns of a table of tensors: where one lies, its matrix, its counter word, its first row block."""

_IN_PLACE = {torch.float32: np.float32, torch.float64: np.float64}


def accumulate(
    tensors: list[Tensor],
    tensor_ids: list[int],
    coefficients: Tensor,
    directions: Directions,
    dtype: torch.dtype,
) -> None:
    """Same contract as the reference."""
    weights = coefficients.detach().float().contiguous()
    in_place: dict[torch.dtype, list[tuple[Tensor, int]]] = {}
    for tensor, tensor_id in zip(tensors, tensor_ids, strict=True):
        if tensor.numel() == 0:
            continue
        flat = tensor.detach()
        work = (flat if flat.dtype in _IN_PLACE else flat.float()).resolve_neg().contiguous()
        if directions.is_low_rank(work.shape):
            matrix = work.view(matrix_shape(work.shape))
            _accumulate_low_rank(matrix, tensor_id, weights, directions, dtype)
        elif work is flat:
            in_place.setdefault(work.dtype, []).append((work, tensor_id))
        else:
            _accumulate_whole([(work, tensor_id)], weights, directions, dtype)
        if work is not flat:
            flat.copy_(work)
    for alike in in_place.values():
        _accumulate_whole(alike, weights, directions, dtype)


def _accumulate_whole(
    numbered: list[tuple[Tensor, int]], weights: Tensor, directions: Directions, dtype: torch.dtype
) -> None:
    """Contiguous tensors of one dtype, with their ids, at full rank.

    All in one call: many small ones would take longer to ask for than to do.
    """
    places, blocks, elements = [], 0, 0
    for tensor, tensor_id in numbered:
        rows, cols = matrix_shape(tensor.shape)
        places.append((tensor.data_ptr(), rows, cols, tensor_word(tensor_id), blocks))
        blocks, elements = blocks + (rows + 3) // 4, elements + rows * cols
    places.append((0, 0, 0, 0, blocks))
    like, table = np.empty(0, _IN_PLACE[numbered[0][0].dtype]), np.array(places, np.int64)
    arguments: tuple[Any, ...] = table, like, weights.numpy(), directions.first, key_of(directions)
    cost, kernel = elements * directions.num, _signs_kernel
    if directions.signs:
        cost //= LANES
    else:
        kernel, arguments = _real_kernel, (*arguments, code_of(directions), dtype == torch.bfloat16)
    together(kernel, arguments, blocks, alone=cost < SMALL_ELEMENTS)


def _accumulate_low_rank(
    matrix: Tensor, tensor_id: int, weights: Tensor, directions: Directions, dtype: torch.dtype
) -> None:
    """One product of all factors side by side, [rows, K·r] @ [K·r, cols]."""
    rows, cols = matrix.shape
    rank = directions.rank or 1
    left = np.zeros(((rows + 3) // 4 * 4, directions.num * rank), np.float32)
    right = np.zeros((directions.num * rank, (cols + LANES - 1) // LANES * LANES), np.float32)
    source = directions.first, key_of(directions), code_of(directions), dtype == torch.bfloat16
    array, values, words = matrix.numpy(), weights.numpy(), factor_words(tensor_id)
    alone = left.size * cols < SMALL_PRODUCT
    together(
        _factors_kernel,
        (left, right, rows, cols, values, *words, *source),
        directions.num,
        PIECE_FACTORS,
        alone,
    )
    together(_low_rank_kernel, (array, left, right), left.shape[0] // 4, PIECE_BLOCKS, alone)


@shared
def _factors_kernel(
    left, right, rows, cols, coefficients, left_word, right_word, first_direction, key, code, rounded, start, stop
):  # fmt: skip
    """Of directions start … stop - 1: left [at least rows, K·r] = a_k·A_k/√r, right [K·r, at least cols] = B_kᵀ."""
    rank = right.shape[0] // coefficients.size
    one, turned = np.empty((rows, rank), np.float32), np.empty((rank, rows), np.float32)
    for k in range(start, stop):
        these = slice(k * rank, (k + 1) * rank)
        draw_factors_of(
            one,
            turned,
            right[these],
            rows,
            cols,
            left_word,
            right_word,
            first_direction + k,
            key,
            code,
            rounded,
        )
        for row in range(rows):
            for j in range(rank):
                left[row, k * rank + j] = coefficients[k] * one[row, j]


@shared
def _low_rank_kernel(matrix, left, right, start, stop):
    """matrix += left @ right for row blocks start … stop - 1.

    left: float32 [rows rounded up to fours, terms]. right: float32 [terms, cols rounded up to 32].
    """
    rows, cols = matrix.shape
    terms, width = right.shape
    sums = np.empty((4, LANES), np.float32)
    for block in range(start, stop):
        for run in range(width // LANES):
            dense_rows(
                uintp(sums.ctypes.data), uintp(left[4 * block].ctypes.data), terms,
                uintp(right.ctypes.data) + uintp(4 * LANES * run), width, terms,
            )  # fmt: skip
            at = uintp(LANES * run)
            for lane in range(min(4, rows - 4 * block)):
                target, total = matrix[4 * block + lane], sums[lane]
                for j in range(min(LANES, cols - LANES * run)):
                    target[at + uintp(j)] += total[j]


@device
def _tensor_of(table, block):
    """The row of the tensor that a row block belongs to."""
    place = 0
    while table[place + 1, FIRST] <= block:
        place += 1
    return place


@device
def _matrix_of(table, place, like):
    """The tensor as a matrix, of the dtype of ``like``."""
    return carray(pointer(uintp(table[place, ADDRESS])), (table[place, ROWS], table[place, COLS]), like.dtype)


@shared
def _signs_kernel(table, like, coefficients, first_direction, key, start, stop):
    """Row blocks start … stop - 1 of all tensors; the words of all K directions for one are drawn together."""
    place = _tensor_of(table, start)
    while start < stop:
        first, end = table[place, FIRST], min(stop, table[place + 1, FIRST])
        matrix, word = _matrix_of(table, place, like), table[place, WORD]
        _add_signs(matrix, coefficients, word, first_direction, key, start - first, end - first)
        start, place = end, place + 1


@routine
def _add_signs(matrix, coefficients, word, first_direction, key, start, stop):
    """The same of one tensor."""
    rows, cols = matrix.shape
    count, width = coefficients.shape[0], (cols + LANES - 1) // LANES
    words = np.empty((count, 4, width), np.uint32)
    sums = np.empty((4, LANES), np.float32)
    for block in range(start, stop):
        sign_words(words, block, word, first_direction, key)
        for column in range(width):
            sums_of_signs(sums, words, column, coefficients)
            at = uintp(LANES * column)
            for lane in range(min(4, rows - 4 * block)):
                target, total = matrix[4 * block + lane], sums[lane]
                for j in range(min(LANES, cols - LANES * column)):
                    target[at + uintp(j)] += total[j]


@shared
def _real_kernel(table, like, coefficients, first_direction, key, code, rounded, start, stop):
    """The same of a real-valued distribution; ``rounded`` takes z to bfloat16 first."""
    place = _tensor_of(table, start)
    while start < stop:
        first, end = table[place, FIRST], min(stop, table[place + 1, FIRST])
        matrix, word = _matrix_of(table, place, like), table[place, WORD]
        _add_reals(
            matrix, coefficients, word, first_direction, key, code, rounded, start - first, end - first
        )
        start, place = end, place + 1


@routine
def _add_reals(matrix, coefficients, word, first_direction, key, code, rounded, start, stop):
    """The same of one tensor."""
    rows, cols = matrix.shape
    z = np.empty((4, cols), np.float32)
    sums = np.empty((4, cols), np.float32)
    for block in range(start, stop):
        sums[:] = float32(0.0)
        for k in range(coefficients.shape[0]):
            real_rows(z, block, word, first_direction + k, key, code)
            for lane in range(4):
                source, total = z[lane], sums[lane]
                if rounded:
                    for j in range(cols):
                        source[j] = float_from_bits(round_bfloat16(source[j]) << np.uint32(16))
                for j in range(cols):
                    total[j] += coefficients[k] * source[j]
        for lane in range(min(4, rows - 4 * block)):
            target, total = matrix[4 * block + lane], sums[lane]
            for j in range(cols):
                target[j] += total[j]
