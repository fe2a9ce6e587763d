"""Multi-head attention: torch's own Python code, piece by piece, whose layers see the batch first.

It holds [tokens, batch, features]. Noise on the outputs of layers is drawn sample by sample and wants the batch in
the first axis, so where outputs are perturbed each of its layers is called with those two axes in the other order.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference.registry import handler
from zo_triton.difference.rules.composed import under_the_mode, without_question

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_in_pieces = under_the_mode(without_question(F.multi_head_attention_forward), False)


@handler("multi_head_attention_forward")
def multi_head_attention(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """``F.multi_head_attention_forward``, which ``nn.MultiheadAttention`` calls."""
    if mode.nodes is None:
        return _in_pieces(mode, function, args, kwargs)
    query = args[0] if args else kwargs["query"]
    linear = _by_sample(query.shape[1] if query.dim() == 3 else 1)
    projections = {name: without_question(getattr(F, name), linear=linear) for name in _PROJECTIONS}
    body = without_question(F.multi_head_attention_forward, linear=linear, **projections)
    return under_the_mode(body, False)(mode, function, args, kwargs)


_PROJECTIONS = ("_in_projection", "_in_projection_packed")


def _by_sample(batch: int) -> Callable:
    """``F.linear`` of [T, N, E], or of these rows one after the other [T·N, E], that sees [N, T, E]."""

    def linear(input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        tokens = input.reshape(-1, batch, input.shape[-1]).transpose(0, 1)
        outputs = F.linear(tokens, weight, bias).transpose(0, 1).contiguous()  # of which torch takes views
        return outputs.view(*input.shape[:-1], weight.shape[0])

    return linear
