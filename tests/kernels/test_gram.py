"""Inner products of directions against the reference's."""

import pytest
import torch

from zo_triton import reference
from zo_triton.directions import Directions
from zo_triton.kernels import gram
from zo_triton.kernels.launch import recording


def _both(shapes, directions, dtype, device, config=None):
    size = directions.num
    expected = torch.full((size, size), float("nan"), dtype=torch.float64)
    ids = list(range(3, 3 + len(shapes)))
    reference.gram(expected, [torch.empty(shape) for shape in shapes], ids, directions, dtype)
    out = torch.full((size, size), float("nan"), dtype=torch.float64, device=device)
    gram(out, [torch.empty(shape, device=device) for shape in shapes], ids, directions, dtype, config=config)
    return out.cpu(), expected


@pytest.mark.parametrize("num", [1, 17], ids=["one direction", "one past a block of directions"])
def test_signs_give_exact_integers(num, device):
    out, expected = _both([(13, 47), (70,)], Directions(5, 0, num, first=3), torch.bfloat16, device)
    assert torch.equal(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gaussians_agree(dtype, device):
    out, expected = _both([(13, 21), (19,)], Directions(5, 0, 3, "gaussian"), dtype, device)
    # 292 elements, each product off by at most a few 1e-7; a bfloat16 value on a boundary by 2^-8 of itself.
    assert (out - expected).abs().max() <= (2e-4 if dtype == torch.float32 else 0.05)


def test_low_rank_signs_agree(device):
    out, expected = _both([(13, 37), (9,)], Directions(5, 0, 3, rank=3), torch.float32, device)
    torch.testing.assert_close(out, expected, rtol=1e-14, atol=1e-12)


def test_low_rank_gaussians_beyond_one_block_of_ranks_agree(device):
    out, expected = _both([(70, 36)], Directions(5, 0, 2, "gaussian", rank=34), torch.float32, device)
    torch.testing.assert_close(out, expected, rtol=0, atol=2e-6 * float(expected.diagonal().max()))


def test_result_is_symmetric_and_the_same_for_any_tiles(device):
    directions = Directions(1, 1, 3)
    out, _ = _both([(21, 100)], directions, torch.float32, device)
    config = {"BLOCK_K": 16, "ROWS": 4, "COLS": 32, "num_warps": 4}
    other, _ = _both([(21, 100)], directions, torch.float32, device, config)
    assert torch.equal(out, other)
    assert torch.equal(out, out.T)


def test_partial_sums_stay_small_however_many_directions():
    """[chunks, K, K] float64 takes 8 MiB, or one K × K."""
    for num, most in ((1, 2**23), (64, 2**23), (1000, 2**23), (4096, 8 * 4096**2)):
        out = torch.empty(num, num, dtype=torch.float64, device="meta")
        with recording() as launches:
            gram(out, [torch.empty(4096, 4096, device="meta")], [0], Directions(1, 1, num), torch.float32)
        partial = launches[0].arguments["partial_ptr"]
        assert 8 * partial.numel() <= most
        assert launches[0].arguments["chunks"] * launches[0].arguments["k_blocks"] ** 2 >= 256


def test_empty_tensors_add_nothing(device):
    out = torch.full((2, 2), float("nan"), dtype=torch.float64, device=device)
    gram(out, [torch.empty(0, 4, device=device)], [0], Directions(1, 1, 2), torch.float32)
    assert not out.any()
