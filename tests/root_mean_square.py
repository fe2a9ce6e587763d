"""The size of an error, for tests that hold a kernel's to that of torch."""

from torch import Tensor


def rms(tensor: Tensor) -> Tensor:
    return tensor.square().mean().sqrt()
