import numpy as np
import pytest
import torch
from torch import nn

import zo_triton as zo
from zo_triton.nzk.function_space import recursion
from zo_triton.nzk.tangent_kernel import linearize
from zo_triton.nzk.walk import KernelWalk, realised_factors, walk_step, walked_vectors

KINDS = [("update", "shared"), ("nzk", "shared"), ("nzk", "independent")]
KIND_IDS = ["-".join(kind) for kind in KINDS]
SAMPLES, INPUTS, OUTPUTS = 11, 5, 3


@pytest.fixture(autouse=True)
def small_tensors(one_thread):
    """The tensors here are small enough for one thread."""


@pytest.fixture
def problem():
    """An affine map with two tensors, its inputs and targets; all in float32."""
    generator = torch.Generator().manual_seed(3)
    model = nn.Linear(INPUTS, OUTPUTS)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator))
    x = torch.randn(SAMPLES, INPUTS, generator=generator)
    y = torch.randn(SAMPLES, OUTPUTS, generator=generator)
    return model, x, lambda: 0.5 * (model(x) - y).square().mean(), y.double().flatten().numpy()


def flat(model: nn.Module) -> np.ndarray:
    return torch.cat([param.detach().double().flatten() for param in model.parameters()]).numpy()


def named(kernel: str, coupling: str, num: int, **options) -> zo.Directions:
    twice = kernel == "nzk" and coupling == "independent"
    return zo.Directions(5, 2, 2 * num if twice else num, **options)


