"""What only kernels call: compiled up to plain LLVM code, which each kernel takes in and optimises once.

Numba would optimise every function by itself and make machine code of it before a caller gets to see it, and the
caller does both again with all that it has taken in: most of a cold start went into code that nothing ever ran.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler
from numba.core.compiler_machinery import PassManager
from numba.core.registry import CPUDispatcher


class _CalleeLibrary(JITCodeLibrary):
    """Code to be linked into a caller's. It is at no address, so Numba is told none, and keeps nothing there."""

    def _optimize_final_module(self) -> None:
        """Left to the caller, who sees more."""

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True

    def get_pointer_to_function(self, name: str) -> int:
        """No address: the interpreter cannot call it."""
        return 0

    @property
    def codegen(self) -> Any:
        """This library, for :meth:`set_env`, all that Numba asks of it here."""
        return self

    def set_env(self, name: str, environment: Any) -> None:
        """Nothing: the variable for it is in the caller's code."""


class _CalleeCompiler(Compiler):
    """Numba's compiler, up to the code that callers link."""

    def define_pipelines(self) -> list[PassManager]:
        """Numba's own passes, which fill a library that is there and make one only otherwise."""
        state = self.state
        state.library = _CalleeLibrary(state.targetctx.codegen(), state.func_id.func_qualname)
        return super().define_pipelines()


class Callee(CPUDispatcher):
    """A function for kernels.

    Args:
        function: What it does.
        options: Numba's.
    """

    def __init__(self, function: Callable[..., Any], **options: Any) -> None:
        given = {"nopython": True, "no_cpython_wrapper": True, **options}
        super().__init__(function, targetoptions=given, pipeline_class=_CalleeCompiler)

    def __call__(self, *arguments: Any) -> NoReturn:
        """Refuses: there is no machine code to call.

        Raises:
            TypeError: Always.
        """
        raise TypeError(
            f"{self.__name__} is compiled into kernels only; call it from one, decorated by @kernel."
        )
