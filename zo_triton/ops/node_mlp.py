"""A small network's whole step with orthogonal signs on its layers' outputs, where an engine offers it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.ops.arguments import check_arrays, check_memory
from zo_triton.ops.engines import engine_for, load_engine

SECOND_LAYER = 1 << 19
"""Float32 values of the second layer's differences along all directions for 32 samples: 2 MiB, to stay near."""

WIDEST, MOST_WEIGHTS = 512, 1 << 19
"""Outputs of a layer, and weights, beyond which real GEMMs are worth their calls."""


def why_no_node_step(device: torch.device, directions: Directions, weights: Sequence[Tensor]) -> str | None:
    """Why :func:`node_mlp_measure` can't do a step of a ReLU network of these weights, in words; None if it can."""
    engine = load_engine(engine_for(device))
    if not hasattr(engine, "node_mlp_measure"):
        return "another engine than the CPU's was chosen"
    if directions.order is None:
        return f"the distribution is {directions.distribution!r}, not 'hadamard'"
    second = weights[min(1, len(weights) - 1)].shape[0]
    if (
        sum(weight.numel() for weight in weights) > MOST_WEIGHTS
        or max(weight.shape[0] for weight in weights) > WIDEST
    ):
        return "the model is not a small one on the CPU"
    if 32 * second * directions.order > SECOND_LAYER:
        return "the directions are too many for the model's second layer"
    return None


def node_mlp_measure(
    tensors: Sequence[np.ndarray],
    x: np.ndarray,
    target: np.ndarray,
    directions: Directions,
    eps: float,
    sides: int,
) -> Any:
    """What a step learns of a ReLU network: its mean loss, and the gradient by each layer's output.

    Layer l is application l, its columns follow those of the layers before.

    Args:
        tensors: Weight [out_l, in_l] and bias [1, out_l] of each layer in turn, float32.
        x: [N, in] float32.
        target: [N] int64 in [0, C) for cross-entropy; [N, C] float32 for the squared error averaged over samples
            and outputs.
        directions: K ``hadamard`` directions.
        eps: ε.
        sides: 1, or 2 for central differences.

    Returns:
        With ``loss``, ``left_out`` (samples whose differences are not all finite: they count nothing, though the
        mean is over all), and what :func:`node_mlp_update` needs.

    Raises:
        ValueError: Shapes do not fit.
    """
    check_arrays(tensors, x, target)
    return load_engine("cpu").node_mlp_measure(list(tensors), x, target, directions, eps, sides)


def node_mlp_update(
    tensors: Sequence[np.ndarray],
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    rule: tuple[float, ...],
    x: np.ndarray,
    measured: Any,
) -> None:
    """Moves every tensor along the gradient that was measured by Adam or by SGD with momentum.

    Args:
        tensors: As in :func:`node_mlp_measure`, changed in place.
        first: First moments or momentum buffers, like the tensors, changed in place.
        second: Second moments, changed in place by Adam only.
        rule: As in ``ops.mlp_update``.
        x: The inputs that were measured.
        measured: What was.

    Raises:
        ValueError: Shapes do not fit.
    """
    check_memory(tensors, first, second)
    load_engine("cpu").node_mlp_update(list(tensors), list(first), list(second), rule, x, measured)