DRAWS = {
    "signs": {"distribution": "rademacher"},
    "gaussian, 7 rounds": {"distribution": "gaussian", "rounds": 7},
    "sphere over two tensors": {"distribution": "sphere"},
    "rank 2": {"distribution": "gaussian", "rank": 2},
}


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
@pytest.mark.parametrize("options", DRAWS.values(), ids=DRAWS)
def test_a_step_is_the_formula(problem, kernel, coupling, options):
    """Against plain NumPy: slopes by the gradient, then the double sum over directions."""
    model, x, closure, y = problem
    num, lr = 3, 0.01
    directions = named(kernel, coupling, num, **options)
    z = walked_vectors(directions, [tuple(param.shape) for param in model.parameters()])
    if options["distribution"] == "sphere":
        np.testing.assert_allclose((z**2).sum(1), z.shape[1], rtol=1e-12)
    z, zeta = z[:num], z[-num:]
    line = linearize(model, x)
    slopes = z @ line.features.T @ (line.outputs - y) / len(y)
    weights = {
        "update": slopes / num,
        "nzk": np.array([sum((w @ v) * c for v, c in zip(z, slopes, strict=True)) for w in zeta]) / num**2,
    }[kernel]
    before = flat(model)
    done = walk_step(closure, model.parameters(), directions, lr, 1e-2, kernel, coupling)
    np.testing.assert_allclose(done.slopes, slopes, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(done.coefficients, -lr * weights, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(flat(model) - before, -lr * weights @ zeta, rtol=1e-4, atol=1e-6)
    assert done.loss == pytest.approx(np.mean((line.outputs - y) ** 2) / 2, rel=1e-6)


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
def test_a_walk_is_the_recursion_with_its_own_factors(problem, kernel, coupling, monkeypatch):
    model, x, closure, y = problem
    line, start = linearize(model, x), flat(model)
    walk = KernelWalk(model.parameters(), 0.02, 2, kernel=kernel, coupling=coupling, seed=9)
    wanted = recursion(line.outputs, y, walk.factors(line.features, 12), 0.02)
    monkeypatch.setattr("zo_triton.nzk.walk.CHUNK_VALUES", 5 * 4 * len(start))
    in_chunks = recursion(line.outputs, y, walk.factors(line.features, 12), 0.02)
    np.testing.assert_array_equal(in_chunks, wanted)
    first = walk.step(closure)
    assert first == pytest.approx(np.mean((line.outputs - y) ** 2) / 2, rel=1e-6)
    later = recursion(wanted[1], y, walk.factors(line.features, 11), 0.02)
    np.testing.assert_allclose(later, wanted[1:], rtol=1e-12)
    for _ in range(11):
        walk.step(closure)
    found = line.outputs + line.features @ (flat(model) - start)
    assert np.linalg.norm(found - wanted[-1]) < 1e-6 * np.linalg.norm(wanted[-1])


def test_one_sided_slopes_have_the_known_bias(problem):
    """L(θ+εz) - L(θ) = ε·z·∇L + (ε²/2)·|Xz|²/n on a squared loss."""
    model, x, closure, y = problem
    eps, directions = 0.1, named("update", "shared", 4)
    line = linearize(model, x)
    z = walked_vectors(directions, [tuple(param.shape) for param in model.parameters()])
    moved = z @ line.features.T
    wanted = moved @ (line.outputs - y) / len(y) + eps / 2 * (moved**2).mean(1)
    done = walk_step(closure, model.parameters(), directions, 0.01, eps, sides=1)
    np.testing.assert_allclose(done.slopes, wanted, rtol=1e-5)


def test_float64_weights_are_moved_in_float64(problem):
    model, _, closure, _ = problem
    model.double()
    before = flat(model)
    done = walk_step(
        closure_in_double(closure, model), model.parameters(), named("update", "shared", 1), 1e-9
    )
    moved = np.abs(flat(model) - before)
    np.testing.assert_allclose(moved, abs(float(done.coefficients[0])), rtol=1e-5)


def closure_in_double(closure, model):
    x, y = torch.ones(2, INPUTS, dtype=torch.float64), torch.zeros(2, OUTPUTS, dtype=torch.float64)
    return lambda: 0.5 * (model(x) - y).square().mean()


def test_bfloat16_directions_are_rounded_ones():
    directions = zo.Directions(0, 0, 2, "gaussian")
    z = torch.tensor(walked_vectors(directions, [(3, 4)], torch.bfloat16))
    assert torch.equal(z, z.bfloat16().double())
    assert not torch.equal(z, torch.tensor(walked_vectors(directions, [(3, 4)])))


def test_bad_input_is_refused_and_moves_nothing(problem):
    model, x, closure, _ = problem
    params, directions = list(model.parameters()), named("update", "shared", 3)
    before = flat(model)
    cases = [
        (ValueError, "even number of directions, K of z and K of ζ, got 3",
         lambda: walk_step(closure, params, directions, 0.1, kernel="nzk", coupling="independent")),
        (ValueError, "lr must be positive and finite, got 0",
         lambda: walk_step(closure, params, directions, 0)),
        (ValueError, "unknown kernel 'ntk'",
         lambda: walk_step(closure, params, directions, 0.1, kernel="ntk")),
        (ValueError, r"must return a scalar loss, got shape \(11, 3\)",
         lambda: walk_step(lambda: model(x), params, directions, 0.1)),
        (zo.NonFiniteLossError, "3 of 3 slopes are not finite",
         lambda: walk_step(lambda: model(x).mean() * torch.inf, params, directions, 0.1)),
        (TypeError, "parameter 0 has dtype torch.bfloat16",
         lambda: walk_step(closure, [params[0].bfloat16()], directions, 0.1)),
        (TypeError, "directions must be a zo.Directions, got 3",
         lambda: walk_step(closure, params, 3, 0.1)),
        (ValueError, "num_directions must be at least 1, got 0", lambda: KernelWalk(params, 0.1, 0)),
        (ValueError, "lr must be positive", lambda: KernelWalk(params, -0.1)),
        (ValueError, "hold 18 elements, but there are 4 columns",
         lambda: next(realised_factors(np.ones((2, 4)), directions, 1, shapes=[(3, 5), (3,)]))),
        (ValueError, "steps must be at least 1",
         lambda: next(realised_factors(np.ones((2, 4)), directions, 0))),
    ]  # fmt: skip
    for error, match, call in cases:
        with pytest.raises(error, match=match):
            call()
    np.testing.assert_array_equal(flat(model), before)
