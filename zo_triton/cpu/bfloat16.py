"""W @ δ in bfloat16 by the processor's own instruction for pairs of products, with float32 sums.

torch's GEMM rounds W @ δ to bfloat16, writes it out, and packs δ anew in each call. Here the sums of a run of
samples stay in the cache until the epilogue adds what U contributes: nothing is written, nothing is rounded.
"""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from llvmlite import binding, ir
from numba import types, uint32, uintp
from numba.core import cgutils
from numba.extending import intrinsic
from torch import Tensor

from zo_triton.cpu.compiling import kernel, routine
from zo_triton.cpu.scalars import round_bfloat16
from zo_triton.cpu.vectors import LANES, WIDTH, load_vector, store_vector

ROWS = 8
"""Rows of W that go through a run of samples together: 16 of the 32 vector registers hold their sums."""

NOTHING = np.empty((0, 0, ROWS), np.uint32)
"""In place of a packed matrix where torch's GEMM does the product."""

_FLOATS, _WORDS = ir.VectorType(ir.FloatType(), WIDTH), ir.VectorType(ir.IntType(32), WIDTH)
_I32, _I64 = ir.IntType(32), ir.IntType(64)
_PAIR_PRODUCT = "llvm.x86.avx512bf16.dpbf16ps.512"


@cache
def is_native() -> bool:
    """Whether this product is the better one: the processor has the instruction, and no matrix unit for GEMMs."""
    return torch.cpu._is_avx512_bf16_supported() and not torch.cpu._is_amx_tile_supported()


@cache
def is_emulated() -> bool:
    """Whether the processor multiplies no bfloat16 itself, neither by an instruction nor in a matrix unit."""
    return not (torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported())


