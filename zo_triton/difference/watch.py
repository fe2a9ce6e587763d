"""The first run of a closure is watched: does every tensor operation pass through the mode?

Compiled code does not. ``torch.compile`` can be told to run the original Python instead; a scripted module
can't, so it is refused. Later runs with the same plan are not watched: watching costs microseconds an operation.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import _get_current_function_mode
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def uncompiled(needed: bool) -> AbstractContextManager[Any]:
    """Runs what ``torch.compile`` wrapped as it was written, if ``needed`` and anything can be wrapped."""
    if not needed or "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


class Watch(TorchDispatchMode):
    """Sees every operation that reaches torch's dispatcher, whoever calls it.

    Args:
        mode: The mode that should have seen it first.

    Attributes:
        compiled: Whether ``torch.compile`` stands among the callers of any operation so far.
        refused: The error that was raised where the mode was passed by: TorchScript turns it into one of its own.
    """

    def __init__(self, mode: DifferenceMode) -> None:
        super().__init__()
        self.mode = mode
        self.compiled = False
        self.refused: TypeError | None = None

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Runs the operation, unless it takes a difference-carrying tensor past the mode."""
        kwargs = kwargs or {}
        if not self.compiled and "torch._dynamo" in sys.modules:
            self.compiled = _called_by_compiled()
        if _get_current_function_mode() is self.mode and self.mode.carries(args, kwargs):
            self.refused = TypeError(
                f"{func} took a tensor that depends on the trained parameters past torch's Python functions, "
                "where differences can't follow: a module or function of torch.jit.script or torch.jit.trace, "
                "or an extension in C++. Pass the original nn.Module, or wrap the closure in zo.BlackBox to "
                "evaluate it direction by direction."
            )
            raise self.refused
        return func(*args, **kwargs)


def _called_by_compiled() -> bool:
    """Whether a wrapper made by ``torch.compile`` is on the stack; one of ``torch.compiler.disable`` is none."""
    frame: Any = sys._getframe(1)
    while frame is not None:
        if frame.f_globals.get("__name__") == "torch._dynamo.eval_frame":
            name = getattr(frame.f_code, "co_qualname", frame.f_code.co_name)  # qualified since Python 3.11
            if "Disable" not in name:
                return True
        frame = frame.f_back
    return False
