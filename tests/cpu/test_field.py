"""The CPU engine draws the reference's values."""

import numpy as np
import pytest
import torch

import zo_triton as zo
from zo_triton import ops
from zo_triton.cpu.arrays import as_array
from zo_triton.cpu.field import TOGETHER, code_of, fill_matrix, fill_rows, key_of
from zo_triton.directions import tensor_word
from zo_triton.distributions import DISTRIBUTIONS
from zo_triton.reference import sample_matrix

SHAPES = {
    "one-element": (1,),
    "vector-past-a-word": (33,),
    "block-minus-one": (3, 31),
    "block-plus-one": (5, 33),
    "primes": (13, 67),
    "convolution": (6, 5, 3, 3),
}
SEED = 2**63 + 12345


def _sample(engine, directions, shape, dtype=torch.float32):
    with zo.use_engine(engine):
        return zo.sample(directions.over([(9, 70), (1, 32), shape]), 2, shape, dtype)


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("rounds", [7, 10])
def test_signs_are_the_same_bit_for_bit(shape, rounds):
    directions = zo.Directions(SEED, 5, 3, rounds=rounds)
    assert torch.equal(_sample("cpu", directions, shape), _sample("reference", directions, shape))


@pytest.mark.parametrize(
    ("num", "shape"),
    [
        (300, (5, 33)),
        (3, (4 * TOGETHER, 32)),
        (3, (9, 32 * TOGETHER)),
        (12, (44, 33)),
        (TOGETHER + 1, (1, 1)),
    ],
)
def test_signs_are_the_same_however_many_share_a_run_of_the_generator(num, shape):
    for distribution in ("rademacher", "hadamard"):
        directions = zo.Directions(SEED, 5, num + 2, distribution)[2:]
        assert torch.equal(_sample("cpu", directions, shape), _sample("reference", directions, shape))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("distribution", DISTRIBUTIONS)
def test_real_values_agree(distribution, shape):
    directions = zo.Directions(SEED, 5, 3, distribution)
    error = _sample("cpu", directions, shape).double() - _sample(
        "reference", directions, shape, torch.float64
    )
    assert error.abs().max() <= 1e-5


@pytest.mark.parametrize("distribution", ["gaussian", "laplace"])
def test_worst_error_over_a_million_values(distribution):
    directions = zo.Directions(SEED, 5, 1, distribution)
    drawn = np.full((1024, 1024), np.nan, np.float32)
    fill_matrix(drawn, 0, tensor_word(0), 0, key_of(directions), code_of(directions))
    error = np.abs(drawn - sample_matrix(directions, 0, 0, 1024, 1024))
    # Measured: 4.5e-7 for Gaussian and 7.9e-7 for Laplace; 5.77 is the largest Gaussian, its ulp 4.8e-7.
    assert error.max() <= 1e-6


@pytest.mark.parametrize("rank", [1, 3])
def test_low_rank_is_the_product_of_its_factors(rank):
    directions = zo.Directions(SEED, 5, 2, "gaussian", rank=rank)
    z = _sample("cpu", directions, (7, 11))
    torch.testing.assert_close(z, _sample("reference", directions, (7, 11)), rtol=0, atol=1e-5)
    assert torch.linalg.matrix_rank(z).tolist() == [rank, rank]


def test_a_run_of_rows_is_the_same_as_the_whole():
    directions = zo.Directions(SEED, 5, 1, "gaussian")
    key, code = key_of(directions), code_of(directions)
    whole, part = np.empty((16, 9), np.float32), np.empty((5, 9), np.float32)
    fill_matrix(whole, 0, 0, 0, key, code)
    fill_matrix(part, 8, 0, 0, key, code)
    assert np.array_equal(part, whole[8:13])


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian", "laplace", "hadamard"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64, np.uint16])
def test_listed_rows_are_those_of_the_whole(distribution, dtype):
    directions = zo.Directions(SEED, 5, 3, distribution)
    key, code = key_of(directions), code_of(directions)
    rows = np.array([15, 2, 3, 3, 0, 14])
    whole, listed = np.empty((16, 33), dtype), np.empty((6, 33), dtype)
    fill_matrix(whole, 0, 0, 0, key, code)
    fill_rows(listed, rows, 0, 0, key, code)
    assert np.array_equal(listed, whole[rows])


def test_bfloat16_is_the_rounded_value():
    directions = zo.Directions(SEED, 5, 2, "gaussian")
    exact = _sample("cpu", directions, (64, 65))
    assert torch.equal(_sample("cpu", directions, (64, 65), torch.bfloat16), exact.to(torch.bfloat16))


def test_bfloat16_rounding_is_torch_rounding():
    values = torch.tensor([1.0, 1.0 + 2**-8, 1.0 + 3 * 2**-8, 1.0 + 2**-8 + 2**-20, -0.0, 3.0e38, 1e-40])
    from zo_triton.cpu.activating import activation_difference

    out = torch.full((1, 7), torch.nan, dtype=torch.bfloat16)
    activation_difference(out, torch.full((7,), 1e30), values.view(1, 7).clamp_min(0), "relu")
    assert torch.equal(out[0], values.clamp_min(0).to(torch.bfloat16))


def test_sphere_has_the_radius_of_the_dimension():
    z = _sample("cpu", zo.Directions(SEED, 5, 4, "sphere"), (7, 11))
    torch.testing.assert_close(z.flatten(1).norm(dim=1), torch.full((4,), 77.0**0.5))


@pytest.mark.parametrize("distribution", ["gaussian", "hadamard"])
def test_chunks_draw_the_same_directions(distribution):
    directions = zo.Directions(SEED, 5, 8, distribution)
    parts = [_sample("cpu", directions[i : i + 3], (5, 33)) for i in range(0, 8, 3)]
    assert torch.equal(torch.cat(parts), _sample("cpu", directions, (5, 33)))


def test_gram_matches_the_samples():
    tensors, ids = [torch.empty(5, 33), torch.empty(7), torch.empty(4, 3, 2)], [0, 1, 2]
    for distribution, rank in (
        ("rademacher", None),
        ("hadamard", None),
        ("gaussian", None),
        ("laplace", None),
        ("gaussian", 2),
    ):
        directions = zo.Directions(SEED, 5, 6, distribution, rank=rank).over(t.shape for t in tensors)
        z = torch.cat(
            [zo.sample(directions, i, t.shape).flatten(1) for i, t in zip(ids, tensors, strict=True)], 1
        )
        expected = z.double() @ z.double().T
        assert (ops.gram(tensors, ids, directions) - expected).abs().max() <= 1e-4 * (not directions.signs)


def test_as_array_shares_memory():
    tensor = torch.zeros(3, dtype=torch.bfloat16)
    as_array(tensor)[1] = 0x3F80
    assert tensor.tolist() == [0.0, 1.0, 0.0]
