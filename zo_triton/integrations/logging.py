"""What each step has learned, handed to a logger: any function of a number and a dict, or TensorBoard."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from operator import index
from time import monotonic
from typing import TYPE_CHECKING, Any, SupportsIndex

from torch.utils.hooks import RemovableHandle

from zo_triton._warn import warn
from zo_triton.optim import FusedTrainer
from zo_triton.optim.measure import Learned, Measurement
from zo_triton.optim.optimizer import ZOOptimizer

if TYPE_CHECKING:
    from torch.utils.tensorboard import SummaryWriter

Tell = Callable[[int, dict[str, float]], object]
"""From the number of steps done and figures by name."""


def log_steps(optimizer: ZOOptimizer | FusedTrainer, tell: Tell, every: SupportsIndex = 1) -> RemovableHandle:
    """Hands figures of the latest step to a function, after every n-th step.

    The figures are ``loss``, ``lr`` of the first group, ``evaluations`` and ``seconds`` since the telling began
    and, where weights are perturbed, ``slope`` and ``left_out``: the root mean square of the slopes along the
    directions that were used, by which the gradient's length is estimated, and the number of directions that were
    not, as their slopes were not usable.

    Args:
        optimizer: A :class:`zo_triton.ZOSGD`, :class:`zo_triton.ZOAdam` or :class:`zo_triton.FusedTrainer`, whose
            steps stay compiled.
        tell: Gets the number of steps done and the figures. What it raises, the step raises, which is done by then
            and which all others that were to be told have heard of.
        every: Steps from one telling to the next; an integer of any kind, NumPy's too.

    Returns:
        A handle whose ``remove()`` ends the telling.

    Raises:
        TypeError: It is no such optimizer, ``tell`` can't be called, or ``every`` is no integer.
        ValueError: ``every`` is below 1, or the optimizer writes a replay log, which allows no hooks.

    Example:
        >>> import torch, zo_triton as zo
        >>> from zo_triton.integrations.logging import log_steps
        >>> w, told = torch.ones(3), []
        >>> opt = zo.ZOSGD([w], lr=0.1, directions=4)
        >>> handle = log_steps(opt, lambda step, figures: told.append((step, sorted(figures))))
        >>> _ = opt.step(lambda: w.square().sum())
        >>> told
        [(1, ['evaluations', 'left_out', 'loss', 'lr', 'seconds', 'slope'])]
    """
    if not isinstance(optimizer, (ZOOptimizer, FusedTrainer)):
        raise TypeError(
            f"optimizer must be a zo.ZOSGD, zo.ZOAdam or zo.FusedTrainer, got {type(optimizer).__name__}; the "
            "figures of a torch optimizer are known to the trainer that it belongs to."
        )
    if not callable(tell):
        raise TypeError(f"tell must be a function of the step and a dict, got {tell!r}.")
    period = _checked_period(every)
    if optimizer.log is not None:
        raise ValueError(
            f"the optimizer writes the log {optimizer.log.path}, which allows no hooks; tell what step() returns."
        )

    began, evaluations = monotonic(), 0

    def after_step(stepped: ZOOptimizer | FusedTrainer) -> None:
        nonlocal evaluations
        evaluations += stepped.directions * stepped.sides
        if stepped.steps_done % period == 0:
            since = {"evaluations": float(evaluations), "seconds": monotonic() - began}
            tell(stepped.steps_done, {**_figures(stepped), **since})

    return _Listener(_audience_of(optimizer), after_step)


class _Audience:
    """The one hook of all who are told of an optimizer's steps: who raises keeps nobody else from being told."""

    def __init__(self) -> None:
        self.__qualname__ = log_steps.__qualname__  # by which an error names it that refuses hooks
        self.listeners: OrderedDict[int, Callable[[Any], None]] = OrderedDict()
        self.hook: RemovableHandle | None = None

    def __call__(self, stepped: Any, arguments: Any, options: Any) -> None:
        """Tells everybody, then raises what came first, and warns of what else was raised."""
        errors: list[Exception] = []
        for listener in tuple(self.listeners.values()):
            try:
                listener(stepped)
            except Exception as error:
                errors.append(error)
        if errors:
            for other in errors[1:]:
                warn(f"Another one who was told of this step raised {other!r}.", RuntimeWarning)
            raise errors[0]


class _Listener(RemovableHandle):
    """One who is told; the last one's removal takes the hook along, which a replay log would refuse."""

    def __init__(self, audience: _Audience, listener: Callable[[Any], None]) -> None:
        super().__init__(audience.listeners)
        audience.listeners[self.id] = listener
        self._audience = audience

    def remove(self) -> None:
        """Ends the telling."""
        super().remove()
        if not self._audience.listeners and self._audience.hook is not None:
            self._audience.hook.remove()


def _audience_of(optimizer: ZOOptimizer | FusedTrainer) -> _Audience:
    """The optimizer's audience, which becomes a hook where there is none yet."""
    hooks: Mapping[int, Any] = (
        optimizer.step_post_hooks
        if isinstance(optimizer, FusedTrainer)
        else optimizer._optimizer_step_post_hooks
    )
    for hook in hooks.values():
        if isinstance(hook, _Audience):
            return hook
    audience = _Audience()
    audience.hook = optimizer.register_step_post_hook(audience)
    return audience


def to_tensorboard(writer: SummaryWriter, prefix: str = "zo/") -> Tell:
    """What writes the figures as scalars, for :func:`log_steps`.

    Args:
        writer: A ``torch.utils.tensorboard.SummaryWriter``; any object with its ``add_scalar``.
        prefix: Before each figure's name.
    """

    def tell(step: int, figures: dict[str, float]) -> None:
        for name, value in figures.items():
            writer.add_scalar(f"{prefix}{name}", value, step)

    return tell


def _checked_period(every: SupportsIndex) -> int:
    try:
        period = None if isinstance(every, bool) else index(every)
    except TypeError:
        period = None
    if period is None:
        raise TypeError(f"every must be an integer, got {every!r}; 1 tells every step.")
    if period < 1:
        raise ValueError(f"every must be at least 1 step, got {period}.")
    return period


def _figures(stepped: ZOOptimizer | FusedTrainer) -> dict[str, float]:
    torchs = stepped.optimizer if isinstance(stepped, FusedTrainer) else stepped
    last = stepped.last
    assert last is not None
    figures = {"loss": last.loss, "lr": float(torchs.param_groups[0]["lr"])}
    if isinstance(last, (Measurement, Learned)) and last.projected is not None:
        used = last.projected if last.usable is None else last.projected[last.usable]
        figures["slope"] = used.square().mean().sqrt().item()
        figures["left_out"] = float(len(last.projected) - len(used))
    return figures
