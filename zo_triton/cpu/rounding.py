"""out += update in float16 or bfloat16, rounded stochastically with words of the field.

All in integers, on the bits of the exact float64 sum: what lies below the format's last place is compared with
the word. See ``zo_triton/reference/rounding.py`` for what it means.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import float64, int64, uint32
from torch import Tensor

from zo_triton.cpu.compiling import device
from zo_triton.cpu.field import key_of, philox_words
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.threads import together
from zo_triton.cpu.vectors import float_from_bits
from zo_triton.directions import (
    LARGEST_PATTERN,
    MANTISSA_BITS,
    PART_ROUNDING,
    SMALLEST_EXPONENT,
    Directions,
    tensor_word,
)

RUN = 1024
"""Elements whose words are drawn together."""

PIECE_RUNS = 8
"""Runs that a thread takes at a time."""

_MAGNITUDE = (1 << 63) - 1
_HIDDEN = 1 << 52
_INFINITE = 0x7FF << 52


def stochastic_add(out: Tensor, update: Tensor, directions: Directions, tensor_id: int) -> None:
    """Same contract as the reference."""
    flat = out.detach()
    work = flat.contiguous()
    name = str(out.dtype).removeprefix("torch.")
    arrays = work.view(torch.uint16).view(-1).numpy(), update.detach().contiguous().view(-1).numpy()
    word, key = tensor_word(tensor_id, PART_ROUNDING), key_of(directions)
    numbers = MANTISSA_BITS[name], SMALLEST_EXPONENT[name], LARGEST_PATTERN[name]
    together(_round_kernel, (*arrays, word, key, *numbers), -(-out.numel() // RUN), grain=PIECE_RUNS)
    if work is not flat:
        flat.copy_(work)


@shared
def _round_kernel(out, update, word, key, mantissa, smallest, largest, start, stop):
    """Runs start … stop - 1 of the flattened tensor: out uint16, the format's bits; update float32."""
    words = np.empty((4, RUN // 4), np.uint32)
    sums = np.empty(RUN, np.float64)
    bits = sums.view(np.int64)
    for run in range(start, stop):
        first = run * RUN
        count = min(RUN, out.size - first)
        blocks = (uint32(first // 4), uint32(1))
        philox_words(words, (count + 3) // 4, blocks, (uint32(0), uint32(0)), uint32(word), key)
        for i in range(count):
            sums[i] = _widen(uint32(out[first + i]), mantissa) + float64(update[first + i])
        for i in range(count):
            pattern = _narrow(bits[i], int64(words[i % 4, i // 4]), mantissa, smallest, largest)
            out[first + i] = np.uint16(pattern)


@device
def _widen(pattern, mantissa):
    """The float64 that the bits of a float16 (10 bits of mantissa) or bfloat16 mean."""
    if mantissa == 7:
        return float64(float_from_bits(pattern << uint32(16)))
    shifted = (pattern & uint32(0x7FFF)) << uint32(13)
    if shifted >= uint32(0x7C00 << 13):
        size = float64(float_from_bits(shifted | uint32(0x7F800000)))
    else:
        # The exponents' biases, 15 and 127, differ by 112.
        size = float64(float_from_bits(shifted)) * 2.0**112
    return -size if pattern & uint32(0x8000) else size


@device
def _narrow(bits, word, mantissa, smallest, largest):
    """The format's bits for the float64 with these bits, rounded by a word in [0, 2³²)."""
    sign = int64(0x8000) if bits < 0 else int64(0)
    magnitude = bits & int64(_MAGNITUDE)
    if magnitude > int64(_INFINITE):
        # A quiet NaN: the exponent full, and the mantissa's highest bit.
        return largest + int64(1) + (int64(1) << (mantissa - 1))
    if magnitude == int64(_INFINITE):
        return sign | (largest + int64(1))
    exponent = (magnitude >> int64(52)) - int64(1023)
    # A sum of these formats and float32 is zero or a normal float64.
    digits = (magnitude & int64(_HIDDEN - 1)) | int64(_HIDDEN)
    if magnitude == 0:
        digits = int64(0)
    place = max(exponent, int64(smallest))
    shift = int64(52) - mantissa + place - exponent
    whole = digits >> min(shift, int64(63))
    fraction = (digits >> min(shift - int64(32), int64(63))) & int64(0xFFFFFFFF)
    if word < fraction:
        whole += int64(1)
    # A mantissa that overflows carries into the exponent, and one without its hidden bit is a denormal.
    pattern = ((place - smallest) << mantissa) + whole
    return sign | min(pattern, int64(largest))
