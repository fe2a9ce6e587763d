"""The first of a low-rank layer's two launches: its inputs projected on the right factor, once for all features."""

import numpy as np
import pytest
import torch
from root_mean_square import rms

from zo_triton.directions import PART_RIGHT, Directions, tensor_word
from zo_triton.kernels.field import signed
from zo_triton.kernels.launch import recording
from zo_triton.kernels.low_rank import project
from zo_triton.kernels.perturbed_linear import launch_perturbed_linear
from zo_triton.reference.field import sample_matrix

FLOAT, HALF = torch.float32, torch.bfloat16
SAMPLES, FEATURES = 65, 77
"""One past a tile, and a number that no block divides."""


@pytest.mark.parametrize(
    ("dtype", "precision"),
    [(FLOAT, "ieee"), (FLOAT, "bf16x6"), (HALF, "ieee")],
    ids=["fp32", "fp32 in parts", "bf16"],
)
@pytest.mark.parametrize(("distribution", "rank"), [("rademacher", 3), ("gaussian", 2), ("uniform", 70)])
@pytest.mark.parametrize("sides", [0, 1, 2], ids=["first", "one side", "both sides"])
def test_error_is_at_most_twice_torchs(sides, distribution, rank, dtype, precision, device, unwritten_is_nan):
    directions = Directions(7, 3, 2, distribution, rank=rank, first=1)
    generator = torch.Generator().manual_seed(rank)
    base = torch.randn(SAMPLES, FEATURES, generator=generator)
    shape = (2 * sides, SAMPLES, FEATURES)
    difference = (1e-3 * torch.randn(shape, generator=generator)).to(dtype) if sides else None
    word = tensor_word(5, PART_RIGHT)
    right = torch.from_numpy(
        np.stack([sample_matrix(directions, index, word, FEATURES, rank) for index in (1, 2)])
    )
    right = right.to(dtype).repeat_interleave(max(1, sides), 0)

    found = project(
        base.to(device), difference if difference is None else difference.to(device), directions, signed(word),
        rank, sides=max(1, sides), dtype=dtype, precision=precision,
    )  # fmt: skip
    moved = base if difference is None else base + difference.float()
    exact = (moved.double() @ right.double()).mT / rank**0.5
    torchs = (moved.to(dtype) @ right).mT.double() / rank**0.5
    assert found.shape == exact.shape
    assert rms(found.cpu().double() - exact) <= 2 * rms(torchs - exact)


def _launches(samples, outputs, inputs, first=False, directions=None):
    directions = directions or Directions(0, 0, 6, rank=4)
    out = torch.empty(6, samples, outputs, device="meta")
    difference = None if first else torch.empty(6, samples, inputs, device="meta")
    with recording() as launches:
        launch_perturbed_linear(
            out, torch.empty(samples, inputs, device="meta"), difference,
            torch.empty(outputs, inputs, device="meta"), None, directions, 0, -1,
            torch.ones(6, device="meta"), "none",
        )  # fmt: skip
    return launches


@pytest.mark.parametrize("outputs", [64, 8192])
def test_inputs_are_projected_once_for_all_features(outputs):
    projection, layer = _launches(256, outputs, 512)
    projected = projection.arguments["out_ptr"]
    assert projection.programs == 6 * 256 // projection.arguments["BLOCK_N"]
    assert layer.arguments["projected_ptr"] is projected
    assert projected.shape == (6, 4, 256)


def test_a_first_layers_projection_serves_both_sides():
    projection, _ = _launches(256, 64, 512, first=True, directions=Directions(0, 0, 3, rank=4))
    assert projection.arguments["out_ptr"].shape == (3, 4, 256)


def test_full_rank_has_no_such_launch():
    assert len(_launches(8, 64, 512, directions=Directions(0, 0, 6))) == 1