def pack_weight(weight: Tensor) -> np.ndarray:
    """A matrix [rows, in] as the product reads it, see :func:`pack_rows`."""
    matrix = weight.detach().float().contiguous().numpy()
    packed = np.empty((-(-matrix.shape[0] // ROWS), -(-matrix.shape[1] // 2), ROWS), np.uint32)
    _pack_kernel(packed, matrix)
    return packed


@kernel
def _pack_kernel(packed, matrix):
    pack_rows(packed, matrix)


@routine
def pack_rows(packed, matrix):
    """Two bfloat16 of a row to a word: packed uint32 [⌈rows/8⌉, ⌈in/2⌉, 8], zeros beyond; matrix [rows, in]."""
    rows, inner = matrix.shape
    for block in range(packed.shape[0]):
        for lane in range(ROWS):
            row = block * ROWS + lane
            for i in range(packed.shape[1]):
                word = uint32(0)
                if row < rows:
                    word = round_bfloat16(matrix[row, 2 * i])
                    if 2 * i + 1 < inner:
                        word |= round_bfloat16(matrix[row, 2 * i + 1]) << uint32(16)
                packed[block, i, lane] = word


@routine
def pack_run(pairs, difference, inner, sample, samples):
    """Two features of a sample to a word, for 32 samples: pairs uint32 [⌈in/2⌉, 32], zeros after the last.

    difference: bfloat16 bits, uint16 [at least in, N].
    """
    at, lanes = uintp(sample), min(LANES, samples - sample)
    row_bytes = uintp(2 * difference.shape[1])
    source, target = uintp(difference.ctypes.data) + uintp(2) * at, uintp(pairs.ctypes.data)
    for i in range(pairs.shape[0]):
        both = 2 * i + 1 < inner
        if lanes == LANES and both:
            _pair(target, source, source + row_bytes)
        else:
            first, second, words = difference[2 * i], difference[2 * i + 1 if both else 0], pairs[i]
            words[lanes:] = uint32(0)
            for j in range(lanes):
                high = uint32(second[at + uintp(j)]) << uint32(16) if both else uint32(0)
                words[j] = uint32(first[at + uintp(j)]) | high
        source, target = source + uintp(2) * row_bytes, target + uintp(4 * LANES)


@routine
def pair_product(product, column, packed, pairs):
    """``product[:, column : column + 32] = W @ δ``: float32 [8·blocks, at least column + 32]."""
    stride = product.shape[1]
    target = uintp(product.ctypes.data) + uintp(4 * column)
    for block in range(packed.shape[0]):
        weights_at, inputs_at = uintp(packed[block].ctypes.data), uintp(pairs.ctypes.data)
        pair_rows(target, weights_at, 1, ROWS, inputs_at, stride, packed.shape[1])
        target += uintp(4 * ROWS * stride)


@intrinsic
def _pair(context, out, first, second):
    """``out[j] = first[j] | second[j] << 16`` for 32 lanes; out: address of uint32, the others of uint16."""

    def codegen(context, builder, signature, arguments):
        out, first, second = arguments
        halves = ir.VectorType(ir.IntType(16), WIDTH)
        for half in range(LANES // WIDTH):
            wide = []
            for source in (first, second):
                place = builder.add(source, _I64(2 * WIDTH * half))
                value = builder.load(builder.inttoptr(place, halves.as_pointer()))
                value.align = 2
                wide.append(builder.zext(value, _WORDS))
            word = builder.or_(wide[0], builder.shl(wide[1], _WORDS([16] * WIDTH)))
            place = builder.add(out, _I64(4 * WIDTH * half))
            builder.store(word, builder.inttoptr(place, _WORDS.as_pointer())).align = 4
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.uintp), codegen


@intrinsic
def pair_rows(context, out, weights, row, step, x, stride, count):
    """``out[r, j] = Σ_i w[r, i]·x[i, j]`` for 8 rows and 32 lanes, each · the sum of a pair of products.

    All by address: out float32, rows ``stride`` elements apart; weights uint32, its rows ``row`` and their words
    ``step`` elements apart; x uint32 [count, 32].
    """

    def codegen(context, builder, signature, arguments):
        out, weights, row_words, step, x, stride, count = arguments
        vectors = range(LANES // WIDTH)
        sums = [[cgutils.alloca_once_value(builder, _FLOATS(None)) for _ in vectors] for _ in range(ROWS)]
        with cgutils.for_range(builder, count) as loop:
            x_at = builder.add(x, builder.mul(loop.index, _I64(4 * LANES)))
            inputs = [load_words(builder, builder.add(x_at, _I64(4 * WIDTH * v))) for v in vectors]
            weights_at = builder.add(weights, builder.mul(loop.index, builder.mul(step, _I64(4))))
            for row in range(ROWS):
                place = builder.mul(row_words, _I64(4 * row))
                wide = load_word(builder, builder.add(weights_at, place))
                for total, value in zip(sums[row], inputs, strict=True):
                    builder.store(add_pairs(builder, builder.load(total), wide, value), total)
        for row in range(ROWS):
            for v in vectors:
                shift = builder.add(builder.mul(stride, _I64(4 * row)), _I64(4 * WIDTH * v))
                store_vector(builder, builder.load(sums[row][v]), builder.add(out, shift))
        return context.get_dummy_value()

    address, size = types.uintp, types.intp
    return types.void(address, address, size, size, address, size, size), codegen


def load_word(builder, address):
    """Emits the load of one word, two bfloat16, into all 16 places."""
    word = builder.load(builder.inttoptr(address, _I32.as_pointer()))
    one = builder.insert_element(ir.Constant(_WORDS, ir.Undefined), word, _I32(0))
    return builder.shuffle_vector(one, one, ir.Constant(_WORDS, None))


def load_words(builder, address):
    """Emits the load of 16 words, two bfloat16 each."""
    return builder.bitcast(load_vector(builder, address), _WORDS)


def add_pairs(builder, total, weights, inputs):
    """Emits total + w₀x₀ + w₁x₁ for 16 lanes of words; without the instruction by two fused multiply-adds."""
    if binding.get_host_cpu_features().get("avx512bf16"):
        kind = ir.FunctionType(_FLOATS, [_FLOATS, _WORDS, _WORDS])
        product = cgutils.get_or_insert_function(builder.module, kind, _PAIR_PRODUCT)
        return builder.call(product, [total, weights, inputs])
    kind = ir.FunctionType(_FLOATS, [_FLOATS] * 3)
    multiply_add = cgutils.get_or_insert_function(builder.module, kind, f"llvm.fma.v{WIDTH}f32")
    high = _WORDS([0xFFFF0000] * WIDTH)
    for part in (lambda word: builder.shl(word, _WORDS([16] * WIDTH)), lambda word: builder.and_(word, high)):
        factors = [builder.bitcast(part(word), _FLOATS) for word in (weights, inputs)]
        total = builder.call(multiply_add, [*factors, total])
    return total
