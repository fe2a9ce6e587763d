"""What each step has learned, handed to a logger: any function of a number and a dict, or TensorBoard."""

from __future__ import annotations

from collections.abc import Callable
from operator import index
from time import monotonic
from typing import TYPE_CHECKING, Any, SupportsIndex

from torch.utils.hooks import RemovableHandle

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
        tell: Gets the number of steps done and the figures. What it raises, the step raises, which is done by then.
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

    def after_step(stepped: Any, arguments: Any, options: Any) -> None:
        nonlocal evaluations
        evaluations += stepped.directions * stepped.sides
        if stepped.steps_done % period == 0:
            since = {"evaluations": float(evaluations), "seconds": monotonic() - began}
            tell(stepped.steps_done, {**_figures(stepped), **since})

    return optimizer.register_step_post_hook(after_step)


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
