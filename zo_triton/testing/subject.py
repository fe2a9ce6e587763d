"""What the suite asks of an optimizer under test, and how it is told about the surroundings."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from math import isfinite
from numbers import Real
from typing import Any, Protocol

import torch
from torch import Tensor


class Optimizer(Protocol):
    """All that is needed: a step in the style of torch's optimizers."""

    def step(self, closure: Callable[[], Tensor], /) -> Any:
        """Calls the closure as often as it likes, for the loss at whatever the parameters hold, and moves them."""


Factory = Callable[[Sequence[Tensor], float, float, int], Optimizer]
"""From (parameters, lr, ε, seed) to an optimizer that trains these very tensors, without momentum or decay.

An argument that the optimizer can't work with raises TypeError or ValueError, and what needs it is not applicable.
"""


@dataclass(frozen=True)
class Setting:
    """The numbers and the surroundings that an optimizer is tested with.

    Args:
        eps: Smoothing radius ε; above the rounding of the losses for those that subtract them.
        lr: Learning rate of the steps that should move.
        devices: Where it should draw the same noise.
        contexts: By name, further surroundings that must not change the noise: each gives a context manager in
            which steps are made, for example ``lambda: zo.use_engine("reference")``.
        variants: By name, factories that must walk the very same directions: other chunk sizes, other workers.
        interrupts: At how many of a step's lines it is interrupted, an integer.

    Raises:
        TypeError: A number is none, ``interrupts`` is no integer, or ``devices`` is a single name.
        ValueError: A number is not positive and finite, there is no device, or no line.
    """

    eps: float = 1e-3
    lr: float = 1e-3
    devices: tuple[str, ...] = field(
        default_factory=lambda: ("cpu", "cuda") if torch.cuda.is_available() else ("cpu",)
    )
    contexts: Mapping[str, Callable[[], AbstractContextManager[Any]]] = field(default_factory=dict)
    variants: Mapping[str, Factory] = field(default_factory=dict)
    interrupts: int = 20

    def __post_init__(self) -> None:
        for name in ("eps", "lr"):
            value = getattr(self, name)
            if not isinstance(value, Real):
                raise TypeError(f"{name} must be a number, got {value!r}; 1e-3 suits most optimizers.")
            if not float(value) > 0 or not isfinite(value):
                raise ValueError(
                    f"{name} must be positive and finite, got {value}; 1e-3 suits most optimizers."
                )
        if isinstance(self.devices, str):
            raise TypeError(
                f"devices must be a tuple of names, got {self.devices!r}; pass ({self.devices!r},)."
            )
        if not self.devices:
            raise ValueError('devices must name at least one, got (); pass ("cpu",).')
        if isinstance(self.interrupts, bool) or not hasattr(self.interrupts, "__index__"):
            raise TypeError(
                f"interrupts must be an integer, got {self.interrupts!r}; 20 lines are the default."
            )
        if self.interrupts < 1:
            raise ValueError(
                f"interrupts must be at least 1, got {self.interrupts}; 20 lines are the default."
            )


DEFAULT = Setting()
