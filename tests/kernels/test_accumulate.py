"""The in-place update of all directions against the reference's."""

import importlib

import pytest
import torch

from zo_triton import reference
from zo_triton.directions import Directions
from zo_triton.kernels import accumulate, sample
from zo_triton.ops import on_grid

kernel = importlib.import_module("zo_triton.kernels.accumulate")
"""The module, whose name in the package is the function's."""

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


@pytest.mark.parametrize("shape", [(10, 33), (97,)], ids=str)
@pytest.mark.parametrize("sizes", [None, {"ROWS": 8, "COLS": 32}], ids=["own tiles", "small tiles"])
def test_parts_of_the_directions_change_no_bit(sizes, shape, device, monkeypatch):
    """On a grid sums of signs are exact: 67 directions in four parts, the last one shorter, or in one."""
    coefficients = on_grid(torch.randn(67, generator=torch.Generator().manual_seed(1)))
    start = torch.randn(shape, generator=torch.Generator().manual_seed(2))
    results = []
    for fewest in (16, 67):
        monkeypatch.setattr(kernel, "FEWEST_DIRECTIONS", fewest)
        tensor = start.to(device, copy=True)
        accumulate([tensor], [2], coefficients.to(device), Directions(7, 1, 67), torch.float32, config=sizes)
        results.append(tensor.cpu())
    expected = [start.clone()]
    reference.accumulate(expected, [2], coefficients, Directions(7, 1, 67), torch.float32)
    assert torch.equal(*results)
    assert torch.equal(results[0], expected[0])


def test_parts_of_real_values_and_strides_match_the_reference(device):
    directions = Directions(7, 1, 40, "gaussian")
    tensor, coefficients = torch.zeros(21, 9, device=device).T, torch.linspace(-1.0, 1.0, 40)
    accumulate([tensor], [2], coefficients.to(device), directions, torch.float32)
    expected = [torch.zeros(9, 21, dtype=torch.float64)]
    reference.accumulate(expected, [2], coefficients, directions, torch.float32)
    # Forty products of values below 6, each off by 1e-5 at most.
    assert (tensor.cpu() - expected[0]).abs().max() <= 40 * 1e-5


@pytest.mark.parametrize("shape", [(128, 784), (128, 128), (10, 128), (128,), (10,)], ids=str)
def test_many_directions_fill_the_chip_whatever_the_tensor(shape):
    """4 096 directions on the layers of 784-128-128-10, against 132 multiprocessors of an H100."""
    programs = []

    def count(kernel, number, tensor, **arguments):
        programs.append(number)
        assert arguments["share"] * (number // arguments["tiles"]) >= 4096

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernel, "launch", count)
        accumulate([torch.zeros(shape)], [0], torch.zeros(4096), Directions(0, 0, 4096), torch.float32)
    assert programs[0] >= 132


def test_half_precision_weights_are_refused_before_anything_moves(device):
    tensors = [torch.zeros(4, device=device), torch.zeros(4, dtype=torch.bfloat16, device=device)]
    with pytest.raises(TypeError, match=r"float32 or float64 tensors, got torch.bfloat16"):
        accumulate(tensors, [0, 1], COEFFICIENTS.to(device), Directions(0, 0, 3), torch.float32)
    assert not tensors[0].any()


def test_coefficients_must_match_the_directions(device):
    with pytest.raises(ValueError, match=r"expected 2 coefficients, one a direction, got 3"):
        accumulate([], [], COEFFICIENTS.to(device), Directions(0, 0, 2), torch.float32)
