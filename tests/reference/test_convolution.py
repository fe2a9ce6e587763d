"""The specification of the convolution: its two products and its epilogue are torch's, on perturbed weights."""

import pytest
import torch
import torch.nn.functional as F

from zo_triton import reference
from zo_triton.directions import Directions

WINDOWS = {
    "plain": ({}, 3),
    "strided-and-padded": ({"stride": (2, 1), "padding": (1, 2)}, 3),
    "dilated": ({"dilation": (2, 1)}, 3),
    "grouped": ({"groups": 3, "padding": (1, 1)}, 1),
}


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16], ids=["fp64", "bf16"])
def test_is_the_difference_of_two_convolutions(window, dtype):
    choices, group_inputs = WINDOWS[window]
    generator = torch.Generator().manual_seed(0)
    base, weight = (
        torch.randn(2, 3, 7, 6, generator=generator),
        torch.randn(6, group_inputs, 3, 2, generator=generator),
    )
    difference = torch.randn(4, 2, 3, 7, 6, generator=generator).to(dtype)
    directions, signed_eps = Directions(1, 0, 3)[1:], torch.tensor([0.5, -0.5, 0.25, -0.25])
    u = torch.empty(2, *weight.shape, dtype=torch.float64)
    v = torch.empty(2, 6, dtype=torch.float64)
    reference.sample(u, directions, 0, dtype)
    reference.sample(v, directions, 1, dtype)
    before = F.conv2d(base.double(), weight.double(), **choices)
    out = torch.full((4, *before.shape), float("nan"), dtype=dtype)
    window = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": 1, **choices}
    reference.perturbed_conv2d(
        out, base, difference, weight, before, directions, 0, 1, signed_eps, **window, activation="relu"
    )
    for p, step in enumerate(signed_eps.double()):
        moved = F.conv2d(
            base.double() + difference[p].double(),
            weight.double() + step * u[p // 2],
            step * v[p // 2],
            **choices,
        )
        wanted = torch.relu(moved) - torch.relu(before)
        torch.testing.assert_close(
            out[p], wanted.to(dtype), rtol=1e-2 if dtype == torch.bfloat16 else 0, atol=1e-12
        )


def test_a_first_layer_moves_by_its_own_weights_alone():
    base, weight = torch.ones(1, 1, 3, 3), torch.zeros(2, 1, 3, 3)
    out = torch.full((1, 1, 2, 1, 1), float("nan"), dtype=torch.float64)
    directions = Directions(0, 0, 1)
    z = torch.empty(1, 2, 1, 3, 3, dtype=torch.float64)
    reference.sample(z, directions, 4, torch.float64)
    window = [1, 1], [0, 0], [1, 1], 1
    reference.perturbed_conv2d(
        out, base, None, weight, None, directions, 4, -1, torch.tensor([0.5]), *window, "none"
    )
    assert torch.equal(out.flatten(), 0.5 * z.sum(dim=(2, 3, 4)).flatten())
