"""Which layers had better be perturbed in their weights, and which on their outputs."""

from __future__ import annotations

from collections.abc import Sequence

from zo_triton.difference.nodes import LayerSize


def prefer_weights(layers: Sequence[LayerSize], samples: int, num: int) -> frozenset[int]:
    """Ids of the parameters to perturb themselves."""
    return frozenset(i for layer in layers if layer.nodes > layer.elements * samples for i in layer.ids)
