"""``sample`` and the staged words against the reference, whatever the tiles, chunks and strides."""

from dataclasses import replace

import pytest
import torch

from zo_triton import reference
from zo_triton.directions import Directions, tensor_word
from zo_triton.distributions import DISTRIBUTIONS, INDEPENDENT
from zo_triton.kernels import sample
from zo_triton.kernels.field import step_on_device
from zo_triton.kernels.stage import stage

NAN = float("nan")
SHAPES = {
    "a number": (),
    "a vector, one past a block": (33,),
    "one element": (1, 1),
    "rows and columns one short of a block": (7, 31),
    "one past a block, one past a tile": (65, 129),
    "four dimensions": (5, 3, 3, 3),
}


def _reference(directions, tensor_id, shape, dtype, out_dtype=torch.float64):
    out = torch.full((directions.num, *shape), NAN, dtype=out_dtype)
    reference.sample(out, directions, tensor_id, dtype)
    return out


def _sample(directions, tensor_id, shape, dtype, device, out_dtype=torch.float64, tile=None):
    out = torch.full((directions.num, *shape), NAN, dtype=out_dtype, device=device)
    sample(out, directions, tensor_id, dtype, tile=tile)
    return out.cpu()


@pytest.mark.parametrize("rounds", [7, 10])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_signs_are_the_references_bit_for_bit(shape, rounds, device):
    directions = Directions(2**64 - 3, 2**32 - 1, 2, rounds=rounds, first=2**31 - 1)
    drawn = _sample(directions, 5, shape, torch.float32, device)
    assert torch.equal(drawn, _reference(directions, 5, shape, torch.float32))


@pytest.mark.parametrize(("order", "first"), [(None, 0), (64, 5), (2**31, 2**31 - 2)])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_orthogonal_signs_are_the_references_bit_for_bit(shape, order, first, device):
    directions = Directions(2**64 - 3, 2**32 - 1, 2, "hadamard", first=first, order=order)
    # A tensor whose column index is beyond the order, beyond 2³¹, and no power of two.
    directions = directions.over([(2**17 + 3, 2**14 + 1), (3, 70), shape])
    drawn = _sample(directions, 2, shape, torch.float32, device)
    assert torch.equal(drawn, _reference(directions, 2, shape, torch.float32))


def test_orthogonal_signs_of_a_step_whose_number_lies_on_the_device(device):
    directions = Directions(3, 2**32 - 5, 3, "hadamard", first=1)
    step = torch.tensor([-5], dtype=torch.int32, device=device)
    expected = _reference(directions, 0, (9, 45), torch.float32)
    with step_on_device(step):
        drawn = _sample(replace(directions, step=0), 0, (9, 45), torch.float32, device)
    assert torch.equal(drawn, expected)


@pytest.mark.parametrize("distribution", [name for name, entry in DISTRIBUTIONS.items() if not entry.signs])
def test_real_values_agree_to_1e_5(distribution, device):
    directions = Directions(11, 3, 2, distribution)
    drawn = _sample(directions, 0, (37, 67), torch.float32, device)
    assert (drawn - _reference(directions, 0, (37, 67), torch.float32)).abs().max() <= 1e-5


@pytest.mark.parametrize("distribution", INDEPENDENT)
def test_tiles_and_chunks_never_change_a_value(distribution, device):
    directions = Directions(4, 9, 4, distribution).over([(3, 3), (19, 70)])
    whole = _sample(directions, 1, (19, 70), torch.float32, device)
    for tile in ({"ROWS": 4, "COLS": 32}, {"ROWS": 16, "COLS": 128}):
        assert torch.equal(_sample(directions, 1, (19, 70), torch.float32, device, tile=tile), whole)
    assert torch.equal(_sample(directions[1:3], 1, (19, 70), torch.float32, device), whole[1:3])


