"""What the machine can do at most: the ceilings that an op's time is held against."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from benchmarks.timing import alternate


@dataclass(frozen=True)
class Peaks:
    """Measured ceilings of this process's threads.

    Attributes:
        gflops: Of torch's matrix product in the compute dtype, 10⁹ floating-point operations a second.
        gigabytes: Read and written by torch's copy of what no cache holds, 10⁹ bytes a second.
    """

    gflops: float
    gigabytes: float

    def seconds(self, gflop: float, megabytes: float) -> float:
        """The least time for so much work and so much traffic, whichever takes longer.

        Source: Williams, Waterman and Patterson, "Roofline", Communications of the ACM 52(4), 2009.
        """
        return max(gflop / self.gflops, 1e-3 * megabytes / self.gigabytes)


def measure_peaks(
    dtype: torch.dtype, size: int = 1024, megabytes: float = 256.0, seconds: float = 1.0
) -> Peaks:
    """Times a square product and a copy on the CPU, in turns, and takes the quickest of each.

    Args:
        dtype: Of the product.
        size: Its rows and columns.
        megabytes: Read and written by a copy.
        seconds: For both together.
    """
    a, b = torch.randn(size, size).to(dtype), torch.randn(size, size).to(dtype)
    source = torch.zeros(int(megabytes * 1e6 / 8))
    target = torch.empty_like(source)
    product, copy = alternate([lambda: a @ b, lambda: target.copy_(source)], seconds)
    return Peaks(2e-9 * size**3 / min(product), 1e-3 * megabytes / min(copy))
