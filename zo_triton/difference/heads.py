"""Logits over a vocabulary so large that not even one direction's differences fit into the budget.

A linear layer's logits stay pending through the views and casts between the layer and the loss, which only pick and
reshape whole rows. The loss then makes the differences of some samples along some directions at a time, and
nothing of those whose label is ignored.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference.entries import Entry, Viewed
from zo_triton.difference.pending_layers import PendingLinear
from zo_triton.ops import engines

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

SAMPLES = 64
"""Samples of which differences are made at once, at least: fewer would read the weight too often."""


class ViewedRows(Viewed):
    """Some rows of a pending layer's result, in another shape.

    Args:
        source: The entry of the tensor that was viewed.
        view: Makes this tensor's difference of the source's.
        rows: int64, which rows of the layer's result these are.
    """

    __slots__ = ("rows",)

    def __init__(self, source: Entry, view: Callable[[Tensor], Tensor], rows: Tensor) -> None:
        super().__init__(source, view)
        self.rows = rows


def is_too_large(mode: DifferenceMode, elements: int) -> bool:
    """Whether one direction's difference of so many elements is over the budget already."""
    return elements * mode.sides * mode.compute_dtype.itemsize > mode.budget


def stays_pending(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    pick: Callable[[Tensor], Tensor] | None,
    view: Callable[[Tensor], Tensor],
) -> bool:
    """Enters a view of a large head's logits as pending; False where it is none, or cuts through their rows.

    Args:
        mode: The mode.
        base: The view.
        input: What was viewed.
        pick: Does to a tensor of the input's shape what the view did, without a copy; None if rows stay in order.
        view: Makes the view's difference of the input's.
    """
    entry = mode.entry_of(input)
    found = None if entry is None else _layer_behind(mode, entry)
    if entry is None or found is None or base.device != input.device:
        return False
    if base.dim() < 2 or base.shape[-1] != input.shape[-1]:
        return False
    if base is input:
        return True
    rows = found[1]
    if pick is not None:
        picked = pick(rows.view(*input.shape[:-1], 1).expand(input.shape))
        if picked.stride(-1) != 0:
            return False
        rows = picked[..., 0].reshape(-1)
    mode.put(base, Entry(None, ViewedRows(entry, view, rows)))
    return True


def loss_of_head(
    mode: DifferenceMode, logits: Tensor, labels: Tensor, label_smoothing: float, factors: Tensor | None
) -> Tensor | None:
    """Cross-entropy differences [P, N] float32 of a large head's logits [N, C], a piece at a time; None for others.

    Args:
        mode: The mode.
        logits: The base logits.
        labels: int64 [N] in [0, C).
        label_smoothing: Share of the uniform distribution mixed into the target.
        factors: [N], or None; samples whose factor is 0 are left out.
    """
    entry = mode.entry_of(logits)
    found = None if entry is None or logits.dim() != 2 else _layer_behind(mode, entry)
    if found is None:
        return None
    layer, rows = found
    given = layer.given(mode)
    assert layer.base is not None
    assert layer.weight is not None
    if factors is None or engines.is_replayable():
        wanted = torch.arange(len(labels), dtype=torch.int64, device=labels.device)
    else:
        wanted = factors.nonzero()[:, 0]
    out = torch.zeros(mode.evaluations, len(labels), dtype=torch.float32, device=logits.device)
    each = logits.shape[1] * mode.sides * mode.compute_dtype.itemsize
    samples = max(SAMPLES, mode.budget // each // SAMPLES * SAMPLES)
    num = max(1, mode.budget // (each * min(samples, max(1, len(wanted)))))
    for some in wanted.split(samples):
        at = rows[some]
        still, values, aims = layer.base[at], logits[some], labels[some]
        for first in range(0, mode.directions.num, num):
            directions = mode.directions[first : first + num]
            evaluations = slice(first * mode.sides, (first + directions.num) * mode.sides)
            change = ops.perturbed_linear(
                still,
                None if given is None else given[evaluations][:, at],
                layer.weight,
                directions,
                mode.signed_eps[evaluations],
                weight_id=layer.weight_id,
                bias_id=layer.bias_id,
                dtype=mode.compute_dtype,
                transposed=layer.transposed,
            )
            losses = ops.cross_entropy_difference(values.float(), change, aims, label_smoothing)
            out[evaluations, some] = losses
    return out


def _layer_behind(mode: DifferenceMode, entry: Entry) -> tuple[PendingLinear, Tensor] | None:
    """The large pending layer whose rows an entry holds, and which."""
    rows, lazy = None, entry.lazy
    while isinstance(lazy, ViewedRows) and lazy.source is not None:
        rows = lazy.rows if rows is None else rows
        lazy = lazy.source.lazy
    if not isinstance(lazy, PendingLinear) or lazy.spent or lazy.base is None or lazy.node is not None:
        return None
    if not is_too_large(mode, lazy.shape.numel()):
        return None
    if rows is None:
        rows = torch.arange(lazy.base.shape[0], dtype=torch.int64, device=lazy.base.device)
    return lazy, rows
