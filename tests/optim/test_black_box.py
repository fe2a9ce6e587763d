"""Closures that return plain numbers: same answers, weights untouched, random state in order."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from zo_triton.difference import Evaluation
from zo_triton.directions import Directions
from zo_triton.optim import ZOSGD, BlackBox, estimate_gradient, measure

DIRECTIONS = Directions(seed=3, step=1, num=4)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize(
    "field",
    [{}, {"distribution": "sphere"}, {"distribution": "gaussian", "rank": 2}],
    ids=["rademacher", "sphere", "low-rank"],
)
def test_agrees_with_difference_propagation(model, loss_of, sides, field):
    """At ε = 1e-2 two float32 losses near 1 differ by 1e-2 and more, known to a few times 1e-7."""
    directions, params = Directions(seed=3, step=1, num=4, **field), list(model.parameters())
    seen = measure(BlackBox(lambda: loss_of(model).item()), params, directions, Evaluation(1e-2, sides))
    propagated = measure(lambda: loss_of(model), params, directions, Evaluation(1e-2, sides))
    torch.testing.assert_close(seen.differences, propagated.differences, rtol=1e-4, atol=1e-6)
    assert seen.loss == pytest.approx(propagated.loss, rel=1e-6)


def test_evaluates_the_perturbed_weights():
    weight, seen = torch.tensor([1.0, -2.0, 3.0]), []
    measure(
        BlackBox(lambda: seen.append(weight.clone()) or 0.0), [weight], DIRECTIONS, Evaluation(0.5, sides=2)
    )
    assert len(seen) == 1 + 2 * 4
    base, moved = seen[0], torch.stack(seen[1:])
    torch.testing.assert_close((moved - base).abs(), torch.full((8, 3), 0.5))
    torch.testing.assert_close(moved[0::2] - base, base - moved[1::2])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_hundred_cycles_restore_every_bit(dtype, bits):
    """Adding the noise back instead drifts: bfloat16 weights by 4 % of their size in as many cycles."""
    weights = [torch.linspace(-1, 1, 14).view(2, 7).to(dtype), torch.tensor([-0.0, 1e-7, 6e4]).to(dtype)]
    before = bits(weights)
    for step in range(25):
        measure(BlackBox(lambda: float(weights[0].sum())), weights, Directions(0, step, 4), Evaluation(0.1))
    assert bits(weights) == before


@pytest.mark.parametrize("failing_call", [0, 1, 2, 4])
@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, GeneratorExit])
def test_restores_whatever_the_closure_raises(bits, failing_call, error):
    weights = [torch.linspace(-1, 1, 6).view(2, 3), torch.tensor([-0.0, math.inf])]
    before, calls = bits(weights), iter(range(100))

    def closure():
        if next(calls) == failing_call:
            with torch.enable_grad():
                raise error("stop")
        return 1.0

    with pytest.raises(error, match="stop"):
        measure(BlackBox(closure), weights, DIRECTIONS, Evaluation(0.1))
    assert bits(weights) == before
    assert torch.is_grad_enabled()


def test_restores_after_a_closure_that_writes_to_the_weights(bits):
    weight = torch.linspace(-1, 1, 6)
    before = bits([weight])

    def closure():
        if not torch.equal(weight, torch.linspace(-1, 1, 6)):
            weight.zero_()
        return 1.0

    measure(BlackBox(closure), [weight], DIRECTIONS, Evaluation(0.1))
    assert bits([weight]) == before


def test_every_evaluation_sees_the_same_random_state():
    weight, masks = torch.ones(3), []

    def closure():
        masks.append(F.dropout(torch.ones(32)))
        return float(weight.sum())

    torch.manual_seed(8)
    closure()
    once = torch.get_rng_state()
    torch.manual_seed(8)
    masks.clear()
    measure(BlackBox(closure), [weight], DIRECTIONS, Evaluation(0.1, sides=2))
    assert len(masks) == 9
    assert all(torch.equal(mask, masks[0]) for mask in masks)
    assert torch.equal(torch.get_rng_state(), once)


def test_random_state_is_put_back_after_an_error():
    calls = iter(range(100))

    def closure():
        if next(calls) == 2:
            raise RuntimeError("stop")
        torch.rand(1)
        return 1.0

    torch.manual_seed(8)
    before = torch.get_rng_state()
    with pytest.raises(RuntimeError, match="stop"):
        measure(BlackBox(closure), [torch.ones(3)], DIRECTIONS, Evaluation(0.1))
    assert torch.equal(torch.get_rng_state(), before)


def test_plain_number_falls_back_with_one_warning(bits):
    weight, named = torch.ones(3), torch.ones(3)
    opt, marked = ZOSGD([weight], lr=0.1, directions=4), ZOSGD([named], lr=0.1, directions=4)

    def plain():
        return float((weight * torch.rand(3)).sum())

    def same():
        return float((named * torch.rand(3)).sum())

    torch.manual_seed(1)
    with pytest.warns(UserWarning, match=r"plain returned a float, not a tensor.*zo\.BlackBox"):
        opt.step(plain)
    opt.step(plain)  # pytest makes an error of a second warning
    torch.manual_seed(1)
    marked.step(BlackBox(same))
    marked.step(BlackBox(same))
    assert bits([weight]) == bits([named])


def test_numbers_of_numpy_and_tensors_are_welcome():
    weight = torch.ones(3)
    for result in (np.float32(0.5), np.float64(0.5), 1, torch.tensor(0.5), torch.tensor([[0.5]])):
        measured = measure(BlackBox(lambda value=result: value), [weight], DIRECTIONS, Evaluation(0.1))
        assert measured.loss == float(result)
        assert measured.differences.tolist() == [0.0] * 4


def test_float64_losses_keep_their_digits():
    """A simulator in float64 allows an ε at which float32 losses would all be equal."""
    weight = torch.zeros(3, dtype=torch.float64)
    measured = measure(
        BlackBox(lambda: 1.0 + float(weight.sum())), [weight], DIRECTIONS, Evaluation(1e-9, sides=2)
    )
    slopes = {round(abs(slope), 4) for slope in measured.projected.tolist()}
    assert slopes <= {1.0, 3.0}


def test_low_precision_weights_that_do_not_move_are_reported():
    weight = torch.ones(8, dtype=torch.bfloat16)
    with pytest.warns(RuntimeWarning, match="8 of 8 weights did not move.*raise eps"):
        measure(BlackBox(lambda: float(weight.sum())), [weight], DIRECTIONS, Evaluation(1e-4))


def test_trains_a_simulator():
    """Accuracy-like loss, no gradient anywhere: only smoothing sees a slope."""
    weight, target = torch.zeros(6), torch.tensor([0.5, -0.5, 0.25, 1.0, -1.0, 0.75])
    opt = ZOSGD([weight], lr=0.05, directions=16, eps=0.1, distribution="gaussian")
    simulator = BlackBox(lambda: np.abs(weight.numpy() - target.numpy()).round(1).sum())
    losses = [opt.step(simulator) for _ in range(60)]
    assert losses[-1] < 0.3 * losses[0]


def test_fills_grad():
    weight = torch.tensor([1.0, -2.0])
    closure = BlackBox(lambda: float(weight.square().sum()))
    loss = estimate_gradient(closure, [weight], Directions(0, 0, 4), 1e-3, sides=2, aggregator="align")
    assert loss == 5.0
    torch.testing.assert_close(weight.grad, torch.tensor([2.0, -4.0]), rtol=1e-3, atol=1e-3)
