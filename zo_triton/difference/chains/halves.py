"""Rotary embeddings: ``cat((-x[..., h:], x[..., :h]), -1)``, h being half the features, as a part of a chain.

Decoders multiply it by a sine and add x times a cosine. As parts of one program, the two halves are read where they
lie, with x itself, instead of being negated, joined and read again.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from zo_triton import ops
from zo_triton.difference.chains.formulas import difference_value, fits, formula_of_one
from zo_triton.difference.chains.pending import PendingChain
from zo_triton.difference.entries import Entry, storage_of

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_NEGATION = (("neg", (difference_value(0),)),)


def defer_turned_halves(mode: DifferenceMode, base: Tensor, parts: Sequence[Tensor], dim: int) -> bool:
    """Enters a concatenation as pending if it is that of some x's halves, the second one negated, in this order.

    Args:
        mode: The mode.
        base: The concatenation.
        parts: What is joined.
        dim: Along which axis.
    """
    if len(parts) != 2 or dim % base.dim() != base.dim() - 1 or base.dtype != torch.float32:
        return False
    if not fits(base) or not ops.offers_rows(base.device) or peek_interpreter_stack() is not None:
        return False
    behind, before = (mode.entry_of(part) for part in parts)
    if behind is None or before is None or before.difference is None:
        return False
    negation = behind.lazy
    if not isinstance(negation, PendingChain) or negation.formula.operations != _NEGATION:
        return False
    negated = negation.sources[0].difference
    whole = None if negated is None else _whole(before.difference, negated)
    if whole is None or whole.shape != (mode.evaluations, *base.shape):
        return False
    formula = formula_of_one(mode.evaluations, _turned_halves, base, ("turned halves",))
    if formula is None:
        return False
    mode.reserve(base.numel())
    mode.put(base, Entry(None, PendingChain(formula, base.shape, (), (Entry(whole),), negation.dtype)))
    return True


def _turned_halves(mode: Any, result: Any, input: Any) -> Any:
    return mode.needed(input).turn_halves()


def _whole(first: Tensor, second: Tensor) -> Tensor | None:
    """The tensor of which these are the halves along the last axis; None if they do not lie so in one memory."""
    half, forms = first.shape[-1], [(each.shape, each.stride(), each.dtype) for each in (first, second)]
    if half == 0 or forms[0] != forms[1] or storage_of(first) != storage_of(second):
        return None
    if second.storage_offset() != first.storage_offset() + half * first.stride(-1):
        return None
    return first.as_strided((*first.shape[:-1], 2 * half), first.stride())
