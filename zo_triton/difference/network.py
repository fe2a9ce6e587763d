"""A whole network in one call: when a loss finds nothing but pending linear layers and activations behind it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from torch import Tensor

from zo_triton import ops
from zo_triton.difference.entries import Entry
from zo_triton.difference.pending_layers import PendingActivation, PendingLinear

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


def loss_through_mlp(
    mode: DifferenceMode, logits: Tensor, target: Tensor, label_smoothing: float = 0.0
) -> Tensor | None:
    """Each sample's loss difference, [P, N] float32; None if there is no such network or no such op for it.

    Cross-entropy for class indices [N], squared error summed over the outputs for a float target [N, C].
    """
    entry = mode.entry_of(logits)
    if entry is None or logits.dim() != 2 or mode.nodes is not None:
        return None
    layers = _layers_behind(entry)
    if not layers:
        return None
    weights = [layer.weight for layer, _, _ in layers if layer.weight is not None]
    inputs = [layer.base for layer, _, _ in layers if layer.base is not None]
    if not ops.offers_mlp(logits.device, mode.directions, weights):
        return None
    return ops.mlp_differences(
        inputs,
        [*(output for _, _, output in layers[:-1] if output is not None), logits.float()],
        weights,
        [layer.weight_id for layer, _, _ in layers],
        [layer.bias_id for layer, _, _ in layers],
        [activation for _, activation, _ in layers],
        target,
        mode.directions,
        mode.signed_eps,
        label_smoothing,
    )


def _layers_behind(entry: Entry) -> list[tuple[PendingLinear, str, Tensor | None]]:
    """The layers from first to last, each with its activation and its base output; empty if it isn't only that."""
    found: list[tuple[PendingLinear, str, Tensor | None]] = []
    lazy, activation, output = entry.lazy, "none", None
    while isinstance(lazy, PendingLinear) and not lazy.spent and not lazy.transposed and len(lazy.shape) == 2:
        found.append((lazy, activation, output))
        source = lazy.source
        if source is None:
            return found[::-1]
        activation, output = "none", lazy.base
        lazy = source.lazy
        if isinstance(lazy, PendingActivation):
            assert lazy.source is not None
            activation, output, lazy = lazy.activation, lazy.base, lazy.source.lazy
    return []
