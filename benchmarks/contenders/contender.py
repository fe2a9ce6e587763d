"""What a race compares: a training method behind one small interface."""

from __future__ import annotations

import os
import shutil
import sys
import sysconfig
from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

if TYPE_CHECKING:
    from zo_triton import ZOSGD, FusedTrainer, Ranks

Loss = Callable[[Tensor, Tensor], Tensor]
"""From (output, target) of a batch to its mean loss."""


GPU = "a GPU"
COMPILER = "a C++ compiler and Python's headers"
"""What a method may need beside packages."""

NO_GPU = "CUDA graphs need a GPU."
NO_COMPILER = f"torch.compile needs {COMPILER}."


class LeftOutError(Exception):
    """Something optional is not here; the message says what. No failure."""


@dataclass(frozen=True)
class Setting:
    """What every contender is told.

    Args:
        lr: Learning rate.
        seed: Of the directions.
        directions: K, for those who walk any.
        eps: Smoothing radius ε of the fused methods; the others have one of their own, below which their
            differences would drown in rounding.
        decay_steps: Over which the learning rate falls linearly to nothing; None keeps it.
        loss: What is minimised.
        ranks: Share the measuring of a step; only this project's own methods can.
    """

    lr: float
    seed: int = 0
    directions: int = 1
    eps: float = 1e-4
    decay_steps: int | None = None
    loss: Loss = F.cross_entropy
    ranks: Ranks | None = None


class Contender:
    """A training method at work on one model."""

    evaluations_per_step: int
    """Forward passes of the batch that a step costs; a backward pass counts as two."""

    computes_in: str | None = None
    """What its evaluations compute in, if that hangs on the model; None for the method's dtype."""

    def step(self, x: Tensor, y: Tensor) -> float | Tensor:
        """Trains on one batch, x [N, features] float32 and y [N], and returns a training loss.

        A loss that nobody has waited for stays on the device, as a tensor that the next step may overwrite.

        Raises:
            NonFiniteLossError: The loss is not finite, and the method has noticed.
        """
        raise NotImplementedError

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Compiles what each contender compiles anew for such batches, off the clock; trains nothing.

        What a process compiles once needs nothing here: a race warms each method up with steps on other weights.
        """

    def replayable(self) -> ZOSGD | FusedTrainer | None:
        """What a replay log can be attached to; None where steps can't be replayed."""
        return None

    def state(self) -> Any:
        """What it remembers beside the weights, without a decay of its own: dicts of tensors and numbers."""
        raise NotImplementedError(f"{type(self).__name__} can't be saved.")

    def load_state(self, state: Any) -> None:
        """Takes over what :meth:`state` gave."""
        raise NotImplementedError(f"{type(self).__name__} can't be restored.")

    def take_rate(self, lr: float) -> None:
        """Sets the learning rate of the steps that follow, instead of any decay of its own."""
        raise NotImplementedError(f"{type(self).__name__} keeps its learning rate.")

    def write_weights(self) -> None:
        """Brings the model's parameters up to date, off the clock: for methods that train a copy elsewhere."""


Build = Callable[[nn.Module, Setting], Contender]
"""Makes a contender that trains the model in place; a ValueError says why it can't."""


@dataclass(frozen=True)
class Method:
    """A named way to build a contender.

    Args:
        name: Key in records and on the command line.
        label: How reports call it.
        family: ``fused`` (this project), ``zeroth`` (other forward-only methods), ``first`` (backprop) or
            ``inference``, which trains nothing.
        build: Makes the contender.
        dtype: What its evaluations compute in, unless a contender says otherwise.
        needs: Packages beyond this project's own, :data:`GPU` and :data:`COMPILER`.
        directions: K, where it is part of what the method is; None leaves it to the setting.
        asks: What a zeroth-order method asks for beside the batch's loss, as reports tell it; empty for nothing.
    """

    name: str
    label: str
    family: str
    build: Build
    dtype: str = "float32"
    needs: tuple[str, ...] = ()
    directions: int | None = None
    asks: str = ""

    @property
    def tunes_directions(self) -> bool:
        """Whether its K is to be chosen: it walks directions, and their number is not part of what it is."""
        return self.family in ("fused", "zeroth") and self.directions is None

    @property
    def missing(self) -> tuple[str, ...]:
        """What it needs that is not here."""
        return tuple(need for need in self.needs if not _is_here(need))

    @property
    def why_left_out(self) -> str:
        """Why it can't run here; empty if it can."""
        if GPU in self.missing:
            return NO_GPU
        if COMPILER in self.missing:
            return NO_COMPILER
        return f"not installed: {', '.join(self.missing)}." if self.missing else ""


def _is_here(need: str) -> bool:
    if need == COMPILER:
        return has_compiler()
    return torch.cuda.is_available() if need == GPU else find_spec(need) is not None


def has_compiler() -> bool:
    """Whether what ``torch.compile`` writes for a CPU can be compiled here."""
    usual = "clang++" if sys.platform == "darwin" else "g++"
    headers = Path(sysconfig.get_path("include")) / "Python.h"
    return shutil.which(os.environ.get("CXX") or usual) is not None and headers.is_file()


def trained(model: nn.Module) -> list[nn.Parameter]:
    """The parameters to be trained: those that are not frozen."""
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def by_torch_compile(function: Callable) -> Callable:
    """By ``torch.compile``, on a GPU with its kernels replayed from a CUDA graph."""
    return torch.compile(function, mode="reduce-overhead")


def set_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Sets the learning rate of all groups."""
    for group in optimizer.param_groups:
        group["lr"] = lr


def falling_rate(optimizer: torch.optim.Optimizer, steps: int | None) -> Callable[[], None]:
    """What to call after each step so that the learning rate falls linearly to nothing; None keeps the rate."""
    if steps is None:
        return lambda: None
    return torch.optim.lr_scheduler.LinearLR(optimizer, 1.0, 0.0, steps).step