@pytest.mark.parametrize("out_dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_bfloat16_field_is_the_rounded_one(out_dtype, device):
    directions = Directions(2, 0, 2, "gaussian")
    drawn = _sample(directions, 0, (9, 40), torch.bfloat16, device, out_dtype)
    expected = _reference(directions, 0, (9, 40), torch.bfloat16, out_dtype)
    # A value whose float32 error crosses a rounding boundary may land on the neighbouring bfloat16.
    assert (drawn != expected).float().mean() <= 0.01
    assert torch.equal(drawn, drawn.to(torch.bfloat16).to(out_dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(("distribution", "rank"), [("rademacher", 3), ("gaussian", 1), ("gaussian", 17)])
def test_low_rank_matches_the_reference_and_has_its_rank(distribution, rank, dtype, device):
    directions = Directions(1, 2, 2, distribution, rank=rank)
    drawn = _sample(directions, 0, (18, 35), dtype, device)
    assert (drawn - _reference(directions, 0, (18, 35), dtype)).abs().max() <= 2e-5
    assert torch.linalg.matrix_rank(drawn[0], atol=1e-3) == rank


def test_strided_output_is_written_and_its_gaps_are_not(device):
    directions = Directions(0, 0, 2)
    storage = torch.full((2, 10, 24), NAN, device=device)
    out = storage.transpose(1, 2)[:, ::2]
    sample(out, directions, 0, torch.float32)
    assert torch.equal(out.cpu(), _reference(directions, 0, (12, 10), torch.float32, torch.float32))
    assert storage[:, :, 1::2].isnan().all()


def test_empty_tensors_are_left_alone(device):
    out = torch.empty(2, 0, 5, device=device)
    sample(out, Directions(0, 0, 2), 0, torch.float32)
    assert out.shape == (2, 0, 5)


@pytest.mark.parametrize(
    ("distribution", "rank"),
    [("rademacher", None), ("gaussian", None), ("gaussian", 3), ("rademacher", 3), ("hadamard", None)],
)
def test_listed_rows_are_those_of_the_whole_whatever_the_tile(distribution, rank, device):
    directions = Directions(4, 9, 2, distribution, rank=rank, first=3).over([(3, 3), (70, 45)])
    whole = _sample(directions, 1, (70, 45), torch.float32, device)
    # More than one tile of them, not sorted, with a repetition.
    rows = torch.tensor([69, *range(0, 40, 3), 69, 1, 2, 68])
    for tile in (None, {"ROWS": 16, "COLS": 32}):
        out = torch.full((2, len(rows), 45), NAN, dtype=torch.float64, device=device)
        sample(out, directions, 1, torch.float32, rows.to(device), tile=tile)
        if rank is None:
            assert torch.equal(out.cpu(), whole[:, rows])
        else:  # a tile's matrix product may round by its shape
            torch.testing.assert_close(out.cpu(), whole[:, rows], rtol=0, atol=1e-6 if tile else 0)


@pytest.mark.parametrize("distribution", ["rademacher", "hadamard"])
def test_staged_words_hold_the_signs(distribution, device):
    directions = Directions(3, 1, 2, distribution, first=1).over([(5, 5)] * 6 + [(9, 45)])
    words = stage(directions, 6, 9, 45, torch.device(device)).cpu()
    assert torch.equal(words, reference.stage(directions, 6, 9, 45, torch.device("cpu")))
    assert words.shape == (2, 12, 2)
    bits = words[..., None] >> torch.arange(32) & 1
    signs = (2.0 * bits - 1).flatten(2)[:, :9, :45]
    for k in range(2):
        expected = reference.sample_matrix(directions, 1 + k, tensor_word(6), 9, 45)
        assert torch.equal(signs[k], torch.from_numpy(expected).float())


def test_only_signs_can_be_staged(device):
    with pytest.raises(
        ValueError,
        match=r"only 'rademacher' and 'hadamard' have signs to stage, got 'gaussian'; use bits='inline'",
    ):
        stage(Directions(0, 0, 1, "gaussian"), 0, 4, 4, torch.device(device))


def test_compute_dtype_must_be_one_of_two(device):
    with pytest.raises(TypeError, match=r"compute dtype must be one of .*, got torch.float16"):
        sample(torch.empty(1, 4, device=device), Directions(0, 0, 1), 0, torch.float16)
