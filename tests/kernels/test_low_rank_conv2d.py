"""The first of a low-rank convolution's two launches: its images projected on the right factor, once a group."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from root_mean_square import rms

from zo_triton.directions import PART_RIGHT, Directions, tensor_word
from zo_triton.kernels.conv2d import launch_perturbed_conv2d
from zo_triton.kernels.field import signed
from zo_triton.kernels.launch import recording
from zo_triton.kernels.low_rank_conv2d import project_windows
from zo_triton.reference.field import sample_matrix

FLOAT, HALF = torch.float32, torch.bfloat16
# (input [N, C, H, W], kernel, stride, padding, dilation, groups), each for its reason.
WINDOWS = {
    "a channel beyond the tile": ((2, 33, 7, 6), (3, 2), [1, 2], [2, 1], [2, 1], 1),
    "groups": ((3, 34, 5, 4), (2, 3), [1, 1], [0, 1], [1, 1], 2),
    "one by one": ((5, 64, 5, 3), (1, 1), [1, 1], [0, 0], [1, 1], 1),
}
NARROW = {"BLOCK_N": 64, "BLOCK_I": 32, "num_warps": 4, "num_stages": 1}


@pytest.mark.parametrize(
    ("window", "sides", "distribution", "rank", "dtype", "precision"),
    [
        ("a channel beyond the tile", 2, "rademacher", 3, FLOAT, "ieee"),
        ("a channel beyond the tile", 1, "gaussian", 2, HALF, "ieee"),
        ("groups", 2, "gaussian", 2, FLOAT, "bf16x6"),
        ("groups", 0, "rademacher", 3, FLOAT, "bf16x6"),
        ("groups", 2, "rademacher", 40, HALF, "ieee"),
        ("one by one", 0, "laplace", 17, FLOAT, "ieee"),
        ("one by one", 1, "uniform", 5, HALF, "ieee"),
    ],
)
def test_error_is_at_most_twice_torchs(
    window, sides, distribution, rank, dtype, precision, device, unwritten_is_nan
):
    shape, kernel, stride, padding, dilation, groups = WINDOWS[window]
    channels = shape[1] // groups
    columns, word = channels * kernel[0] * kernel[1], tensor_word(5, PART_RIGHT)
    directions = Directions(7, 3, 2, distribution, rank=rank, first=1)
    generator = torch.Generator().manual_seed(rank)
    base = torch.randn(shape, generator=generator)
    moved = base[None]
    difference = None
    if sides:
        difference = (1e-3 * torch.randn((2 * sides, *shape), generator=generator)).to(dtype)
        moved = base + difference.float()
        difference = difference.movedim(2, -1).contiguous().movedim(-1, 2).to(device)
    factors = [sample_matrix(directions, index, word, columns, rank) for index in (1, 2)]
    right = torch.from_numpy(np.stack(factors)).to(dtype).repeat_interleave(max(1, sides), 0)
    kernels = right.mT.reshape(-1, rank, channels, *kernel)

    def projected(as_dtype):
        """[groups, P, rank, positions] by torch's convolutions."""
        window = (None, stride, padding, dilation, groups)
        results = []
        for p, each in enumerate(kernels.to(as_dtype)):
            results.append(
                F.conv2d(moved[p % len(moved)].to(as_dtype), each.repeat(groups, 1, 1, 1), *window)
            )
        areas = torch.stack(results).unflatten(2, (groups, rank))
        return areas.movedim(2, 0).movedim(2, -3).flatten(-3).double() / rank**0.5

    exact = projected(torch.float64)
    image = F.conv2d(base, base.new_empty(groups, channels, *kernel), None, stride, padding, dilation, groups)
    found = project_windows(
        image.to(device, dtype), base.to(device), difference, torch.empty(groups, channels, *kernel), directions,
        signed(word), stride=stride, padding=padding, dilation=dilation, groups=groups, sides=max(1, sides),
        precision=precision, config=NARROW,
    )  # fmt: skip
    # Beside what torch's products lose: the engine's own Gaussian and Laplace draws, to 1e-5.
    drawn = 1e-5 * rms(exact) if distribution in ("gaussian", "laplace") else 0
    assert found.shape == exact.shape
    assert rms(found.cpu().double() - exact) <= 2 * rms(projected(dtype) - exact) + drawn


def _launches(channels, rank=4, first=False):
    directions = Directions(0, 0, 3, rank=rank)
    base = torch.empty(2, channels, 6, 5, device="meta")
    with recording() as launches:
        launch_perturbed_conv2d(
            torch.empty(6, 2, 64, 6, 5, device="meta"), base,
            None if first else torch.empty(6, *base.shape, device="meta"),
            torch.empty(64, channels, 3, 3, device="meta"), None, directions, 0, -1,
            torch.ones(6, device="meta"), [1, 1], [1, 1], [1, 1], 1, "none",
        )  # fmt: skip
    return launches


def test_images_are_projected_once_for_all_channels_out():
    projection, layer = _launches(16)
    assert projection.arguments["out_ptr"].shape == (1, 6, 4, 2 * 6 * 5)
    assert layer.arguments["projected_ptr"] is projection.arguments["out_ptr"]


def test_a_first_layers_projection_serves_both_sides():
    projection, _ = _launches(64, first=True)
    assert projection.arguments["out_ptr"].shape == (1, 3, 4, 2 * 6 * 5)


@pytest.mark.parametrize(("channels", "rank"), [(15, 4), (16, None)], ids=["few channels", "full rank"])
def test_others_have_no_such_launch(channels, rank):
    assert len(_launches(channels, rank)) == 1
