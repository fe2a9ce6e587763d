"""Every closed form against a Monte Carlo of its own, drawn by NumPy and multiplied out naively."""

import numpy as np
import pytest
import torch
from scipy import stats

from zo_triton.nzk import Moments, expected, factor, moments

DRAWS, SPAN = 400_000, 4.5
"""z-scores of some 250 entries in all: a sound formula stays below 4.5 but once in 500 such files."""

SAMPLES = np.array([-2.0, 0.0, 0.5, 1.0])


def rademacher(rng, size):
    return 2.0 * rng.integers(0, 2, size) - 1.0


def gaussian(rng, size):
    return rng.standard_normal(size)


def uniform(rng, size):
    return rng.uniform(-(3**0.5), 3**0.5, size)


def laplace(rng, size):
    return rng.laplace(scale=0.5**0.5, size=size)


def student(rng, size):
    return rng.standard_t(12, size)


def shifted(rng, size):
    return 0.4 + 1.2 * rng.standard_normal(size)


def exponential(rng, size):
    return rng.exponential(size=size)


def own(rng, size):
    return rng.choice(SAMPLES, size)


def sphere(rng, size):
    z = rng.standard_normal(size)
    return z * size[-1] ** 0.5 / np.linalg.norm(z, axis=-1, keepdims=True)


def tensors(elements, shapes, rank):
    """Directions through several tensors, matrices among them as A·Bᵀ/√rank."""

    def vectors(rng, size):
        parts = []
        for shape in shapes:
            if len(shape) < 2:
                parts.append(elements(rng, (*size[:-1], *shape)))
                continue
            left = elements(rng, (*size[:-1], shape[0], rank))
            right = elements(rng, (*size[:-1], int(np.prod(shape[1:])), rank))
            matrix = np.einsum("...ir,...jr->...ij", left, right) / rank**0.5
            parts.append(matrix.reshape(*size[:-1], -1))
        return np.concatenate(parts, axis=-1)

    return vectors


def monte_carlo(features, z, zeta, kernel):
    """Mean of K̂ and its standard error; z and zeta [draws, K, d]."""
    slopes_z, slopes_zeta = z @ features.T, zeta @ features.T
    if kernel == "update":
        kernels = np.einsum("bki,bkj->bij", slopes_z, slopes_z) / z.shape[1]
    else:
        gram = np.einsum("bkd,bld->bkl", zeta, z)
        kernels = np.einsum("bki,bkl,blj->bij", slopes_zeta, gram, slopes_z, optimize=True) / z.shape[1] ** 2
    return kernels.mean(0), kernels.std(0, ddof=1) / len(kernels) ** 0.5


