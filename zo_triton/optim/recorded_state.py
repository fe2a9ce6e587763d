"""What a recorded step reads of its optimizer at every replay: held where it lay, and brought up to date there."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.optim.descent import FULL_PRECISION
from zo_triton.optim.saved_state import SAVED

if TYPE_CHECKING:
    from zo_triton.optim.sgd import ZOSGD

FREE = ("steps_done", "plan")
"""Of an optimizer's settings, those that may differ from one replay to the next."""


class RecordedState:
    """The step's number, the learning rates, the weights and the state tensors that a graph will read and write.

    Args:
        optimizer: One that has taken a step, so that its state is there.

    Attributes:
        number: [1] int32: the 32 bits of the number of the step that the device takes next.
        rates: Each group's learning rate, 0-dim float32.
    """

    def __init__(self, optimizer: ZOSGD) -> None:
        self._optimizer = optimizer
        groups, params = optimizer.param_groups, optimizer._parameters()
        self.number = torch.zeros(1, dtype=torch.int32, device=params[0].device)
        self.rates = [torch.zeros((), dtype=torch.float32, device=params[0].device) for _ in groups]
        self._next = -1
        self._written_rates: list[float | None] = [None] * len(groups)
        self._settings = dict(_settings(optimizer))
        self._places = [param.data_ptr() for param in params]
        self._tensors = [
            (param, name, tensor)
            for param in params
            for name, tensor in optimizer.state.get(param, {}).items()
        ]
        self.refresh()

    @torch.no_grad()
    def refresh(self) -> None:
        """Before a replay: takes over what ordinary steps and ``load_state_dict`` have changed on the host.

        Raises:
            ValueError: The graph can't follow: a setting or the parameters have changed, or a log was attached.
        """
        optimizer = self._optimizer
        check_unlogged(optimizer)
        for name, now in _settings(optimizer):
            if now != self._settings.get(name):
                raise ValueError(
                    f"{name} was {self._settings.get(name)!r} when the step was recorded and is {now!r} now; only "
                    "lr may change: make a new zo.CapturedStep."
                )
        for position, (param, place) in enumerate(zip(optimizer._parameters(), self._places, strict=True)):
            if param.data_ptr() != place:
                raise ValueError(
                    f"parameter {position} lies elsewhere than when the step was recorded; write into it "
                    "(param.copy_(value)), or make a new zo.CapturedStep."
                )
        for param, name, tensor in self._tensors:
            now = optimizer.state[param].get(name)
            if now is not tensor:
                tensor.copy_(_initial(param, name) if now is None else now)
                optimizer.state[param][name] = tensor
        if optimizer.steps_done != self._next:
            self.number.fill_(optimizer.steps_done - (2**32 if optimizer.steps_done >= 2**31 else 0))
            self._next = optimizer.steps_done
        for group, rate, written in zip(optimizer.param_groups, self.rates, self._written_rates, strict=True):
            if group["lr"] != written:
                rate.fill_(float(group["lr"]))
        self._written_rates = [group["lr"] for group in optimizer.param_groups]

    def count(self) -> None:
        """After a step whose last kernel has raised :attr:`number`."""
        self._optimizer.steps_done += 1
        self._next += 1


def check_unlogged(optimizer: ZOSGD) -> None:
    """Refuses a log, which no replay could write to.

    Raises:
        ValueError: One is attached.
    """
    if optimizer.log is not None:
        raise ValueError(
            f"a captured step leaves its coefficients on the device, and the log {optimizer.log.path} needs "
            "them; close the log, or call optimizer.step."
        )


def _settings(optimizer: ZOSGD) -> Iterator[tuple[str, Any]]:
    """What is recorded as it is, by name."""
    for name in SAVED:
        if name not in FREE:
            yield name, getattr(optimizer, name)
    yield "the number of parameters", len(optimizer._parameters())
    for position, group in enumerate(optimizer.param_groups):
        yield f"momentum of group {position}", group["momentum"]
        yield f"weight_decay of group {position}", group["weight_decay"]


def _initial(param: Tensor, name: str) -> Tensor:
    """What a state tensor starts from that a loaded state does not hold: one of a run that took no step."""
    assert name == "momentum_buffer" or param.dtype not in FULL_PRECISION
    return param if name == "master" else torch.zeros_like(param)
