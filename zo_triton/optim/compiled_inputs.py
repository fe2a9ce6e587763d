"""A batch as the compiled steps take it, checked: they read memory without looking."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

IGNORED = -100
"""The class index that ``F.cross_entropy`` leaves out."""


def is_compilable(x: Tensor, y: Tensor, loss: Callable[..., Any]) -> bool:
    """Whether compiled calls know such a batch: rows of float32, and no label that is left out or shared."""
    if x.dtype != torch.float32 or x.dim() > 2:
        return False
    if loss is F.mse_loss:
        return True
    ignores = y.dtype == torch.int64 and y.is_cpu and IGNORED in y.numpy()
    return not ignores and not (y.is_floating_point() and y.dim() == 2)


def checked_batch(
    x: Tensor, y: Tensor, tensors: Sequence[np.ndarray], loss: Callable[..., Any]
) -> tuple[Tensor, np.ndarray]:
    """Contiguous inputs, and labels or targets of the loss.

    Args:
        x: Inputs.
        y: Labels for ``F.cross_entropy``, targets for ``F.mse_loss``.
        tensors: The network's weights and biases.
        loss: One of these.

    Raises:
        TypeError: The labels are no int64 tensor, or the targets no float32 one.
        ValueError: Shapes do not fit, or a label is out of range.
    """
    inputs, outputs = tensors[0].shape[1], tensors[-1].shape[1]
    if x.dim() != 2 or x.shape[1] != inputs or x.shape[0] == 0:
        raise ValueError(f"x must be a batch [N, {inputs}] of at least one example, got {tuple(x.shape)}.")
    check = _checked_targets if loss is F.mse_loss else _checked_labels
    return x.detach().contiguous(), check(y, x.shape[0], outputs)


def _checked_labels(y: Tensor, examples: int, classes: int) -> np.ndarray:
    if y.shape != (examples,):
        raise ValueError(f"y must be [{examples}], one label an example, got {tuple(y.shape)}.")
    if y.dtype != torch.int64:
        raise TypeError(f"y must hold class indices in int64, got {y.dtype}.")
    labels = y.contiguous().numpy()
    # As an unsigned number a negative one is larger than any class.
    if labels.view(np.uint64).max() >= classes:
        raise ValueError(f"labels must be in [0, {classes}), got {labels.min()} to {labels.max()}.")
    return labels


def _checked_targets(y: Tensor, examples: int, outputs: int) -> np.ndarray:
    if y.shape != (examples, outputs):
        raise ValueError(
            f"y must be [{examples}, {outputs}] like the outputs, got {tuple(y.shape)}; a smaller shape would "
            "be broadcast."
        )
    if y.dtype != torch.float32:
        raise TypeError(f"y must hold targets in float32, got {y.dtype}; call y.float().")
    return y.contiguous().numpy()
