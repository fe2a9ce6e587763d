"""Vectors by index: the field's own, scipy's and bootstrapped ones, however they are cut."""

from itertools import pairwise

import numpy as np
import pytest
import torch
from scipy import stats

import zo_triton as zo
from zo_triton.distributions import DISTRIBUTIONS, INDEPENDENT
from zo_triton.nzk import Moments, draw

SAMPLES = np.array([-1.0, 0.0, 0.5, 3.0])
SHAPES = [(4, 3), (5,), (2, 3, 2)]


@pytest.mark.parametrize("name", [name for name in INDEPENDENT if not DISTRIBUTIONS[name].orthogonal])
@pytest.mark.parametrize("rank", [None, 2])
def test_the_field_gives_what_the_kernels_walk(name, rank):
    directions = zo.Directions(3, 0, 6, name, rank=rank)[2:]
    parts = [zo.sample(directions, i, shape).flatten(1) for i, shape in enumerate(SHAPES)]
    found = draw(name, 4, 29, seed=3, first=2, shapes=SHAPES, rank=rank)
    np.testing.assert_array_equal(found, torch.cat(parts, 1).double().numpy())


def test_one_vector_is_a_matrix_of_one_row():
    wanted = zo.sample(zo.Directions(0, 0, 2, "laplace"), 0, (1, 37))
    np.testing.assert_array_equal(draw("laplace", 2, 37, seed=0), wanted[:, 0].double().numpy())


def test_the_sphere_goes_through_all_tensors():
    found = draw("sphere", 3, 29, seed=1, shapes=SHAPES)
    np.testing.assert_allclose(np.square(found).sum(1), 29.0, rtol=1e-12)
    one = draw("sphere", 3, 29, seed=1)
    np.testing.assert_allclose(one, zo.sample(zo.Directions(1, 0, 3, "sphere"), 0, (29,)), rtol=1e-5)


# 63, 64, 65: about the edge of a block of the generator; 300 000: a block of one vector.
@pytest.mark.parametrize("source", [stats.t(10), SAMPLES, "gaussian"], ids=["scipy", "samples", "field"])
@pytest.mark.parametrize(
    ("num", "size", "cuts", "rank"),
    [(131, 3, (63, 65, 130), None), (70, 29, (64,), 2), (3, 300_000, (1,), None)],
)
def test_chunks_change_no_value(source, num, size, cuts, rank):
    shapes = SHAPES if rank else None
    whole = draw(source, num, size, 5, shapes=shapes, rank=rank)
    edges = [0, *cuts, num]
    parts = [
        draw(source, stop - start, size, 5, first=start, shapes=shapes, rank=rank)
        for start, stop in pairwise(edges)
    ]
    # The field's low-rank product is one batched GEMM, whose rounding may depend on the batch.
    np.testing.assert_allclose(np.concatenate(parts), whole, rtol=0, atol=1e-6 if rank else 0)
    assert len(np.unique(whole[:, :3], axis=0)) > len(whole) / 4


def test_scipy_draws_have_the_distribution():
    values = draw(stats.laplace(0.5, 2.0), 5000, 40, seed=0).ravel()
    assert stats.kstest(values, stats.laplace(0.5, 2.0).cdf).pvalue > 1e-4


def test_bootstrap_draws_each_sample_equally_often():
    values, counts = np.unique(draw(SAMPLES, 1000, 40, seed=0), return_counts=True)
    np.testing.assert_array_equal(values, SAMPLES)
    assert stats.chisquare(counts).pvalue > 1e-4


def test_factors_have_the_rank():
    found = draw(stats.norm(), 2, 12, seed=0, shapes=[(4, 3)], rank=1).reshape(2, 4, 3)
    assert [np.linalg.matrix_rank(matrix) for matrix in found] == [1, 1]
    assert not np.allclose(found[0], found[1])


def test_seeds_and_vectors_differ():
    # 2**32 + 1 next to 1: halves of a seed must not be taken for block numbers.
    drawn = [draw(stats.norm(), 130, 4, seed) for seed in (0, 1, 2**32, 2**32 + 1, 2**64 - 1)]
    assert len(np.unique(np.concatenate(drawn), axis=0)) == 5 * 130


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"distribution": "normal"}, ValueError, "unknown distribution 'normal'; choose one of"),
        ({"distribution": Moments(0, 1, 0, 3)}, ValueError, "nothing can be drawn from moments alone"),
        ({"distribution": 3}, ValueError, "must have 1 dimension"),
        ({"num": 0}, ValueError, "num must be at least 1, got 0"),
        ({"num": 2.0}, TypeError, "num must be an int, got 2.0"),
        ({"first": -1}, ValueError, "first must be at least 0, got -1"),
        ({"seed": -1}, ValueError, r"seed must be in \[0, 2\*\*64\), got -1"),
        ({"distribution": stats.norm(), "seed": 2**64}, ValueError, r"seed must be in \[0, 2\*\*64\)"),
        ({"rank": 1}, ValueError, "rank 1 needs shapes"),
        ({"shapes": [(2, 3)]}, ValueError, "hold 6 elements, but there are 12 columns"),
        ({"shapes": [(4, 3)], "rank": 4}, ValueError, r"rank 4 exceeds min\(rows, cols\) = 3 of tensor 0"),
        ({"shapes": [(4, 3)], "rank": 0}, ValueError, "rank must be at least 1"),
        ({"shapes": [(4.0, 3)]}, TypeError, "a size in shapes must be an int"),
    ],
)
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        draw(**{"distribution": "gaussian", "num": 2, "size": 12, "seed": 0, **changes})