MIXED = [(3, 2), (2,), (2, 2, 2)]
CASES = {
    # own draws, distribution, d, keywords of expected
    "Corollary 2: gaussian": (gaussian, "gaussian", 5, {}),
    "rademacher": (rademacher, "rademacher", 5, {}),
    "uniform": (uniform, "uniform", 5, {}),
    "laplace": (laplace, "laplace", 5, {}),
    "student t": (student, stats.t(12), 5, {}),
    "one coordinate": (gaussian, "gaussian", 1, {}),
    "averaged gaussian": (gaussian, "gaussian", 5, {"num_directions": 4}),
    "averaged laplace": (laplace, stats.laplace(scale=0.5**0.5), 3, {"num_directions": 2}),
    "nonzero mean": (shifted, stats.norm(0.4, 1.2), 5, {}),
    "nonzero mean, averaged": (shifted, stats.norm(0.4, 1.2), 5, {"num_directions": 3}),
    "skewed": (exponential, stats.expon(), 4, {}),
    "skewed, one coordinate": (exponential, stats.expon(), 1, {}),
    "skewed, averaged": (exponential, stats.expon(), 4, {"num_directions": 2}),
    "skewed about zero": (lambda rng, size: rng.exponential(size=size) - 1, stats.expon(-1), 4, {}),
    "own samples": (own, SAMPLES, 5, {}),
    "Theorem 1: independent": (gaussian, "gaussian", 5, {"coupling": "independent"}),
    "independent, averaged": (shifted, stats.norm(0.4, 1.2), 5, {"coupling": "independent", "num_directions": 3}),
    "independent, skewed": (exponential, stats.expon(), 4, {"coupling": "independent"}),
    "update": (laplace, "laplace", 5, {"kernel": "update", "num_directions": 3}),
    "update, scaled student": (student, stats.t(12), 5, {"kernel": "update"}),
    "update, nonzero mean": (shifted, stats.norm(0.4, 1.2), 5, {"kernel": "update", "num_directions": 2}),
    "sphere": (sphere, "sphere", 5, {}),
    "sphere, averaged": (sphere, "sphere", 5, {"num_directions": 3}),
    "sphere, update": (sphere, "sphere", 5, {"kernel": "update"}),
    "low rank": (tensors(gaussian, [(4, 3)], 2), "gaussian", 12, {"rank": 2, "shapes": [(4, 3)]}),
    "rank one, signs": (tensors(rademacher, [(4, 3)], 1), "rademacher", 12, {"rank": 1, "shapes": [(4, 3)]}),
    "low rank, laplace, averaged": (
        tensors(laplace, [(3, 4)], 3), "laplace", 12, {"rank": 3, "shapes": [(3, 4)], "num_directions": 2},
    ),
    "low rank, several tensors": (tensors(gaussian, MIXED, 2), "gaussian", 16, {"rank": 2, "shapes": MIXED}),
    "low rank, several tensors, averaged": (
        tensors(uniform, MIXED, 2), "uniform", 16, {"rank": 2, "shapes": MIXED, "num_directions": 3},
    ),
    # Factors of variance v give entries of variance v², vectors keep v: no tensor has another's factor.
    "low rank, not of variance one": (
        tensors(lambda rng, size: 1.3 * gaussian(rng, size), MIXED, 2), stats.norm(0, 1.3), 16,
        {"rank": 2, "shapes": MIXED},
    ),
    "low rank, not of variance one, independent": (
        tensors(lambda rng, size: 1.3 * gaussian(rng, size), MIXED, 2), stats.norm(0, 1.3), 16,
        {"rank": 2, "shapes": MIXED, "coupling": "independent"},
    ),
    "low rank, sphere": (
        lambda rng, size: (lambda z: z * 12**0.5 / np.linalg.norm(z, axis=-1, keepdims=True))(
            tensors(gaussian, [(4, 3)], 1)(rng, size)
        ),
        "sphere", 12, {"rank": 1, "shapes": [(4, 3)], "num_directions": 2},
    ),
}  # fmt: skip


@pytest.mark.parametrize("case", CASES)
def test_monte_carlo(case):
    vectors, distribution, size, keywords = CASES[case]
    rng = np.random.default_rng([2026, *case.encode()])
    features = rng.standard_normal((3, size))
    shape = (DRAWS, keywords.get("num_directions", 1), size)
    z = vectors(rng, shape)
    zeta = vectors(rng, shape) if keywords.get("coupling") == "independent" else z
    mean, error = monte_carlo(features, z, zeta, keywords.get("kernel", "nzk"))
    found = expected(features, distribution, **keywords)
    assert np.abs((mean - found) / error).max() < SPAN
    # The draws are many enough to tell: a formula that is 10 % off would fail.
    assert np.abs((mean - 1.1 * found) / error).max() > SPAN


@pytest.mark.parametrize(
    ("arguments", "value"),
    [
        ((50,), 52.0),
        ((50, "rademacher"), 50.0),
        ((50, "uniform"), 50.8),
        ((50, "laplace"), 55.0),
        ((50, "sphere"), 50.0),
        ((50, "gaussian", "shared", 4), (50 + 4 - 2 + 3) / 4),
        ((50, "laplace", "independent", 4), 1.0),
        ((50, stats.norm(scale=1.5), "independent"), 1.5**4),
        ((50, stats.norm(scale=1.5), "shared"), 1.5**4 * 52),
        ((50, stats.norm(scale=1.5), "shared", 1, "update"), 1.5**2),
        ((50, Moments(0.0, 2.0, 1.0, 20.0)), 4 * (49 + 5)),
        ((50, stats.t(10)), (10 / 8) ** 2 * (49 + 4)),
        ((12, "gaussian", "shared", 1, "nzk", 2, (4, 3)), 12 + 2 + (8 + 6 + 2) / 2),
        ((12, "gaussian", "shared", 1, "nzk", 3, (3, 2, 2)), 12 + 2 + (6 + 8 + 2) / 3),
        ((12, "gaussian", "shared", 1, "nzk", None, (4, 3)), 14.0),
    ],
)
def test_factors_written_out(arguments, value):
    assert factor(*arguments) == pytest.approx(value, rel=1e-9)


