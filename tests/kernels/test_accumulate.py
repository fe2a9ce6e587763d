"""The in-place update of all directions against the reference's."""

import pytest
import torch

from zo_triton import reference
from zo_triton.directions import Directions
from zo_triton.kernels import accumulate, sample

COEFFICIENTS = torch.tensor([0.5, -1.25e-3, 3.0])


def _both(tensor, directions, dtype, device, tile=None):
    expected = [tensor.clone()]
    reference.accumulate(expected, [2], COEFFICIENTS, directions, dtype)
    moved = [tensor.to(device)]
    accumulate(moved, [2], COEFFICIENTS.to(device), directions, dtype, config=tile)
    return moved[0].cpu(), expected[0]


@pytest.mark.parametrize("shape", [(), (97,), (5, 33), (6, 2, 3, 3)], ids=str)
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_update_matches_the_reference(distribution, shape, device):
    moved, expected = _both(torch.ones(shape), Directions(7, 1, 3, distribution), torch.float32, device)
    # Three roundings of sums below 16, and the Gaussian's own error.
    assert (moved - expected).abs().max() <= 4e-6 + 3.5e-5 * (distribution == "gaussian")


def test_float64_weights_lose_nothing(device):
    moved, expected = _both(
        torch.ones(9, 40, dtype=torch.float64), Directions(7, 1, 3), torch.float32, device
    )
    assert (moved - expected).abs().max() <= 1e-15


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_low_rank_update_matches_the_reference(dtype, device):
    moved, expected = _both(torch.zeros(21, 34), Directions(7, 1, 3, "gaussian", rank=5), dtype, device)
    assert (moved - expected).abs().max() <= 5e-5


def test_direction_walked_is_the_direction_measured(device):
    """With one coefficient of 1 the update is ``sample``'s z, bit for bit."""
    directions = Directions(3, 3, 1, "gaussian")
    tensor = torch.zeros(7, 45, device=device)
    accumulate([tensor], [4], torch.ones(1, device=device), directions, torch.bfloat16)
    z = torch.full((1, 7, 45), float("nan"), device=device)
    sample(z, directions, 4, torch.bfloat16)
    assert torch.equal(tensor, z[0])


def test_tiles_never_change_the_update(device):
    directions = Directions(0, 0, 3, "gaussian")
    whole, _ = _both(torch.zeros(18, 40), directions, torch.float32, device)
    small, _ = _both(torch.zeros(18, 40), directions, torch.float32, device, tile={"ROWS": 8, "COLS": 16})
    assert torch.equal(whole, small)


@pytest.mark.parametrize(
    "view",
    [lambda t: t.transpose(0, 1), lambda t: t[::2, 1:], lambda t: t.view(6, 4, 10).transpose(1, 2)],
    ids=["transposed", "sliced", "rows that no stride describes"],
)
def test_strided_tensors_are_updated_in_place(view, device):
    storage = torch.zeros(6, 40, device=device)
    tensor = view(storage)
    accumulate([tensor], [0], COEFFICIENTS.to(device), Directions(0, 0, 3), torch.float32)
    expected = [torch.zeros(tensor.shape)]
    reference.accumulate(expected, [0], COEFFICIENTS, Directions(0, 0, 3), torch.float32)
    torch.testing.assert_close(tensor.cpu(), expected[0], rtol=0, atol=1e-6)
    assert storage.count_nonzero() == tensor.numel()


def test_half_precision_weights_are_refused_before_anything_moves(device):
    tensors = [torch.zeros(4, device=device), torch.zeros(4, dtype=torch.bfloat16, device=device)]
    with pytest.raises(TypeError, match=r"float32 or float64 tensors, got torch.bfloat16"):
        accumulate(tensors, [0, 1], COEFFICIENTS.to(device), Directions(0, 0, 3), torch.float32)
    assert not tensors[0].any()


def test_coefficients_must_match_the_directions(device):
    with pytest.raises(ValueError, match=r"expected 2 coefficients, one a direction, got 3"):
        accumulate([], [], COEFFICIENTS.to(device), Directions(0, 0, 2), torch.float32)
