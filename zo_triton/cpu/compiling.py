"""How this engine's kernels are compiled: without the GIL, kept on disk, and never in silence."""

from __future__ import annotations

import gc
import os
import sys
from collections.abc import Callable, Iterable
from functools import partial
from time import monotonic
from typing import Any

import numba
from llvmlite import ir
from numba import types
from numba.core.compiler import Compiler
from numba.core.compiler_lock import global_compiler_lock
from numba.extending import intrinsic

from zo_triton._memory import check_room
from zo_triton.cpu import kept
from zo_triton.cpu.callee import Callee

_OPTIONS: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}

ROOM = 256 << 20
"""Bytes of address space without which nothing is compiled (measured: 171 MiB for a first kernel).

See ``kept``.
"""

# A child that is forked while another thread compiles would wait for that thread's lock for ever.
os.register_at_fork(
    before=global_compiler_lock.acquire,
    after_in_parent=global_compiler_lock.release,
    after_in_child=global_compiler_lock.release,
)

device = partial(Callee, forceinline=True, **_OPTIONS)
"""Decorates a function that kernels call; it becomes a part of each caller."""

routine = partial(Callee, **_OPTIONS)
"""The same for one that works long enough to be worth a call; a kernel has it once."""


class _Told:
    """Says on stderr what is compiled: in one line that changes on a terminal, once a process elsewhere."""

    def __init__(self) -> None:
        self._count, self._since = 0, 0.0

    def begin(self, kernel: str) -> None:
        """A kernel that was not in the cache."""
        self._count += 1
        if sys.stderr.isatty():
            self._since = self._since or monotonic()
            seconds = f", {monotonic() - self._since:.0f} s so far" if self._count > 1 else ""
            sys.stderr.write(
                f"\r\x1b[Kzo_triton: compiling CPU kernels, once: {kernel} ({self._count}{seconds}) …"
            )
        elif self._count == 1 and kept.folder() is not None:
            sys.stderr.write(
                "zo_triton: compiling CPU kernels, once; later runs load them from the cache …\n"
            )
        sys.stderr.flush()

    def end(self) -> None:
        """It is made, or something is wrong."""
        if sys.stderr.isatty():
            sys.stderr.write("\r\x1b[K")
            sys.stderr.flush()


_told = _Told()


class _KernelCompiler(Compiler):
    """Numba's, which says what it is at and leaves Python's collector out.

    What it makes is in use until it is done, and looking through all of it again and again takes a seventh of the
    time.
    """

    def compile_extra(self, func: Callable[..., Any]) -> Any:
        """Compiles a function that was not in the cache.

        Raises:
            MemoryError: There may be too little for it.
            TypeError: An array is not contiguous: kernels go through memory by address.
        """
        check_contiguous(func.__name__, self.state.args)
        check_room(ROOM, f"the CPU kernel {func.__name__} can't be compiled")
        collects = gc.isenabled()
        gc.disable()
        _told.begin(func.__name__.strip("_"))
        try:
            return super().compile_extra(func)
        finally:
            _told.end()
            if collects:
                gc.enable()


def check_contiguous(name: str, arguments: Iterable[types.Type]) -> None:
    """Refuses to compile a kernel for arrays that are not contiguous; costs nothing once it is compiled.

    Where it goes by address it would read what lies between an array's elements, or behind its end.

    Raises:
        TypeError: One is not.
    """
    for each in arguments:
        if isinstance(each, types.BaseTuple):
            check_contiguous(name, each.types)
        elif isinstance(each, types.Array) and not each.is_c_contig:
            raise TypeError(
                f"the CPU kernel {name} takes contiguous arrays, got {each}; call contiguous() before numpy()."
            )


def kernel(function: Callable[..., Any]) -> Any:
    """Decorates a function that Python calls. Arguments are contiguous arrays (bfloat16 as uint16) and numbers.

    Its first call on a machine waits for the compiler. Code that measures time makes one untimed call first.
    """
    compiled = numba.njit(pipeline_class=_KernelCompiler, **_OPTIONS)(function)
    if kept.folder() is not None:
        compiled._cache = kept.Results(function)
    return compiled


@intrinsic
def wide_vectors(context):
    """Has LLVM use the widest registers there are in the loops of the function, or kernel, that calls this.

    By itself it takes half of AVX-512's, since the first processors that had it slowed down for whole ones.
    """

    def codegen(context, builder, signature, arguments):
        widen(builder.function)
        return context.get_dummy_value()

    return types.void(), codegen


def widen(function: ir.Function) -> None:
    """The same for a function that is being written."""
    # llvmlite knows attributes of one word alone, and refuses this one in its own ``add``.
    set.add(function.attributes, '"prefer-vector-width"="512"')
