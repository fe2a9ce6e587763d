"""Code of other people that a step runs: hooks and replaced methods of an optimizer or of modules.

The compiled calls of :class:`zo_triton.FusedTrainer` would leave it out, and no replay can repeat it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from torch import nn
from torch.nn.modules import module as modules
from torch.optim import Optimizer
from torch.optim import optimizer as optimizers
from torch.utils import _contextlib

_OWN_CODE = (str(Path(optimizers.__file__).parent), str(Path(__file__).parent), _contextlib.__file__)
"""Where a step's own code is: torch's optimizers, its schedulers and ``no_grad``, which wrap one, and ours."""

_FORWARD: dict[type[nn.Module], Any] = {kind: kind.forward for kind in (nn.Sequential, nn.Linear, nn.ReLU)}
_CALL = nn.Module.__call__


def in_optimizer(optimizer: Optimizer) -> str | None:
    """Names what an optimizer's step runs beside its own code, or None; a scheduler's wrapper is torch's own."""
    hooks = (
        ("step pre-hook", optimizer._optimizer_step_pre_hooks),
        ("step post-hook", optimizer._optimizer_step_post_hooks),
        ("global step pre-hook", optimizers._global_optimizer_pre_hooks),
        ("global step post-hook", optimizers._global_optimizer_post_hooks),
    )
    for kind, registered in hooks:
        if registered:
            return f"the {kind} {_name(next(iter(registered.values())))}"
    step: Any = optimizer.step
    while step is not None:
        code = getattr(step, "__code__", None)
        if code is None or not code.co_filename.startswith(_OWN_CODE):
            return f"the replaced step {_name(step)}"
        step = getattr(step, "__wrapped__", None)
    return None


def in_trainer(step_post_hooks: Mapping[int, Callable[..., object]]) -> str | None:
    """Names what a trainer's step runs beside its own code and its optimizer's, or None."""
    return next((f"the trainer's step post-hook {_name(hook)}" for hook in step_post_hooks.values()), None)


def in_modules(layers: Iterable[nn.Module]) -> str | None:
    """Names what a call of these modules runs beside their forward, or None.

    Args:
        layers: Each a Linear, a ReLU, or a Sequential of whatever subclass.
    """
    everywhere = modules._global_forward_pre_hooks or modules._global_forward_hooks
    if everywhere:
        return f"the global module hook {_name(next(iter(everywhere.values())))}"
    for layer in layers:
        own: dict[str, Any] = vars(layer)
        kind: Any = type(layer)
        hooks = own["_forward_pre_hooks"] or own["_forward_hooks"]
        if hooks:
            return f"the module hook {_name(next(iter(hooks.values())))}"
        replaced = "forward" in own or "_call_impl" in own or kind.__call__ is not _CALL
        if replaced or kind.forward is not _FORWARD.get(kind, _FORWARD[nn.Sequential]):
            return f"the replaced forward of a {kind.__name__}"
    return None


def _name(function: Any) -> str:
    return getattr(function, "__qualname__", None) or repr(function)
