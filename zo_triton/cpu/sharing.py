"""Kernels that several threads run at once, handed over in compiled code.

Giving a thread work through Python takes two changes of the interpreter lock and often the wake-up of a sleeper,
50 µs on a virtual machine, as long as a small layer takes. A thread that waits here, without the lock, is told
where a function and its arguments lie, and calls it: two microseconds. Nobody waits for one that is late: each
takes the next piece of the work while there is one, and who comes when all are taken is not needed.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import CodeType, FunctionType
from typing import Any

import numpy as np
from llvmlite import ir
from numba import types, uintp
from numba.core import cgutils
from numba.extending import intrinsic

from zo_triton.cpu.atomics import atomic_load, atomic_store, atomic_swap, give_way, relax
from zo_triton.cpu.compiling import device, kernel, routine

STATE, THUNK, PLACE, AWAKE, GIVEN, DONE = 0, 1, 2, 3, 8, 9
"""A thread's slot: what it is offered, whether it waits for offers, and its shares of Python functions."""

SLOT_WORDS = 16
"""Int64 values in a slot: two cache lines, the second for what Python counts."""

TAKEN, GRAIN, START, STOP = range(4)
"""A job: pieces taken so far, items in a piece, the first item and the one after the last."""

NOBODY = np.zeros((0, SLOT_WORDS), np.int64)
"""The slots of no threads."""

_FREE, _OFFERED, _ACCEPTED, _FINISHED = 0, 1, 2, 3

GLANCES = 12_000
"""About 300 µs, the longest gap between the operations of a small model's training loop."""

_I64 = ir.IntType(64)
_THUNK = ir.FunctionType(_I64, [_I64])


class SharedKernel:
    """A kernel whose last two arguments are the first of its items and the one after its last.

    Called like any other, it works in the calling thread; ``threads.together`` runs it on all threads.

    Attributes:
        body: The function, compiled as a part of ``everywhere`` only.
        everywhere: What Python calls, see :func:`_everywhere`.
    """

    def __init__(self, function: Callable[..., None]) -> None:
        self.__name__, self.body = function.__name__, routine(function)
        self.everywhere = kernel(_copy(_everywhere, function, self.body))

    def __call__(self, *arguments: Any) -> None:
        """Runs it on the items from the last argument but one to the last, all in one piece."""
        *others, start, stop = arguments
        self.run(NOBODY, others, start, stop, stop - start)

    def run(self, slots: np.ndarray, arguments: Sequence[Any], start: int, stop: int, grain: int) -> None:
        """Runs it on the items start … stop - 1, ``grain`` at a time, here and in the threads of these slots.

        Raises:
            MemoryError: A thread had too little.
        """
        failures = self.everywhere(slots, np.array([0, grain, start, stop], np.int64), *arguments)
        if failures:
            raise MemoryError(f"{failures} threads had too little memory for {self.__name__}.")


shared = SharedKernel
"""Decorates such a kernel."""


def _copy(template: Any, function: Callable[..., None], body: Any) -> FunctionType:
    """The template with ``body`` for its own, at the function's place in its file, by which Numba keeps results."""
    code: CodeType = template.__code__
    name = f"{function.__name__}{template.__name__}"
    code = code.replace(
        co_filename=function.__code__.co_filename,
        co_firstlineno=function.__code__.co_firstlineno,
        co_name=name,
    )
    made = FunctionType(code, {**template.__globals__, "_body": body}, name)
    made.__module__, made.__qualname__ = function.__module__, name
    return made


_body: Any = None


def _everywhere(slots, job, *arguments):
    """Runs a job in this thread and in those that come; how many of them have failed."""
    thunk, place = _prepare(_body, job, arguments)
    for i in range(slots.shape[0]):
        slots[i, THUNK], slots[i, PLACE] = thunk, place
        atomic_store(slots[i].ctypes.data, _OFFERED)
    failures = _call(thunk, place)
    for i in range(slots.shape[0]):
        failures += _outcome(slots[i])
    return failures


@intrinsic
def _prepare(context, body, job, arguments):
    """Two addresses: of machine code that works on a job, and of what it needs for that.

    The code takes the second address, calls ``body(*arguments, start, stop)`` for one piece of the job after the
    other, and returns 1 if one has failed, else 0. What it needs lies on the stack of whoever calls this.
    """
    wanted = (*arguments.types, types.intp, types.intp)
    signature = body.get_call_type(context, wanted, {})
    compiled = body.dispatcher.overloads[tuple(signature.args)]

    def codegen(context, builder, signature, values):
        _, job, arguments = signature.args
        job_at = context.make_array(job)(context, builder, values[1]).data
        packed = cgutils.pack_struct(
            builder, [builder.ptrtoint(job_at, _I64), _borrowed(context, builder, arguments, values[2])]
        )
        thunk = cgutils.get_or_insert_function(
            builder.module, _THUNK, f"thunk.{compiled.fndesc.mangled_name}"
        )
        thunk.linkage = "internal"
        _work(context, thunk, packed.type, compiled)
        context.add_linking_libs([compiled.library])
        place = cgutils.alloca_once_value(builder, packed)
        addresses = [builder.ptrtoint(each, _I64) for each in (thunk, place)]
        return context.make_tuple(builder, signature.return_type, addresses)

    return types.UniTuple(types.uintp, 2)(body, job, arguments), codegen


