"""Packed signs of a convolution in the order of its taps, so that a word's 32 signs meet 32 channels of a pixel.

The field's words run through (channel, kernel row, kernel column). Those of 32 channels are as many words as the
window has places, before and after: a program takes that many and trades their bits.
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
from zo_triton.kernels.launch import blocks, launch, power_of_two
from zo_triton.kernels.stage import stage

CONFIG = {"ROWS": 32, "num_warps": 4}


@triton.jit(do_not_specialize=UNSPECIALISED)
def _stage_taps_kernel(
    out_ptr,
    padded_rows,
    channels,
    row_tiles,
    channel_words,
    key0,
    key1,
    step,
    first,
    whole_word,
    ROUNDS: tl.constexpr,
    TAPS: tl.constexpr,
    PLACES: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Writes out [K, padded_rows, TAPS, channel_words] int32; PLACES: TAPS rounded up to a power of two.

    Program = (k·row_tiles + row tile)·channel_words + channel word.
    """
    pid = tl.program_id(0)
    channel_word = pid % channel_words
    row_tile = pid // channel_words % row_tiles
    k = pid // channel_words // row_tiles
    row_blocks = row_tile * (ROWS // 4) + tl.arange(0, ROWS // 4)
    counter = counter_of(first + k, step, key0, key1)
    drawn = sign_words(
        row_blocks, channel_word * TAPS, (channels * TAPS + 31) // 32, as_word(whole_word), counter,
        ROUNDS, ROWS, PLACES)  # fmt: skip
    tap = tl.arange(0, PLACES)
    turned = tl.zeros((ROWS, PLACES), tl.uint32)
    for channel in tl.static_range(32):
        column = channel * TAPS + tap
        source = tl.broadcast_to(tl.minimum(column // 32, PLACES - 1)[None, :], (ROWS, PLACES))
        bits = tl.gather(drawn, source, axis=1) >> (column % 32).to(tl.uint32)[None, :]
        turned |= (bits & 1) << channel
    row = (row_tile * ROWS + tl.arange(0, ROWS)).to(tl.int64)
    offsets = ((k.to(tl.int64) * padded_rows + row[:, None]) * TAPS + tap[None, :]) * channel_words
    mask = (row < padded_rows)[:, None] & (tap < TAPS)[None, :]
    tl.store(out_ptr + offsets + channel_word, turned.to(tl.int32, bitcast=True), mask=mask)


def stage_taps(directions: Directions, tensor_id: int, weight: torch.Size, device: torch.device) -> Tensor:
    """Writes a convolution's packed signs for every direction, tap by tap.

    Bit b of word [k, row, tap, c] is the sign of input channel 32c + b; beyond the channels they mean nothing.

    Args:
        directions: Names the K directions; signs.
        tensor_id: The weight's tensor id.
        weight: Its shape, [O, C, kernel height, kernel width].
        device: Where to.

    Returns:
        int32, [K, 4·ceil(O/4), taps, ceil(C/32)], taps = kernel height · kernel width.
    """
    out_channels, channels, height, width = weight
    if height * width == 1:
        return stage(directions, tensor_id, out_channels, channels, device)[:, :, None]
    taps, padded_rows, channel_words = height * width, 4 * blocks(out_channels, 4), blocks(channels, 32)
    out = torch.empty(directions.num, padded_rows, taps, channel_words, dtype=torch.int32, device=device)
    row_tiles = blocks(padded_rows, CONFIG["ROWS"])
    launch(
        _stage_taps_kernel,
        directions.num * row_tiles * channel_words,
        out,
        out_ptr=out,
        padded_rows=padded_rows,
        channels=channels,
        row_tiles=row_tiles,
        channel_words=channel_words,
        whole_word=word_argument(directions, tensor_id),
        **counter_arguments(directions),
        ROUNDS=directions.rounds,
        TAPS=taps,
        PLACES=power_of_two(taps),
        **CONFIG,
    )
    return out
