"""What threads say to each other without Python: int64 values that are read and written in one piece."""

from __future__ import annotations

import os
import platform

from llvmlite import ir
from numba import types, uintp
from numba.core import cgutils
from numba.extending import intrinsic

from zo_triton.cpu.compiling import device

_I64 = ir.IntType(64)


@intrinsic
def atomic_load(context, address):
    """The int64 at an address, read from memory each time."""

    def codegen(context, builder, signature, arguments):
        return builder.load_atomic(_pointer(builder, arguments[0]), "acquire", 8)

    return types.int64(types.uintp), codegen


@intrinsic
def atomic_store(context, address, value):
    """Writes an int64 to an address, after everything that this thread has written before."""

    def codegen(context, builder, signature, arguments):
        builder.store_atomic(arguments[1], _pointer(builder, arguments[0]), "release", 8)
        return context.get_dummy_value()

    return types.void(types.uintp, types.int64), codegen


@intrinsic
def atomic_next(context, address):
    """The int64 at an address, which is one more afterwards: no two threads get the same.

    What a thread has written before its call is seen by whoever gets a later number.
    """

    def codegen(context, builder, signature, arguments):
        return builder.atomic_rmw("add", _pointer(builder, arguments[0]), _I64(1), "acq_rel")

    return types.int64(types.uintp), codegen


@intrinsic
def atomic_swap(context, address, old, new):
    """Writes ``new`` where ``old`` stands; whether it did."""

    def codegen(context, builder, signature, arguments):
        at, old, new = arguments
        pair = builder.cmpxchg(_pointer(builder, at), old, new, "acq_rel", "acquire")
        return builder.extract_value(pair, 1)

    return types.boolean(types.uintp, types.int64, types.int64), codegen


@device
def take_place(places):
    """The index of a place that is free from now on for its taker alone: int64 [at least threads], 1 if taken."""
    at, i = uintp(places.ctypes.data), 0
    while not atomic_swap(at + uintp(8 * i), 0, 1):
        i = i + 1 if i + 1 < places.size else 0
    return i


@device
def leave_place(places, i):
    """Frees it again."""
    atomic_store(uintp(places.ctypes.data) + uintp(8 * i), 0)


@intrinsic
def relax(context):
    """Tells the processor that this is a spinning loop: the core's other hardware thread may have its turn."""

    def codegen(context, builder, signature, arguments):
        if platform.machine().lower() in ("x86_64", "amd64"):
            kind = ir.FunctionType(ir.VoidType(), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "llvm.x86.sse2.pause"), [])
        return context.get_dummy_value()

    return types.void(), codegen


@intrinsic
def give_way(context):
    """Lets the system run another thread on this core, where it offers that."""

    def codegen(context, builder, signature, arguments):
        if os.name == "posix":
            kind = ir.FunctionType(ir.IntType(32), [])
            builder.call(cgutils.get_or_insert_function(builder.module, kind, "sched_yield"), [])
        return context.get_dummy_value()

    return types.void(), codegen


def _pointer(builder, address):
    return builder.inttoptr(address, _I64.as_pointer())
