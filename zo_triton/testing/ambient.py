"""Torch's global settings change no bit of a step, or it refuses to be taken under them."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor

from zo_triton.testing.errors import ConformanceError, NotApplicable
from zo_triton.testing.observe import build, check_finite, global_seeds
from zo_triton.testing.problem import Closure, flat, make_network
from zo_triton.testing.subject import DEFAULT, Factory, Setting


@contextmanager
def _put(setter: Callable[[Any], None], value: Any, back: Any) -> Iterator[None]:
    """Sets a value, and afterwards what was there before."""
    setter(value)
    try:
        yield
    finally:
        setter(back)


def _dtype(value: torch.dtype) -> AbstractContextManager[None]:
    return _put(torch.set_default_dtype, value, torch.get_default_dtype())


def _device(value: str) -> AbstractContextManager[None]:
    # get_default_device tells also what a block around has set, and "cpu" where nothing is: no value to put back.
    mode = getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None)
    return _put(torch.set_default_device, value, None if mode is None else mode.device)


def _deterministic() -> AbstractContextManager[None]:
    def choose(how: tuple[bool, bool]) -> None:
        torch.use_deterministic_algorithms(how[0], warn_only=how[1])

    before = (
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )
    return _put(choose, (True, False), before)


AMBIENT: dict[str, Callable[[], AbstractContextManager[Any]]] = {
    "default dtype float64": lambda: _dtype(torch.float64),
    "default dtype bfloat16": lambda: _dtype(torch.bfloat16),
    "default device meta": lambda: _device("meta"),
    "device meta": lambda: torch.device("meta"),
    "device cpu": lambda: torch.device("cpu"),
    "deterministic algorithms": _deterministic,
    "inference mode": torch.inference_mode,
    "no_grad": torch.no_grad,
    "enable_grad": torch.enable_grad,
    "anomaly detection": lambda: torch.autograd.set_detect_anomaly(True, check_nan=False),
}
"""By name, a context manager for each of torch's settings that concern a whole process or block.

Each leaves behind what it has found, be it the program's own choice.
"""


def ambient_settings_do_not_matter(factory: Factory, setting: Setting = DEFAULT) -> None:
    """Two steps inside each of torch's settings, and one after it, end at the same bits as without it.

    Catches tensors that are made in the default dtype or on the default device, and what a step inside a setting
    keeps for later ones. An optimizer may refuse a setting by any error.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: Weights end elsewhere, or not finite.
        NotApplicable: Every setting is refused, or the weights do not move.
    """
    expected, refused = check_finite(_trained(factory, setting, nullcontext), "after three steps"), 0
    if torch.equal(expected, flat(make_network().params)):
        raise NotApplicable("the weights did not move")
    for name, context in AMBIENT.items():
        try:
            found = _trained(factory, setting, context)
        except Exception:  # whatever torch raises of tensors that don't fit together
            refused += 1
            continue
        moved = int((found != expected).sum())
        if moved:
            raise ConformanceError(
                "torch's settings change the arithmetic",
                f"under {name}, three steps end with other bits in {moved} of {len(found)} weights, up to "
                f"{float((found - expected).abs().max()):.2g} away",
                "Name dtype and device of every tensor that you make: torch.zeros, tensor and randn take the "
                "program's defaults",
            )
    if refused == len(AMBIENT):
        raise NotApplicable("the optimizer refuses every setting")


def _trained(
    factory: Factory, setting: Setting, context: Callable[[], AbstractContextManager[Any]]
) -> Tensor:
    """The weights after two steps inside and one outside, float64 [d]."""
    problem = make_network()
    with global_seeds(1):
        optimizer = build(factory, problem.params, setting.lr, setting.eps, 1)
        with context():
            for _ in range(2):
                optimizer.step(Closure(problem))
        optimizer.step(Closure(problem))
    return flat(problem.params)
