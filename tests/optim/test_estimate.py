"""The estimated gradient against autograd's."""

import copy

import pytest
import torch

from zo_triton.difference import Evaluation
from zo_triton.directions import Directions
from zo_triton.ops import sample
from zo_triton.optim import ZOSGD, estimate_gradient, measure


def flat(tensors) -> torch.Tensor:
    return torch.cat([tensor.detach().flatten() for tensor in tensors]).double()


def autograd(model, loss_of) -> torch.Tensor:
    return flat(torch.autograd.grad(loss_of(model), list(model.parameters())))


CASES = [
    pytest.param({"distribution": "rademacher"}, 1e-4, 1, id="default"),
    pytest.param({"distribution": "rademacher"}, 1e-2, 2, id="wide-central"),
    pytest.param({"distribution": "gaussian"}, 1e-4, 2, id="gaussian"),
    pytest.param({"distribution": "uniform"}, 1e-4, 2, id="uniform"),
    pytest.param({"distribution": "laplace"}, 1e-4, 2, id="laplace"),
    pytest.param({"distribution": "sphere"}, 1e-4, 2, id="sphere-scaled"),
    pytest.param({"distribution": "gaussian", "rank": 2}, 1e-4, 2, id="low-rank"),
    pytest.param({"distribution": "rademacher", "rank": 3}, 1e-4, 2, id="full-rank-factors"),
]


@pytest.mark.parametrize(("field", "eps", "sides"), CASES)
def test_mean_over_many_directions_is_the_gradient(model, loss_of, field, eps, sides):
    """All 66 coordinates within 4.5 standard errors, which a right estimator misses once in 2000 runs."""
    count = 1024
    directions, params = Directions(seed=11, step=2, num=count, **field), list(model.parameters())
    estimate_gradient(lambda: loss_of(model), params, directions, eps, sides)
    estimate, expected = flat(param.grad for param in params), autograd(model, loss_of)

    measured = measure(lambda: loss_of(model), params, directions, Evaluation(eps, sides))
    z = torch.cat([sample(directions, i, p.shape).flatten(1) for i, p in enumerate(params)], dim=1).double()
    if field["distribution"] == "sphere":  # sample scales tensor by tensor; the estimate scales the whole
        z = z * (z.shape[1] / z.square().sum(1, keepdim=True)).sqrt()
    terms = measured.projected.double()[:, None] * z
    scores = (estimate - expected) / (terms.std(0) / count**0.5)
    assert scores.abs().max() < 4.5
    # Σ score² has mean 66 and a variance of about 2·66: a factor shared by all shows here first.
    assert scores.square().sum() < 66 + 5 * (2 * 66) ** 0.5


@pytest.mark.parametrize("eps", [1e-2, 1e-4])
def test_slopes_do_not_depend_on_eps(model, loss_of, eps):
    """Each projected gradient is the directional derivative: divided by ε, not multiplied, at any ε.

    Central differences leave ε²|z|³/6 times the third derivative along z, at most 1 or so here; |z| = √66.
    """
    directions, params = Directions(seed=3, step=0, num=5), list(model.parameters())
    measured = measure(lambda: loss_of(model), params, directions, Evaluation(eps, sides=2))
    z = torch.cat([sample(directions, i, p.shape).flatten(1) for i, p in enumerate(params)], dim=1).double()
    torch.testing.assert_close(
        measured.projected.double(),
        z @ autograd(model, loss_of),
        rtol=1e-4,
        atol=eps**2 * 66**1.5 / 6 + 1e-5,
    )
    quotient = (measured.differences[:, 0] - measured.differences[:, 1]) / (2 * eps)
    torch.testing.assert_close(measured.projected, quotient)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian", "sphere"])
def test_align_with_as_many_directions_as_weights_is_the_gradient(model, loss_of, distribution):
    directions, params = (
        Directions(seed=4, step=0, num=90, distribution=distribution),
        list(model.parameters()),
    )
    estimate_gradient(lambda: loss_of(model), params, directions, 1e-4, sides=2, aggregator="align")
    estimate, expected = flat(param.grad for param in params), autograd(model, loss_of)
    assert (estimate - expected).norm() < 1e-3 * expected.norm()


def test_align_with_few_directions_is_the_projection(model, loss_of):
    directions, params = Directions(seed=4, step=0, num=20), list(model.parameters())
    estimate_gradient(lambda: loss_of(model), params, directions, 1e-4, sides=2, aggregator="align")
    z = torch.cat([sample(directions, i, p.shape).flatten(1) for i, p in enumerate(params)], dim=1).double()
    expected = torch.linalg.pinv(z) @ (z @ autograd(model, loss_of))
    estimate = flat(param.grad for param in params)
    assert (estimate - expected).norm() < 1e-3 * expected.norm()