def _work(context, thunk, kind, compiled):
    """Emits the thunk: takes pieces while there are any, and leaves at a failure."""
    builder = ir.IRBuilder(thunk.append_basic_block())
    given = builder.load(builder.inttoptr(thunk.args[0], kind.as_pointer()))
    job = builder.inttoptr(builder.extract_value(given, 0), _I64.as_pointer())
    passed = cgutils.unpack_tuple(builder, builder.extract_value(given, 1))
    taken_at = builder.gep(job, [_I64(TAKEN)])
    grain, first, end = (builder.load(builder.gep(job, [_I64(place)])) for place in (GRAIN, START, STOP))
    callee = context.declare_function(builder.module, compiled.fndesc)
    take, done = (thunk.append_basic_block(name) for name in ("take", "done"))
    builder.branch(take)
    builder.position_at_end(take)
    taken = builder.atomic_rmw("add", taken_at, _I64(1), "acq_rel")
    start = builder.add(first, builder.mul(grain, taken))
    with builder.if_then(builder.icmp_signed(">=", start, end)):
        builder.branch(done)
    stop = builder.add(start, grain)
    stop = builder.select(builder.icmp_signed("<", stop, end), stop, end)
    status, _ = context.call_conv.call_function(
        builder, callee, compiled.fndesc.restype, compiled.fndesc.argtypes, [*passed, start, stop]
    )
    with builder.if_then(status.is_error):
        builder.ret(_I64(1))
    builder.branch(take)
    builder.position_at_end(done)
    builder.ret(_I64(0))


def _borrowed(context, builder, kind, value):
    """Arguments without their counts of references.

    Every slice of an array changes its count, and threads that have one in common wait for each other's caches.
    """
    if isinstance(kind, types.Array):
        array = context.make_array(kind)(context, builder, value)
        array.meminfo = array.meminfo.type(None)
        return array._getvalue()
    if isinstance(kind, types.BaseTuple):
        for i, (each, part) in enumerate(zip(kind.types, cgutils.unpack_tuple(builder, value), strict=True)):
            value = builder.insert_value(value, _borrowed(context, builder, each, part), i)
    return value


@intrinsic
def _call(context, thunk, place):
    """Calls what :func:`_prepare` made."""

    def codegen(context, builder, signature, arguments):
        thunk, place = arguments
        return builder.call(builder.inttoptr(thunk, _THUNK.as_pointer()), [place])

    return types.int64(types.uintp, types.uintp), codegen


@device
def _outcome(slot):
    """Waits until nobody works on what was offered in a slot any more; 1 if that failed."""
    at = uintp(slot.ctypes.data)
    if atomic_swap(at, _OFFERED, _FREE):
        return 0
    glances = 0
    while atomic_load(at) < _FINISHED:
        glances += 1
        if glances < GLANCES:
            relax()
        else:
            give_way()
    failed = atomic_load(at) - _FINISHED
    atomic_store(at, _FREE)
    return failed


@kernel
def serve(slot, done):
    """Tells how many shares are done, and does what is offered until one is given or nothing comes for long.

    In compiled code, which holds no interpreter lock: who is told needs that lock at once, and would go to sleep.
    """
    at, given_at = uintp(slot.ctypes.data), uintp(slot[GIVEN:].ctypes.data)
    atomic_store(slot[DONE:].ctypes.data, done)
    slot[AWAKE] = 1
    glances = 0
    while glances < GLANCES and atomic_load(given_at) == done:
        if atomic_load(at) == _OFFERED and atomic_swap(at, _OFFERED, _ACCEPTED):
            atomic_store(at, _FINISHED + _call(uintp(slot[THUNK]), uintp(slot[PLACE])))
            glances = 0
        relax()
        glances += 1
    slot[AWAKE] = 0


@kernel
def watch(slot):
    """Waits a moment for the share that was given to be done, before the caller goes to sleep.

    Waking a sleeping thread takes about 50 µs on a virtual machine, as long as a small layer's whole share of
    work. The queues alone carry Python's shares: a watch that ends too early or too late only costs time.
    """
    done_at, given, glances = uintp(slot[DONE:].ctypes.data), slot[GIVEN], 0
    while glances < GLANCES and atomic_load(done_at) != given:
        relax()
        glances += 1
