"""What trains on a GPU: ours and the baselines, none of which waits for the device without need.

A method whose steps always do the same work on the same memory is also there as a CUDA graph, which takes Python's
launches out of the comparison.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import zo_triton as zo
from benchmarks.clock import Action, Clock
from benchmarks.contenders.contender import LeftOutError, Setting, make_mlp
from zo_triton.optim.captured import WARM_UPS

STEPS_TAKEN_BY_RECORDING = 1 + WARM_UPS
"""Steps that a recording takes for itself."""


def make_gelu_mlp(sizes: tuple[int, ...], seed: int) -> nn.Sequential:
    """:func:`make_mlp` with the same weights and GELU in place of ReLU."""
    layers = make_mlp(sizes, seed)
    return nn.Sequential(*(nn.GELU() if isinstance(layer, nn.ReLU) else layer for layer in layers))


def compiled(function: Callable, tiny: bool) -> Callable:
    """By ``torch.compile``, its kernels replayed from a CUDA graph; in a tiny run only traced."""
    how: dict[str, str] = {"backend": "eager"} if tiny else {"mode": "reduce-overhead"}
    return torch.compile(function, **how)  # type: ignore[call-overload]


class _Recorded:
    """A method whose step becomes a CUDA graph on its first batch, with the weights as they were before.

    Args:
        model: On a GPU; trained in context.

    Raises:
        LeftOutError: It is not on a GPU.
    """

    def __init__(self, model: nn.Module) -> None:
        self.model = model
        self._replay: Action | None = None

    def prepare(self, x: Tensor, y: Tensor, recorded: bool = True) -> None:
        """Compiles and records on a batch; nothing has been trained afterwards.

        Args:
            x: Of the batches' shape.
            y: Likewise.
            recorded: False takes the same steps one by one, for a comparison.
        """
        saved = [param.detach().clone() for param in self.model.parameters()]
        self.x, self.y = x.clone(), y.clone()
        self._replay = self._record() if recorded else self._plain()
        with torch.no_grad():
            for param, value in zip(self.model.parameters(), saved, strict=True):
                param.copy_(value)
            for tensor in self._memory():
                tensor.zero_()

    def step(self, x: Tensor, y: Tensor) -> object:
        """Trains on a batch."""
        if self._replay is None:
            self.prepare(x, y)
        assert self._replay is not None
        self.x.copy_(x)
        self.y.copy_(y)
        return self._replay()

    def _loss(self) -> Tensor:
        return F.cross_entropy(self.model(self.x), self.y)

    def _record(self) -> Action:
        raise NotImplementedError

    def _plain(self) -> Action:
        raise NotImplementedError

    def _memory(self) -> Iterable[Tensor]:
        """What the optimizer remembers of its steps."""
        raise NotImplementedError


class RecordedZO(_Recorded):
    """:class:`zo_triton.CapturedStep`.

    Args:
        model: On a GPU; trained in context.
        setting: All but its decay and loss count.
        sides: 1 or 2.
        momentum: μ.
        dtype: Of the differences.

    Raises:
        LeftOutError: The model is not on a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        setting: Setting,
        sides: int = 1,
        momentum: float = 0.0,
        dtype: torch.dtype = torch.bfloat16,
    ) -> None:
        super().__init__(model)
        _need_gpu(model)
        self.optimizer = zo.ZOSGD(
            model.parameters(), setting.lr, setting.directions, setting.eps, setting.seed, sides=sides,
            momentum=momentum, compute_dtype=dtype,
        )  # fmt: skip
        self.evaluations_per_step = 1 + sides * setting.directions

    def _record(self) -> Action:
        return zo.CapturedStep(self.optimizer, self._loss)

    def _plain(self) -> Action:
        self.optimizer.steps_done = STEPS_TAKEN_BY_RECORDING
        return lambda: self.optimizer.step(self._loss)

    def _memory(self) -> Iterable[Tensor]:
        return [tensor for state in self.optimizer.state.values() for tensor in state.values()]


class Backprop:
    """Ordinary training, the loss left on the device.

    Args:
        model: Trained in context.
        setting: Its learning rate counts.
        adam: Adam, otherwise plain SGD; torch's fused implementation.
    """

    evaluations_per_step = 3

    def __init__(self, model: nn.Module, setting: Setting, adam: bool) -> None:
        self.model = model
        kind = torch.optim.Adam if adam else torch.optim.SGD
        self.optimizer = kind(model.parameters(), lr=setting.lr, fused=True)

    def step(self, x: Tensor, y: Tensor) -> object:
        """One update; returns the loss before it."""
        self.optimizer.zero_grad(set_to_none=True)
        loss = F.cross_entropy(self.model(x), y)
        loss.backward()
        self.optimizer.step()
        return loss


class RecordedBackprop(_Recorded):
    """:class:`Backprop` as a CUDA graph, in the way of torch's tutorial on them.

    Args:
        model: On a GPU; trained in context.
        setting: Its learning rate counts.
        adam: Adam, otherwise plain SGD.

    Raises:
        LeftOutError: The model is not on a GPU.
    """

    evaluations_per_step = 3

    def __init__(self, model: nn.Module, setting: Setting, adam: bool) -> None:
        super().__init__(model)
        _need_gpu(model)
        self.optimizer: torch.optim.Optimizer
        if adam:
            self.optimizer = torch.optim.Adam(model.parameters(), lr=setting.lr, fused=True, capturable=True)
        else:
            self.optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr)

    def _record(self) -> Action:
        return Clock(self.x.device).recorded(self._update)

    def _plain(self) -> Action:
        return self._update

    def _update(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        self._loss().backward()
        self.optimizer.step()

    def _memory(self) -> Iterable[Tensor]:
        held = [value for state in self.optimizer.state.values() for value in state.values()]
        return [value for value in held if value is not None]


class Passes:
    """Plain forward passes in a CUDA graph, the yardstick of "cost of inference"; trains nothing.

    Args:
        model: Copied in ``dtype``.
        count: Passes a step.
        dtype: What they compute in.
    """

    def __init__(self, model: nn.Module, count: int, dtype: torch.dtype) -> None:
        self.model, self.dtype, self.evaluations_per_step = model.to(dtype), dtype, count
        self._replay: Action | None = None

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> object:
        """All passes, on the first batch."""
        if self._replay is None:
            held = x.to(self.dtype)
            self._replay = Clock(x.device).recorded(lambda: self.model(held), self.evaluations_per_step)
        return self._replay()


def _need_gpu(model: nn.Module) -> None:
    if next(model.parameters()).device.type != "cuda":
        raise LeftOutError("CUDA graphs need a GPU.")
