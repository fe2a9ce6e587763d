"""Methods whose steps always do the same work on the same memory, as CUDA graphs.

A graph launches all kernels of a step at once, which takes Python's launches out of a comparison. These methods
need a GPU and are left out elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor, nn

import zo_triton as zo
from benchmarks.contenders.contender import GPU, NO_GPU, Contender, LeftOutError, Loss, Method, Setting
from benchmarks.contenders.fused import MOMENTUM, hardware_dtype
from benchmarks.timing import Action, Clock
from zo_triton.optim.captured import WARM_UPS

STEPS_TAKEN_BY_RECORDING = 1 + WARM_UPS
"""Steps that a recording takes for itself."""


class _Recorded(Contender):
    """A method whose step becomes a CUDA graph on its first batch, with the weights as they were before.

    Args:
        model: On a GPU; trained in place.
        loss: What is minimised.
    """

    def __init__(self, model: nn.Module, loss: Loss) -> None:
        self.model, self.loss = model, loss
        self._replay: Callable[[], Tensor] | None = None

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

    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """One update; returns the loss before it, which the next step overwrites."""
        if self._replay is None:
            self.prepare(x, y)
        assert self._replay is not None
        self.x.copy_(x)
        self.y.copy_(y)
        return self._replay()

    def _loss(self) -> Tensor:
        return self.loss(self.model(self.x), self.y)

    def _record(self) -> Callable[[], Tensor]:
        raise NotImplementedError

    def _plain(self) -> Callable[[], Tensor]:
        raise NotImplementedError

    def _memory(self) -> Iterable[Tensor]:
        """What the optimizer remembers of its steps."""
        raise NotImplementedError


class RecordedZO(_Recorded):
    """:class:`zo_triton.CapturedStep`.

    Args:
        model: On a GPU; trained in place.
        setting: All but its decay counts.
        sides: 1 or 2.
        momentum: μ.
        dtype: Of the differences; None takes :func:`hardware_dtype`.

    Raises:
        LeftOutError: The model is not on a GPU.
    """

    def __init__(
        self,
        model: nn.Module,
        setting: Setting,
        sides: int = 1,
        momentum: float = 0.0,
        dtype: torch.dtype | None = None,
    ) -> None:
        _need_gpu(model)
        super().__init__(model, setting.loss)
        self.optimizer = zo.ZOSGD(
            model.parameters(), setting.lr, setting.directions, setting.eps, setting.seed, sides=sides,
            momentum=momentum, compute_dtype=dtype or hardware_dtype(),
        )  # fmt: skip
        self.evaluations_per_step = 1 + sides * setting.directions

    def _record(self) -> Callable[[], Tensor]:
        # Recorded at a rate of nothing: steps that are too long must show on the clock, not end the recording.
        (group,) = self.optimizer.param_groups
        rate, group["lr"] = group["lr"], 0.0
        step = zo.CapturedStep(self.optimizer, self._loss)
        group["lr"] = rate
        return step

    def _plain(self) -> Callable[[], Tensor]:
        self.optimizer.steps_done = STEPS_TAKEN_BY_RECORDING
        return lambda: torch.tensor(self.optimizer.step(self._loss))

    def _memory(self) -> Iterable[Tensor]:
        return [tensor for state in self.optimizer.state.values() for tensor in state.values()]


class RecordedBackprop(_Recorded):
    """Ordinary training as a CUDA graph, in the way of torch's tutorial on them.

    Args:
        model: On a GPU; trained in place.
        setting: Its learning rate and loss count.
        adam: Adam, otherwise plain SGD.

    Raises:
        LeftOutError: The model is not on a GPU.
    """

    evaluations_per_step = 3

    def __init__(self, model: nn.Module, setting: Setting, adam: bool = True) -> None:
        _need_gpu(model)
        super().__init__(model, setting.loss)
        self.optimizer: torch.optim.Optimizer
        if adam:
            self.optimizer = torch.optim.Adam(model.parameters(), lr=setting.lr, fused=True, capturable=True)
        else:
            self.optimizer = torch.optim.SGD(model.parameters(), lr=setting.lr)

    def _record(self) -> Callable[[], Tensor]:
        replay = Clock(self.x.device).recorded(self._update)

        def step() -> Tensor:
            replay()
            return self._latest

        return step

    def _plain(self) -> Callable[[], Tensor]:
        return self._update

    def _update(self) -> Tensor:
        self.optimizer.zero_grad(set_to_none=True)
        loss = self._loss()
        loss.backward()
        self.optimizer.step()
        self._latest = loss.detach()
        return self._latest

    def _memory(self) -> Iterable[Tensor]:
        held = [value for state in self.optimizer.state.values() for value in state.values()]
        return [value for value in held if value is not None]


class RecordedPasses(Contender):
    """K plain forward passes as a CUDA graph, the yardstick of "cost of inference"; trains nothing.

    Args:
        model: Brought to ``dtype``.
        setting: Its K and its loss count.
        dtype: What the passes compute in; None takes :func:`hardware_dtype`.

    Raises:
        LeftOutError: The model is not on a GPU.
    """

    def __init__(self, model: nn.Module, setting: Setting, dtype: torch.dtype | None = None) -> None:
        _need_gpu(model)
        self._dtype, self.loss = dtype or hardware_dtype(), setting.loss
        self.model, self.evaluations_per_step = model.to(self._dtype), setting.directions
        self._replay: Action | None = None

    @torch.no_grad()
    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Records the passes on a batch, whose loss is that of every step."""
        held = x.to(self._dtype)
        self._latest = self.loss(self.model(held).float(), y)
        self._replay = Clock(x.device).recorded(lambda: self.model(held), self.evaluations_per_step)

    @torch.no_grad()
    def step(self, x: Tensor, y: Tensor) -> Tensor:
        """All passes, on the batch that was recorded, and its loss."""
        if self._replay is None:
            self.prepare(x, y)
        assert self._replay is not None
        self._replay()
        return self._latest


def _need_gpu(model: nn.Module) -> None:
    if next(model.parameters()).device.type != "cuda":
        raise LeftOutError(NO_GPU)


_DTYPE = str(hardware_dtype()).removeprefix("torch.")
_NEEDS = (GPU,)

METHODS = (
    Method("zo-graph", "fused, one-sided, CUDA graph", "fused", RecordedZO, _DTYPE, _NEEDS),
    Method(
        "zo-central-graph", "fused, central, CUDA graph", "fused", lambda m, s: RecordedZO(m, s, sides=2),
        _DTYPE, _NEEDS,
    ),
    Method(
        "zo-sgd-graph", "fused ZO + momentum, CUDA graph", "fused",
        lambda m, s: RecordedZO(m, s, momentum=MOMENTUM), _DTYPE, _NEEDS,
    ),
    Method(
        "inference-graph", "K inference passes, CUDA graph", "inference", RecordedPasses, _DTYPE, _NEEDS
    ),
    Method("adam-graph", "backprop + Adam, CUDA graph", "first", RecordedBackprop, needs=_NEEDS),
    Method(
        "sgd-graph", "backprop + SGD, CUDA graph", "first", lambda m, s: RecordedBackprop(m, s, adam=False),
        needs=_NEEDS,
    ),
)  # fmt: skip
