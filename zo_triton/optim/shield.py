"""What surrounds a step is meant for its closure, and may not reach the update: autocast and inference mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, nullcontext

import torch
from torch import Tensor

from zo_triton.ops import engines


@contextmanager
def shielded(params: Sequence[Tensor]) -> Iterator[None]:
    """Inside, weights move as they would with no mode around the step.

    What an optimizer remembers must be ordinary tensors, which later steps may write to wherever they are taken.
    Only weights that were made in inference mode themselves can be moved nowhere else.

    Args:
        params: What will be moved.
    """
    left = torch.is_inference_mode_enabled() and not any(param.is_inference() for param in params)
    ordinary = torch.inference_mode(False) if left else nullcontext()
    # Leaving inference mode switches autograd on again.
    with engines.uncast(params[0].device), ordinary, torch.no_grad():
        yield