def test_the_factor_is_that_of_the_kernel():
    features = np.random.default_rng(0).standard_normal((4, 12))
    for keywords in (
        {"distribution": "laplace", "num_directions": 3},
        {"distribution": stats.t(6), "coupling": "independent"},
        {"distribution": "sphere", "num_directions": 5},
    ):
        np.testing.assert_allclose(
            expected(features, **keywords), factor(12, **keywords) * features @ features.T
        )


def test_full_rank_tensors_are_one_vector():
    features = np.random.default_rng(0).standard_normal((4, 16))
    for distribution in ("laplace", stats.expon(), "sphere"):
        np.testing.assert_allclose(
            expected(features, distribution, shapes=MIXED), expected(features, distribution), rtol=1e-12
        )


def test_a_vector_is_never_factored():
    features = np.random.default_rng(0).standard_normal((4, 16))
    parts = [(7,), (9,)]
    np.testing.assert_array_equal(expected(features, rank=3, shapes=parts), expected(features))


def test_torch_features_of_any_dtype_and_layout():
    features = torch.randn(7, 3, generator=torch.Generator().manual_seed(0)).T
    np.testing.assert_array_equal(expected(features), expected(features.numpy()))
    half = features.to(torch.bfloat16).requires_grad_()
    np.testing.assert_array_equal(expected(half), expected(half.detach().double().numpy()))


def test_the_result_is_exactly_symmetric():
    found = expected(np.random.default_rng(0).standard_normal((67, 131)), stats.expon())
    np.testing.assert_array_equal(found, found.T)


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"features": [1.0, 2.0]}, ValueError, r"features must have 2 dimension.*\(2,\)"),
        ({"features": [[1.0, np.nan]]}, ValueError, "features has 1 value.* NaN or infinite"),
        ({"features": [[np.inf, np.nan]]}, ValueError, "features has 2 value"),
        ({"features": np.zeros((0, 3))}, ValueError, r"features is empty, with shape \(0, 3\)"),
        ({"features": [[1j, 2.0]]}, TypeError, "features must hold real numbers, got dtype complex128"),
        ({"features": torch.zeros(1, 2, dtype=torch.complex64)}, TypeError, "must hold real numbers"),
        ({"features": [[1.0], [1.0, 2.0]]}, ValueError, "features must be rectangular"),
        ({"distribution": "normal"}, ValueError, "unknown distribution 'normal'.*'laplace'"),
        ({"distribution": stats.t(4)}, ValueError, "more than 4 degrees of freedom"),
        ({"coupling": "both"}, ValueError, r"unknown coupling 'both'; choose one of \('shared', 'independ"),
        ({"kernel": "ntk"}, ValueError, r"unknown kernel 'ntk'; choose one of \('nzk', 'update'\)"),
        ({"kernel": None}, ValueError, "unknown kernel None"),
        ({"num_directions": 0}, ValueError, "num_directions must be at least 1, got 0"),
        ({"num_directions": 1.0}, TypeError, "num_directions must be an int, got 1.0"),
        ({"num_directions": True}, TypeError, "num_directions must be an int, got True"),
        ({"rank": 1}, ValueError, "rank 1 needs shapes, the tensors that the 6 columns belong to"),
        ({"rank": 3, "shapes": [(2, 3)]}, ValueError, r"rank 3 exceeds min\(rows, cols\) = 2 of tensor 0"),
        ({"rank": 0, "shapes": [(2, 3)]}, ValueError, "rank must be at least 1, got 0"),
        ({"shapes": [(2, 2), (3,)]}, ValueError, "hold 7 elements, but there are 6 columns"),
        (
            {"rank": 1, "shapes": [(2, 3)], "distribution": stats.norm(1)},
            ValueError,
            "low rank needs directions of mean zero, got mean 1.0",
        ),
        (
            {"rank": 1, "shapes": [(2, 2), (2,)], "distribution": "sphere"},
            ValueError,
            "no closed form for 'sphere' with rank 1 through 2 tensors",
        ),
    ],
)
def test_bad_input(changes, error, message):
    with pytest.raises(error, match=message):
        expected(**{"features": np.ones((2, 6)), **changes})


def test_a_nonzero_mean_has_no_factor():
    with pytest.raises(ValueError, match=r"with mean 1\.0 the expected kernel is no multiple of the NTK"):
        factor(5, stats.expon())
    with pytest.raises(ValueError, match="hold 4 elements, but there are 5 columns"):
        factor(5, shape=(2, 2))


def test_moments_are_enough():
    features = np.random.default_rng(0).standard_normal((3, 5))
    np.testing.assert_array_equal(expected(features, moments(SAMPLES)), expected(features, SAMPLES))
