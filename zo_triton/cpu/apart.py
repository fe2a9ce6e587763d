"""Code that kernels reach by its address: compiled by itself, once, and only by programs that run it.

What a kernel calls is otherwise compiled into it. For rules of activations, of which a network has one and most
have ReLU's alone, that took a quarter of the time in which a kernel with all of them is compiled.
"""

from __future__ import annotations

import numpy as np
from llvmlite import ir
from numba import carray, types
from numba.core import cgutils, errors
from numba.extending import intrinsic

from zo_triton.cpu.addresses import pointer
from zo_triton.cpu.compiling import device, widen

ARRAYS = 4
"""That such code is given, all float32; the first one is written to."""

_I64 = ir.IntType(64)
_CODE = ir.FunctionType(ir.VoidType(), [_I64] * (ARRAYS + 1))


@intrinsic
def address_of(context, function):
    """Where the machine code of a function (four addresses, a number of elements) begins.

    It lies in the kernel that asks, and stays where it is as long as the process lives.
    """
    signature = function.get_call_type(context, (*[types.uintp] * ARRAYS, types.intp), {})
    compiled = function.dispatcher.overloads[tuple(signature.args)]

    def codegen(context, builder, signature, arguments):
        name = f"apart.{compiled.fndesc.mangled_name}"
        code = cgutils.get_or_insert_function(builder.module, _CODE, name)
        code.linkage = "internal"
        widen(code)
        inner = ir.IRBuilder(code.append_basic_block())
        callee = context.declare_function(inner.module, compiled.fndesc)
        context.call_conv.call_function(
            inner, callee, compiled.fndesc.restype, compiled.fndesc.argtypes, code.args
        )
        inner.ret_void()
        context.add_linking_libs([compiled.library])
        return builder.ptrtoint(code, _I64)

    return types.uintp(function), codegen


@intrinsic
def call_at(context, address, first, second, third, fourth, at, count):
    """Calls what lies at an address with four arrays, of which all but the first begin at the offset ``at``."""
    for array in (first, second, third, fourth):
        if not isinstance(array, types.Array) or (array.dtype, array.layout) != (types.float32, "C"):
            raise errors.TypingError(f"code apart takes contiguous arrays of float32, got {array}.")

    def codegen(context, builder, signature, arguments):
        address, *arrays, at, count = arguments
        places = []
        for kind, value in zip(signature.args[1 : 1 + ARRAYS], arrays, strict=True):
            data = context.make_array(kind)(context, builder, value).data
            places.append(builder.ptrtoint(builder.gep(data, [at]) if places else data, _I64))
        builder.call(builder.inttoptr(address, _CODE.as_pointer()), [*places, count])
        return context.get_dummy_value()

    return types.void(types.uintp, first, second, third, fourth, types.uintp, types.intp), codegen


@device
def floats_at(address, count):
    """The float32 values that lie there."""
    return carray(pointer(address), (count,), np.float32)
