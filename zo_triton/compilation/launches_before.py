"""Small launches that come before an operation's own, as calls on tensors that nobody reads."""

from __future__ import annotations

import torch

from zo_triton.directions import Directions
from zo_triton.kernels.choices import Config
from zo_triton.kernels.exact_products import write_parts
from zo_triton.kernels.low_rank import project
from zo_triton.kernels.low_rank_conv2d import project_windows
from zo_triton.kernels.stage_taps import stage_taps


def few(distribution: str = "rademacher", rank: int | None = None, num: int = 2) -> Directions:
    """Directions of whatever seed.

    Args:
        distribution: Of the directions.
        rank: Of the directions.
        num: How many.
    """
    # Where columns begin makes no other code; that they are known does.
    return Directions(0, 0, num, distribution, rank=rank).over([(512, 1024)] * 8)


def take_apart(config: Config | None) -> None:
    """What comes before a whole network: its base inputs and a weight taken apart."""
    inputs = torch.empty(128, 784, dtype=torch.float32, device="cpu")
    weight = torch.empty(100, 100, dtype=torch.float32, device="cpu")
    write_parts([inputs, weight], [(128, 832), (128, 128)])


def project_inputs(dtype: torch.dtype, precision: str, config: Config | None) -> None:
    """What comes before a linear layer of low rank, both sides."""
    base = torch.empty(256, 1024, dtype=torch.float32, device="cpu")
    difference = torch.empty(4, 256, 1024, dtype=dtype, device="cpu")
    project(base, difference, few(rank=4), 0, 4, sides=2, dtype=dtype, precision=precision, config=config)


def project_images(dtype: torch.dtype, precision: str, config: Config | None) -> None:
    """What comes before a convolution of low rank, both sides."""
    base = torch.empty(8, 64, 28, 28, dtype=torch.float32, device="cpu")
    difference = torch.empty(4, 8, 28, 28, 64, dtype=dtype, device="cpu").movedim(-1, 2)
    weight = torch.empty(64, 64, 3, 3, dtype=torch.float32, device="cpu")
    project_windows(
        difference[0], base, difference, weight, few(rank=4), 0, stride=[1, 1],
        padding=[1, 1], dilation=[1, 1], groups=1, sides=2, precision=precision, config=config,
    )  # fmt: skip


def stage_by_taps(config: Config | None) -> None:
    """What comes before a convolution that sums tap by tap."""
    stage_taps(few(), 0, torch.Size((64, 64, 3, 3)), torch.device("cpu"))
