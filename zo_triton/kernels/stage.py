"""Packed signs of a matrix, written once so that every matmul tile can expand them in registers.

d/8 bytes a direction instead of the 2d or 4d of a stored z. Word [k, row, c] holds columns 32c … 32c+31 of
that row: bit 1 is +1, exactly the generator's own word.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.kernels.field import (
    UNSPECIALISED,
    as_word,
    counter_arguments,
    counter_of,
    sign_words,
    word_argument,
)
from zo_triton.kernels.launch import blocks, launch

CONFIG = {"ROWS": 64, "WORDS": 16, "num_warps": 4}


@triton.jit(do_not_specialize=UNSPECIALISED)
def _stage_kernel(
    out_ptr,
    padded_rows,
    words,
    row_tiles,
    word_tiles,
    key0,
    key1,
    step,
    first,
    whole_word,
    ROUNDS: tl.constexpr,
    ROWS: tl.constexpr,
    WORDS: tl.constexpr,
):
    """Writes out [K, padded_rows, words] int32; program = (k·row_tiles + row tile)·word_tiles + word tile."""
    pid = tl.program_id(0)
    word_tile = pid % word_tiles
    row_tile = pid // word_tiles % row_tiles
    k = pid // word_tiles // row_tiles
    row_blocks = row_tile * (ROWS // 4) + tl.arange(0, ROWS // 4)
    counter = counter_of(first + k, step, key0, key1)
    packed = sign_words(
        row_blocks, word_tile * WORDS, words, as_word(whole_word), counter, ROUNDS, ROWS, WORDS
    )
    row = (row_tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    column = word_tile * WORDS + tl.arange(0, WORDS)
    offsets = (k.to(tl.int64) * padded_rows + row[:, None]) * words + column[None, :]
    mask = (row < padded_rows)[:, None] & (column < words)[None, :]
    tl.store(out_ptr + offsets, packed.to(tl.int32, bitcast=True), mask=mask)


def stage(directions: Directions, tensor_id: int, rows: int, cols: int, device: torch.device) -> Tensor:
    """Writes one matrix's packed signs for every direction.

    Args:
        directions: Names the K directions; signs.
        tensor_id: The matrix's tensor id.
        rows: Matrix rows.
        cols: Matrix columns.
        device: Where to.

    Returns:
        int32, [K, 4·ceil(rows/4), ceil(cols/32)].

    Raises:
        ValueError: The distribution has no packed form.
    """
    if not directions.signs:
        raise ValueError(
            f"only 'rademacher' and 'hadamard' have signs to stage, got {directions.distribution!r}; use "
            "bits='inline'."
        )
    padded_rows, words = 4 * blocks(rows, 4), blocks(cols, 32)
    out = torch.empty(directions.num, padded_rows, words, dtype=torch.int32, device=device)
    row_tiles, word_tiles = blocks(padded_rows, CONFIG["ROWS"]), blocks(words, CONFIG["WORDS"])
    launch(
        _stage_kernel,
        directions.num * row_tiles * word_tiles,
        out,
        out_ptr=out,
        padded_rows=padded_rows,
        words=words,
        row_tiles=row_tiles,
        word_tiles=word_tiles,
        whole_word=word_argument(directions, tensor_id),
        **counter_arguments(directions),
        ROUNDS=directions.rounds,
        **CONFIG,
    )
    return out
