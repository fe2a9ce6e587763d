"""The interpreter that the tests run in is Triton's own but for its speed."""

import numpy as np
import pytest

pytest.importorskip("triton")

import triton.language as tl
from triton import knobs
from triton.runtime import interpreter

pytestmark = pytest.mark.skipif(not knobs.runtime.interpret, reason="the interpreter is not in use")


def test_types_of_blocks_are_triton_s():
    for element in (tl.float32, tl.uint32, tl.float32):
        found = tl.block_type(element, [4, tl.constexpr(2)])
        assert (str(found), found.numel, found.scalar) == (f"<['4', '2'], {element}>", 8, element)
    assert tl.block_type(tl.float32, [2, 4]).shape.values == [2, 4]


def test_pointers_of_one_name_stay_apart():
    kinds = [tl.pointer_type(tl.float32, space) for space in ("global", "constant")]
    assert [tl.block_type(kind, [4]).scalar for kind in kinds] == kinds
    assert all(tl.block_type(kind, [4]).scalar is kind for kind in kinds)


@pytest.mark.parametrize(
    ("shape", "message"),
    [([2, 3], "must be a power of 2"), ([2.0], "must have type"), ([], "0d block")],
)
def test_a_shape_that_is_none_is_refused_beside_one_that_is(shape, message):
    tl.block_type(tl.float32, [2])
    tl.block_type(tl.float32, [1])
    with pytest.raises((TypeError, ValueError), match=message):
        tl.block_type(tl.float32, shape)


@pytest.mark.parametrize(
    ("type_", "dtype"),
    [
        (tl.bfloat16, np.uint16),
        (tl.int1, bool),
        (tl.uint64, np.uint64),
        (tl.pointer_type(tl.int8), np.uint64),
    ],
)
def test_numbers_are_kept_as_triton_keeps_them(type_, dtype):
    for _ in range(2):
        assert (
            interpreter._get_np_dtype(type_) == interpreter._get_np_dtype(tl.block_type(type_, [2])) == dtype
        )


def test_no_check_is_left_out_that_would_be_looked_at():
    assert not interpreter.interpreter_builder.options.debug
    assert not interpreter.interpreter_builder.options.sanitize_overflow
