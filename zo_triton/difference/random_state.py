"""torch's random state, taken and put back, so that every run of the closure draws the same masks."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class RandomState:
    """State of the CPU's generator and, if the tensors live on a GPU, of that GPU's."""

    cpu: Tensor
    cuda: Tensor | None
    device: torch.device

    @staticmethod
    def capture(device: torch.device) -> RandomState:
        """The state now."""
        cuda = torch.cuda.get_rng_state(device) if device.type == "cuda" else None
        return RandomState(torch.get_rng_state(), cuda, device)

    def restore(self) -> None:
        """Puts the state back."""
        torch.set_rng_state(self.cpu)
        if self.cuda is not None:
            torch.cuda.set_rng_state(self.cuda, self.device)