def test_grad_is_set_not_added_and_its_memory_reused(model, loss_of):
    directions, params = Directions(seed=1, step=0, num=3), list(model.parameters())
    estimate_gradient(lambda: loss_of(model), params, directions, 1e-4)
    first, pointers = flat(p.grad for p in params), [p.grad.data_ptr() for p in params]
    estimate_gradient(lambda: loss_of(model), params, directions, 1e-4)
    assert torch.equal(flat(p.grad for p in params), first)
    assert [p.grad.data_ptr() for p in params] == pointers


def test_returns_the_loss_and_feeds_adam(model, loss_of):
    adam, params = torch.optim.Adam(model.parameters(), lr=0.05), list(model.parameters())
    losses = []
    for step in range(30):
        directions = Directions(seed=0, step=step, num=16)
        losses.append(estimate_gradient(lambda: loss_of(model), params, directions, 1e-4))
        adam.step()
    with torch.no_grad():
        assert loss_of(model) < 0.7 * losses[0]
    assert isinstance(losses[0], float)


def test_frozen_and_low_precision_parameters_get_a_gradient_of_their_dtype():
    frozen = torch.tensor([1.0, 2.0, 3.0])
    half = torch.nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.bfloat16))
    params, directions = [frozen, half], Directions(seed=0, step=0, num=16)
    with pytest.warns(UserWarning, match="1 of the 2 tensors to be trained have requires_grad=False"):
        estimate_gradient(
            lambda: 2 * frozen.sum() + half.float().sum(), params, directions, 1e-3, aggregator="align"
        )
    torch.testing.assert_close(frozen.grad, torch.full((3,), 2.0), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(half.grad, torch.ones(2, dtype=torch.bfloat16), rtol=1e-2, atol=1e-2)


def test_transposed_parameter(bits):
    """A weight whose memory is not in row order: the gradient must land on the right elements."""
    target = torch.arange(35.0).view(5, 7) / 35
    ordered, turned = torch.zeros(5, 7), torch.zeros(7, 5).t()
    directions = Directions(seed=9, step=0, num=3)
    for weight in (ordered, turned):
        estimate_gradient(lambda w=weight: ((w - target) ** 2).sum(), [weight], directions, 1e-3)
    torch.testing.assert_close(ordered.grad, turned.grad)


def test_a_failing_closure_leaves_grad_alone(model):
    params = list(model.parameters())
    for param in params:
        param.grad = torch.ones_like(param)

    def closure():
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        estimate_gradient(closure, params, Directions(0, 0, 2), 1e-4)
    assert all(bool((param.grad == 1).all()) for param in params)


def test_defaults_are_zosgds(model, loss_of):
    """K = 64 rademacher directions of seed 0, ε = 1e-4, and a step of its own for each call."""
    twin = copy.deepcopy(model)
    opt = ZOSGD(twin.parameters(), lr=0.1)
    for _ in range(3):
        before = [param.detach().clone() for param in twin.parameters()]
        loss = estimate_gradient(lambda: loss_of(model), model.parameters())
        assert loss == opt.step(lambda: loss_of(twin))
        for param, old, new in zip(model.parameters(), before, twin.parameters(), strict=True):
            torch.testing.assert_close(old - 0.1 * param.grad, new, rtol=1e-6, atol=1e-7)
            with torch.no_grad():
                param.copy_(new)


def gradients(params):
    return [param.grad.clone() for param in params]


def test_the_count_is_of_the_first_tensor_and_of_calls_that_succeed(model, loss_of, bits):
    params, other = list(model.parameters()), torch.ones(2)

    def fail():
        raise KeyError("no data")

    estimate_gradient(lambda: loss_of(model), params, 4)
    with pytest.raises(KeyError):
        estimate_gradient(fail, params, 4)
    estimate_gradient(lambda: other.sum(), [other], 4)
    estimate_gradient(lambda: loss_of(model), params, 4, step=9)
    estimate_gradient(lambda: loss_of(model), params, Directions(0, 9, 4))
    estimate_gradient(lambda: loss_of(model), params, 4)
    counted = gradients(params)
    estimate_gradient(lambda: loss_of(model), params, 4, step=1)
    assert bits(counted) == bits(gradients(params))


def test_seed_and_step_name_the_directions(model, loss_of, bits):
    params = list(model.parameters())
    estimate_gradient(lambda: loss_of(model), params, 4, seed=7, step=3)
    named = gradients(params)
    estimate_gradient(lambda: loss_of(model), params, Directions(7, 3, 4))
    assert bits(named) == bits(gradients(params))


@pytest.mark.parametrize("more", [{"seed": 1}, {"step": 0}])
def test_directions_are_named_in_one_place(more):
    weight = torch.ones(2)
    with pytest.raises(ValueError, match=r"names its seed and step, got seed=.*say them in one place"):
        estimate_gradient(lambda: weight.sum(), [weight], Directions(0, 0, 4), **more)
