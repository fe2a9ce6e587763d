"""Inner products z_k·z_l without storing any z: signs by counting equal bits, the rest a few rows at a time."""

from __future__ import annotations

import numpy as np
import torch
from numba import uint32
from torch import Tensor

from zo_triton import hadamard
from zo_triton.cpu.arrays import as_array, draw_factors
from zo_triton.cpu.compiling import kernel
from zo_triton.cpu.field import code_of, fill_matrix, key_of, sign_words
from zo_triton.cpu.threads import parallel
from zo_triton.cpu.vectors import population_count
from zo_triton.directions import Directions, matrix_shape, tensor_word

TILE_VALUES = 1 << 20
"""Values of z that are held at a time, over all K directions: 8 MiB in float64."""


def gram(
    out: Tensor, tensors: list[Tensor], tensor_ids: list[int], directions: Directions, dtype: torch.dtype
) -> None:
    """Same contract as the reference; exact integers for signs."""
    if directions.order is not None:
        counted = hadamard.gram(directions, [tensor.shape for tensor in tensors], tensor_ids)
        if counted is not None:
            out.copy_(torch.from_numpy(counted))
            return
    out.zero_()
    drawn = torch.bfloat16 if dtype == torch.bfloat16 else torch.float32
    for tensor, tensor_id in zip(tensors, tensor_ids, strict=True):
        shape = tuple(tensor.shape)
        if tensor.numel() == 0:
            continue
        if directions.is_low_rank(shape):
            left, right = (factor.double() for factor in draw_factors(directions, tensor_id, shape, drawn))
            out += torch.einsum("kia,lib,kja,ljb->kl", left, left, right, right)
        elif directions.signs:
            out += _gram_signs(shape, tensor_id, directions)
        else:
            out += _gram_real(shape, tensor_id, directions, drawn)


def _gram_signs(shape: tuple[int, ...], tensor_id: int, directions: Directions) -> Tensor:
    rows, cols = matrix_shape(shape)
    row_blocks, workers = (rows + 3) // 4, torch.get_num_threads()
    partial = np.zeros((workers, directions.num, directions.num), np.int64)
    word, key = tensor_word(tensor_id), key_of(directions)

    def run(start: int, stop: int) -> None:
        for worker in range(start, stop):
            share = row_blocks * worker // workers, row_blocks * (worker + 1) // workers
            _equal_bits_kernel(partial[worker], rows, cols, word, directions.first, key, *share)

    parallel(run, workers)
    equal = torch.from_numpy(partial.sum(0)).double()
    equal = equal + equal.t() - torch.diag(torch.diagonal(equal))
    return 2.0 * equal - rows * cols


@kernel
def _equal_bits_kernel(equal, rows, cols, word, first_direction, key, start, stop):
    """equal[k, l ≥ k] += elements in which z_k and z_l agree, over row blocks start … stop - 1."""
    count, width = equal.shape[0], (cols + 31) // 32
    words = np.empty((count, 4, width), np.uint32)
    last = uint32(0xFFFFFFFF) >> uint32(32 * width - cols)
    for block in range(start, stop):
        sign_words(words, block, word, first_direction, key)
        lanes = min(4, rows - 4 * block)
        for k in range(count):
            for other in range(k, count):
                total = 0
                for lane in range(lanes):
                    for column in range(width - 1):
                        total += population_count(~(words[k, lane, column] ^ words[other, lane, column]))
                    difference = words[k, lane, width - 1] ^ words[other, lane, width - 1]
                    total += population_count(~difference & last)
                equal[k, other] += total


def _gram_real(shape: tuple[int, ...], tensor_id: int, directions: Directions, drawn: torch.dtype) -> Tensor:
    rows, cols = matrix_shape(shape)
    tile = max(4, TILE_VALUES // (directions.num * cols) // 4 * 4)
    total = torch.zeros(directions.num, directions.num, dtype=torch.float64, device="cpu")
    word, key, code = tensor_word(tensor_id), key_of(directions), code_of(directions)
    for row in range(0, rows, tile):
        z = torch.empty(directions.num, min(tile, rows - row), cols, dtype=drawn, device="cpu")

        def run(start: int, stop: int, row: int = row, z: Tensor = z) -> None:
            for k in range(start, stop):
                fill_matrix(as_array(z[k]), row, word, directions.first + k, key, code)

        parallel(run, directions.num)
        flat = z.flatten(1).double()
        total += flat @ flat.t()
    return total
