"""Which engine an op runs on: Triton's kernels on a GPU, the Numba engine on the CPU, or the one asked for."""

from __future__ import annotations

import importlib
import os
from collections.abc import Callable, Hashable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache, lru_cache, wraps
from types import ModuleType
from typing import Any

import torch
from torch import Tensor

ENGINES = ("reference", "cpu", "triton")
"""What :func:`use_engine` knows: the executable specification, and the two that are fast."""

LARGE = 1 << 18
"""Elements of an argument from which a function of torch's may take a millisecond."""

_MODULES = {"reference": "zo_triton.reference", "cpu": "zo_triton.cpu", "triton": "zo_triton.kernels"}
_NEEDS = {"reference": "numpy", "cpu": "numba", "triton": "triton"}
_kept: ContextVar[list[Tensor] | None] = ContextVar("zo_triton_kept", default=None)
_override: ContextVar[str | None] = ContextVar("zo_triton_engine", default=None)


@contextmanager
def use_engine(name: str | None) -> Iterator[None]:
    """Runs every fused op on the named engine inside a ``with`` block.

    Args:
        name: ``"reference"`` (float64, slow), ``"cpu"`` (Numba and torch's GEMM) or ``"triton"``. None leaves the
            choice as it is: outside of another such block the tensors' device decides.

    Raises:
        ValueError: The name is unknown.
        RuntimeError: The engine's library is not installed.
    """
    if name is None:
        yield
        return
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; choose one of {ENGINES}.")
    load_engine(name)
    token = _override.set(name)
    try:
        yield
    finally:
        _override.reset(token)


def engine_for(device: torch.device) -> str:
    """The engine that an op on this device runs on now."""
    return _override.get() or ("cpu" if device.type == "cpu" else "triton")


@cache
def load_engine(name: str) -> ModuleType:
    """The engine's package, imported when it is first asked for.

    Raises:
        RuntimeError: A library that it needs is not installed.
    """
    try:
        return importlib.import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        if error.name != _NEEDS[name]:
            raise
        raise RuntimeError(
            f"the {name!r} engine needs {error.name}, which is not installed: `pip install {error.name}`, "
            "or choose another with zo_triton.use_engine."
        ) from error


def engine_on(device: torch.device) -> ModuleType:
    """The package that an op on this device runs in now.

    Raises:
        RuntimeError: That engine can't use tensors there.
    """
    name = engine_for(device)
    if name == "triton" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            "the 'triton' engine runs CPU tensors only in Triton's interpreter: set TRITON_INTERPRET=1 before "
            "Python starts, or move the tensors to a GPU."
        )
    if name == "cpu" and device.type != "cpu":
        raise RuntimeError(f"the 'cpu' engine got a tensor on {device}; use the 'triton' engine there.")
    return load_engine(name)


def whole_step(device: torch.device) -> AbstractContextManager[None]:
    """Tells the engine that several of its ops follow one another on this device, with torch's in between.

    The CPU engine keeps torch's threads from contending with its own; the others need nothing.
    """
    return load_engine("cpu").one_pool() if _is_on_cpu(device) else nullcontext()


def _is_on_cpu(device: torch.device) -> bool:
    return device.type == "cpu" and engine_for(device) == "cpu"


def wider(device: torch.device) -> Callable[..., Any] | None:
    """What runs a function of torch's on the threads that :func:`whole_step` keeps out; None where it keeps none.

    It costs some time, so that it is for those of which :func:`is_large` is true.
    """
    return load_engine("cpu").wider() if _is_on_cpu(device) else None


def is_large(args: Iterable[Any]) -> bool:
    """Whether a function of these arguments takes so long that it gains by more threads than one."""
    for value in args:  # noqa: SIM110 (a generator would cost each operation of a small step a microsecond)
        if isinstance(value, Tensor) and value.numel() >= LARGE:
            return True
    return False


def uncast(device: torch.device) -> AbstractContextManager[None]:
    """Keeps autocast, which a program means for its own operations, away from what runs inside.

    It belongs to one thread: the engine's others would compute in float32 what the caller's does in bfloat16.
    """
    kind = device.type
    return torch.autocast(kind, enabled=False) if torch.is_autocast_enabled(kind) else nullcontext()


@contextmanager
def replayable(step: Tensor) -> Iterator[list[Tensor]]:
    """Whatever runs inside can be recorded into a CUDA graph and replayed for later steps.

    Kernels read the step's number where it lies when they run, no value is read back from the device, and no
    tensor of a cache is freed while the graph may still read it.

    Args:
        step: [1] int32 on the GPU: the 32 bits of the number that takes the place of the directions' own.

    Yields:
        The tensors that must live as long as the graph; it fills while the block runs.
    """
    kept: list[Tensor] = [step]
    token = _kept.set(kept)
    try:
        with load_engine("triton").step_on_device(step):
            yield kept
    finally:
        _kept.reset(token)


def is_replayable() -> bool:
    """Whether this runs inside :func:`replayable`, where reading a value from the device is not allowed."""
    return _kept.get() is not None


def kept(tensor: Tensor) -> Tensor:
    """The tensor, of a cache, that a recorded graph may go on reading."""
    tensors = _kept.get()
    if tensors is not None:
        tensors.append(tensor)
    return tensor


def remembered(maxsize: int) -> Callable[[Callable[..., Tensor]], Callable[..., Tensor]]:
    """An ``lru_cache`` for functions that make a tensor, which must be a real one to be kept.

    Inside a dispatch mode (fake tensors, for one) what a function makes is the mode's own and is made anew.
    """

    def decorate(make: Callable[..., Tensor]) -> Callable[..., Tensor]:
        cached = lru_cache(maxsize)(make)

        @wraps(make)
        def call(*args: Hashable) -> Tensor:
            watched = torch._C._len_torch_dispatch_stack() > 0
            return make(*args) if watched else cached(*args)

        return call

    return decorate


def waits(device: torch.device) -> bool:
    """Whether reading a value there keeps the host until all is done that was queued: on everything but a CPU."""
    return device.type != "cpu"


def read(*values: Tensor) -> list[float]:
    """What 0-dim tensors of one device hold; the host waits once for all of them."""
    if not waits(values[0].device):
        return [float(value) for value in values]
    return torch.stack([value.double() for value in values]).tolist()


def any_set(mask: Tensor) -> bool:
    """Whether an entry is set; taken for granted, which costs time alone, where the host would wait to know it."""
    return is_replayable() or waits(mask.device) or bool(mask.any())
