"""out += update in float16 or bfloat16, rounded stochastically with words of the field.

All in integers, on the bits of the exact float64 sum: what lies below the format's last place is compared with
the word. See ``zo_triton/reference/rounding.py`` for what it means.
"""

from __future__ import annotations

import triton
import triton.language as tl
from torch import Tensor

from zo_triton.directions import (
    LARGEST_PATTERN,
    MANTISSA_BITS,
    PART_ROUNDING,
    SMALLEST_EXPONENT,
    Directions,
    tensor_word,
)
from zo_triton.kernels.field import (
    UNSPECIALISED,
    as_word,
    counter_arguments,
    counter_of,
    interleave,
    signed,
)
from zo_triton.kernels.launch import blocks, launch
from zo_triton.kernels.philox import philox

CONFIG = {"BLOCK": 1024, "num_warps": 4}

_MAGNITUDE = tl.constexpr((1 << 63) - 1)
_HIDDEN = tl.constexpr(1 << 52)
_INFINITE = tl.constexpr(0x7FF << 52)


@triton.jit(do_not_specialize=(*UNSPECIALISED, "rounding_word"))
def _stochastic_add_kernel(
        out_ptr, update_ptr, count, key0, key1, step, first, rounding_word, ROUNDS: tl.constexpr,
        MANTISSA: tl.constexpr, SMALLEST: tl.constexpr, LARGEST: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One BLOCK of the flattened tensor; the four words of a Philox block belong to four neighbours."""
    start = tl.program_id(0).to(tl.int64) * BLOCK
    _, step_word, key0, key1 = counter_of(first, step, key0, key1)
    block = (start // 4 + tl.arange(0, BLOCK // 4)).to(tl.uint32)
    direction = tl.zeros((1,), tl.uint32)
    word0, word1, word2, word3 = philox(
        block, as_word(rounding_word), direction, step_word, key0, key1, ROUNDS
    )
    words = interleave(word0[:, None], word1[:, None], word2[:, None], word3[:, None], BLOCK, 1)
    words = tl.reshape(words, (BLOCK,)).to(tl.int64)
    offsets = start + tl.arange(0, BLOCK)
    mask = offsets < count
    weight = tl.load(out_ptr + offsets, mask=mask, other=0.0)
    if MANTISSA == 7:
        # By the bits, which keeps denormals everywhere.
        weight = (weight.to(tl.uint16, bitcast=True).to(tl.uint32) << 16).to(tl.float32, bitcast=True)
    total = weight.to(tl.float64) + tl.load(update_ptr + offsets, mask=mask, other=0.0).to(tl.float64)
    pattern = narrow_stochastically(total.to(tl.int64, bitcast=True), words, MANTISSA, SMALLEST, LARGEST)
    narrow = pattern.to(tl.uint16).to(out_ptr.dtype.element_ty, bitcast=True)
    tl.store(out_ptr + offsets, narrow, mask=mask)


@triton.jit
def narrow_stochastically(bits, word, MANTISSA: tl.constexpr, SMALLEST: tl.constexpr, LARGEST: tl.constexpr):
    """The bits of the narrow format, in an int64, for float64 bits and words in [0, 2³²), both int64.

    A sum of these formats and float32 is zero or a normal float64, so the hidden bit is always there.
    """
    sign = tl.where(bits < 0, 0x8000, 0)
    magnitude = bits & _MAGNITUDE
    exponent = (magnitude >> 52) - 1023
    digits = tl.where(magnitude == 0, 0, (magnitude & (_HIDDEN - 1)) | _HIDDEN)
    place = tl.maximum(exponent, SMALLEST)
    shift = 52 - MANTISSA + place - exponent
    whole = digits >> tl.minimum(shift, 63)
    fraction = (digits >> tl.minimum(shift - 32, 63)) & 0xFFFFFFFF
    whole += (word < fraction).to(tl.int64)
    # A mantissa that overflows carries into the exponent, and one without its hidden bit is a denormal.
    pattern = sign | tl.minimum(((place - SMALLEST) << MANTISSA) + whole, LARGEST)
    pattern = tl.where(magnitude == _INFINITE, sign | (LARGEST + 1), pattern)
    # A quiet NaN: the exponent full, and the mantissa's highest bit.
    return tl.where(magnitude > _INFINITE, LARGEST + 1 + (1 << (MANTISSA - 1)), pattern)


def stochastic_add(
    out: Tensor,
    update: Tensor,
    directions: Directions,
    tensor_id: int,
    *,
    config: dict[str, int] | None = None,
) -> None:
    """``out += update``, rounded stochastically.

    Args:
        out: float16 or bfloat16, any strides.
        update: float32, the same shape.
        directions: Supplies seed, step and rounds.
        tensor_id: The tensor's id.
        config: Block size and launch options in place of :data:`CONFIG`.
    """
    work, config = out.detach().contiguous(), config or CONFIG
    name = str(out.dtype).removeprefix("torch.")
    launch(
        _stochastic_add_kernel,
        blocks(out.numel(), config["BLOCK"]),
        out,
        out_ptr=work,
        update_ptr=update.contiguous(),
        count=out.numel(),
        **counter_arguments(directions),
        rounding_word=signed(tensor_word(tensor_id, PART_ROUNDING)),
        ROUNDS=directions.rounds,
        MANTISSA=MANTISSA_BITS[name],
        SMALLEST=SMALLEST_EXPONENT[name],
        LARGEST=LARGEST_PATTERN[name],
        **config,
    )
    if work.data_ptr() != out.data_ptr():
        out.copy_(work)
