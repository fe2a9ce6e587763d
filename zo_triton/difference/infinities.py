"""What stays infinite has not changed: a difference of zero, where a rule that subtracts makes ∞ − ∞ of it.

So the largest of scores that a mask hides entirely, or the logarithm of a probability that stays 0. To look for
infinities in each base result would cost every run. A run does it only once a value's differences were no numbers,
and its plan has the next one do it at once.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

AT_AN_END = frozenset((
    "log", "log2", "log10", "log1p", "logit", "atanh", "erfinv", "ndtri", "pow", "__pow__", "__rpow__",
    "float_power", "rsqrt", "xlogy", "xlog1py", "lgamma", "gammaln", "digamma", "psi", "polygamma", "mvlgamma",
    "multigammaln", "logdet", "slogdet",
))  # fmt: skip
"""Functions that are infinite at an end of their domain, and no number beyond it."""


def may_be_lost(value: Tensor, differences: Tensor, losses: bool = False) -> bool:
    """Whether a difference is not finite though what it is added to is a number.

    Args:
        value: What the closure returned, or the mean of it, [*shape] or [].
        differences: [..., *shape].
        losses: They are samples' losses, of which those that are infinite will be left out.
    """
    usable = differences.isfinite()
    if bool(usable.all()):
        return False
    unknown = ~value.isfinite() if losses else value.isnan()
    if differences.shape[differences.dim() - value.dim() :] != value.shape:
        unknown = unknown.any()
    return not bool((usable | unknown).all())


def mended(mode: DifferenceMode, function: Callable, base: Any, result: Any, args: Iterable[Any]) -> Any:
    """A rule's result, zero where the base's is infinite and stays so.

    An evaluation in which an argument's difference is not finite is left alone: what it leads to is not known.

    Args:
        mode: Supplies the arguments' differences.
        function: What the rule is for.
        base: The base result [*shape], or several.
        result: Its difference [P, *shape], or as many, some of them None.
        args: Of the function.
    """
    if not isinstance(base, Tensor):
        return [
            each if each is None else mended(mode, function, one, each, args)
            for one, each in zip(base, result, strict=True)
        ]
    stays = base.isinf()
    if not bool(stays.any()):
        return result
    lost = stays & (result.isnan() | (result == base))
    axes = (-1, *[1] * base.dim())
    for change in _changes(mode, args):
        lost &= _all_of_each(change.isfinite()).view(axes)
        if getattr(function, "__name__", "") in AT_AN_END:
            still = mode.align(change, base.dim()) == 0
            if still.dim() > lost.dim():
                still = _all_of_each(still).view(axes)
            lost &= still
    return torch.where(lost, 0.0, result)


def _all_of_each(mask: Tensor) -> Tensor:
    """[P] of [P, *shape]."""
    return mask.reshape(mask.shape[0], mask[0].numel()).all(1)


def _changes(mode: DifferenceMode, values: Iterable[Any]) -> Iterator[Tensor]:
    """The differences of tensors, and of those in lists."""
    for value in values:
        if isinstance(value, Tensor):
            change = mode.difference(value)
            if change is not None:
                yield change
        elif isinstance(value, (list, tuple)):
            yield from _changes(mode, value)
