"""What surrounds a step is meant for its closure, and may not reach the update: autocast and inference mode."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

import torch
from torch import Tensor

from zo_triton.ops import engines


def shielded(params: Sequence[Tensor]) -> AbstractContextManager[object]:
    """Inside, weights move as they would with no mode around the step.

    What an optimizer remembers must be ordinary tensors, which later steps may write to wherever they are taken.
    Only weights that were made in inference mode themselves can be moved nowhere else.

    Args:
        params: What will be moved, by a caller that has switched autograd off.
    """
    cast = engines.uncast(params[0].device)
    if torch.is_inference_mode_enabled() and not any(param.is_inference() for param in params):
        return _left_inference_mode(cast)
    return cast


@contextmanager
def _left_inference_mode(cast: AbstractContextManager[object]) -> Iterator[None]:
    # Leaving inference mode switches autograd on again.
    with cast, torch.inference_mode(False), torch.no_grad():
        yield
