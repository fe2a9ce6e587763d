"""Every run of a closure is watched: does each tensor operation pass through the mode?

Compiled code does not. What ``torch.compile`` made is told to run the original Python instead; a scripted module
or an extension in C++ can't be told, so it is refused. The watch hangs on the dispatcher, below torch's Python
functions, and is taken off it while the mode handles one of these: it sees what passed the mode by and nothing
else, so that a step pays about a microsecond for each function the closure calls.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
from torch._C import _len_torch_dispatch_stack, _pop_torch_dispatch_stack, _push_on_torch_dispatch_stack
from torch.overrides import _get_current_function_mode
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def uncompiled() -> AbstractContextManager[Any]:
    """Runs what ``torch.compile`` wrapped as it was written, if anything can be wrapped."""
    if "torch._dynamo" not in sys.modules:
        return nullcontext()
    return torch.compiler.set_stance("force_eager")


class Watch(TorchDispatchMode):
    """Sees every operation that reaches torch's dispatcher past the mode, whoever calls it.

    Args:
        mode: The mode that should have seen it first.

    Attributes:
        refused: The error that was raised where the mode was passed by: TorchScript turns it into one of its own.
    """

    def __init__(self, mode: DifferenceMode) -> None:
        super().__init__()
        self.mode = mode
        self.refused: TypeError | None = None

    def __torch_dispatch__(
        self, func: Callable, types: Any, args: tuple = (), kwargs: dict | None = None
    ) -> Any:
        """Runs the operation, unless it takes a difference-carrying tensor past the mode."""
        kwargs = kwargs or {}
        if _get_current_function_mode() is self.mode and self.mode.carries(args, kwargs):
            self.refused = TypeError(
                f"{func} took a tensor that depends on the trained parameters past torch's Python functions, "
                "where differences can't follow: a module or function of torch.jit.script or torch.jit.trace, "
                "an assignment to x.real or x.imag, or an extension in C++. Pass the original nn.Module, or wrap "
                "the closure in zo.BlackBox to evaluate it direction by direction."
            )
            raise self.refused
        return func(*args, **kwargs)

    def look_away(self) -> bool:
        """Leaves the dispatcher; False, and nothing done, if a mode that the closure entered lies on top.

        Nor is there anything to do in a rule that calls other functions: the watch is away then.
        """
        if _len_torch_dispatch_stack() == 0:
            return False
        top = _pop_torch_dispatch_stack(None)
        if top is self:
            return True
        _push_on_torch_dispatch_stack(top)
        return False

    def look_again(self) -> None:
        """Undoes :meth:`look_away`."""
        _push_on_torch_dispatch_stack(self)
