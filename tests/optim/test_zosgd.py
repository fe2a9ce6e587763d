"""The update rule, held against torch.optim.SGD, and the noise it walks along."""

import copy

import pytest
import torch

from zo_triton.directions import Directions
from zo_triton.ops import sample
from zo_triton.optim import ZOSGD, BlackBox, estimate_gradient

RULES = [
    pytest.param({}, id="plain"),
    pytest.param({"weight_decay": 0.3}, id="weight-decay"),
    pytest.param({"momentum": 0.9}, id="momentum"),
    pytest.param({"momentum": 0.5, "weight_decay": 0.3}, id="both"),
]


def groups_of(model):
    """Two groups with different learning rates, the biases first: ids must run over the groups in order."""
    params = list(model.parameters())
    return [{"params": params[1::2], "lr": 0.3}, {"params": params[0::2]}]


@pytest.mark.parametrize("rule", RULES)
def test_equals_torch_sgd_fed_with_the_estimate(model, loss_of, rule):
    twin = copy.deepcopy(model)
    ours = ZOSGD(groups_of(model), lr=0.1, directions=4, seed=7, eps=1e-3, **rule)
    theirs = torch.optim.SGD(groups_of(twin), lr=0.1, **rule)
    schedulers = [torch.optim.lr_scheduler.StepLR(opt, step_size=2, gamma=0.1) for opt in (ours, theirs)]
    params = [param for group in theirs.param_groups for param in group["params"]]
    for step in range(5):
        loss = ours.step(lambda: loss_of(model))
        expected = estimate_gradient(lambda: loss_of(twin), params, Directions(7, step, 4), 1e-3)
        theirs.step()
        for scheduler in schedulers:
            scheduler.step()
        assert loss == pytest.approx(expected, rel=1e-4)
    assert ours.param_groups[0]["lr"] == pytest.approx(0.3 * 0.1**2)
    for mine, other in zip(model.parameters(), twin.parameters(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param({"aggregator": "align"}, id="align"),
        pytest.param({"aggregator": "normalized", "sides": 2}, id="normalized-central"),
        pytest.param({"distribution": "sphere"}, id="sphere"),
        pytest.param({"distribution": "gaussian", "rank": 2}, id="low-rank"),
        pytest.param({"distribution": "uniform", "rounds": 7}, id="seven-rounds"),
        pytest.param({"distribution": "gaussian", "compute_dtype": torch.bfloat16}, id="bfloat16"),
        pytest.param(
            {"distribution": "gaussian", "compute_dtype": torch.bfloat16, "momentum": 0.9},
            id="bfloat16-momentum",
        ),
    ],
)
def test_the_direction_walked_is_the_direction_measured(settings):
    """On a linear loss the move is -lr·Σ a_k·z_k of the very z that an independent sample gives."""
    weight, gradient = torch.zeros(5, 7), torch.linspace(-1, 1, 35).view(5, 7)
    opt = ZOSGD([weight], lr=0.5, directions=3, seed=2, eps=1e-2, **settings)
    directions = opt.next_directions()
    opt.step(lambda: (weight * gradient).sum())
    z = sample(directions, 0, weight.shape, opt.compute_dtype).double()
    slopes = (z * gradient).sum((1, 2))
    slack = 2e-2 if opt.compute_dtype == torch.bfloat16 else 1e-4
    torch.testing.assert_close(opt.last.projected.double(), slopes, rtol=slack, atol=slack)
    measured = opt.last.projected.double()
    coefficients = {
        "average": lambda: measured / 3,
        "normalized": lambda: measured / 3 / measured.std(),
        "align": lambda: torch.linalg.solve(torch.einsum("kij,lij->kl", z, z), measured),
    }[opt.aggregator]()
    expected = -0.5 * torch.einsum("k,kij->ij", coefficients, z)
    torch.testing.assert_close(weight.double(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("rule", RULES)
def test_learning_rate_zero_keeps_every_bit(rule, bits):
    weight = torch.tensor([[1.5, -0.0, 1e-40], [3e4, -2.0, 0.1]])
    half = torch.tensor([0.3, -0.0], dtype=torch.bfloat16)
    before = bits([weight, half])
    opt = ZOSGD([weight, half], lr=0.0, directions=2, **rule)
    for _ in range(1000):
        opt.step(lambda: weight.square().mean() + half.float().sum())
    assert bits([weight, half]) == before
    assert opt.steps_done == 1000


def test_trains(model, loss_of):
    opt = ZOSGD(model.parameters(), lr=0.2, directions=16)
    losses = [opt.step(lambda: loss_of(model)) for _ in range(40)]
    assert losses[-1] < 0.6 * losses[0]


def moves_of(seed, steps, shapes=((6, 7),)):
    """The moves of the first steps on a linear loss, whose slope stays the same."""
    weights = [torch.zeros(shape) for shape in shapes]
    opt, moves = ZOSGD(weights, lr=1.0, directions=1, seed=seed, eps=1e-2), []
    for _ in range(steps):
        before = [weight.clone() for weight in weights]
        opt.step(lambda: sum((weight * torch.linspace(0.1, 1, 42).view(6, 7)).sum() for weight in weights))
        moves.append([(w - b).sign() for w, b in zip(weights, before, strict=True)])
    return moves


def correlation(one, other) -> float:
    return abs(float((one * other).mean()))


def test_noise_is_never_used_twice():
    """Within one run, steps and layers of one shape walk along signs of their own; chance gives 0.15."""
    moves = [sign for step in moves_of(0, steps=6, shapes=((6, 7), (6, 7))) for sign in step]
    worst = max(correlation(a, b) for i, a in enumerate(moves) for b in moves[:i])
    assert worst < 0.8


def test_seeds_and_steps_do_not_collide():
    """A seed formula such as seed + step would make (17, 0) and (16, 1) the same noise."""
    later = moves_of(16, steps=2)[1][0]
    assert correlation(moves_of(17, steps=1)[0][0], later) < 0.8


def test_seed_zero_is_a_seed():
    first, again, other = (moves_of(seed, steps=1)[0][0] for seed in (0, 0, 1))
    assert torch.equal(first, again)
    assert correlation(first, other) < 0.8


def test_large_seed_and_global_random_state(model, loss_of):
    """The whole 64-bit key is taken, and torch's own generator neither matters nor moves."""
    state = torch.get_rng_state()
    opt = ZOSGD(model.parameters(), lr=0.1, directions=2, seed=2**64 - 1)
    opt.step(lambda: loss_of(model))
    assert torch.equal(torch.get_rng_state(), state)
    assert opt.next_directions() == Directions(2**64 - 1, 1, 2)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_low_precision_weights_do_not_swallow_small_updates(dtype, momentum):
    """200 steps, each below half the spacing of the weights' dtype, must add up as they do in float32."""

    def run(weight):
        opt = ZOSGD([weight], lr=2e-4 * (1 - momentum), directions=8, eps=1e-2, momentum=momentum)
        for _ in range(200):
            opt.step(lambda: weight.float().sum())
        return weight

    full, low = run(torch.ones(6)), run(torch.ones(6, dtype=dtype))
    assert low.dtype == dtype
    assert float((full - 1).abs().min()) > 0.01
    torch.testing.assert_close(low.float(), full.to(dtype).float(), rtol=torch.finfo(dtype).eps, atol=0)


def test_a_weight_overwritten_in_part_keeps_the_other_elements_masters():
    w = torch.tensor([1.0, 1.0], dtype=torch.bfloat16)
    optimizer = ZOSGD([w], lr=2.0**-12, directions=8)
    for _ in range(3):
        optimizer.step(lambda: w.float().sum())
    master = optimizer.state[w]["master"].clone()
    assert w.tolist() == [1.0, 1.0]
    assert (master != 1.0).all()
    w[0] = 5.0
    optimizer.param_groups[0]["lr"] = 0.0
    optimizer.step(lambda: w.float().sum())
    assert optimizer.state[w]["master"].tolist() == [5.0, master[1].item()]


def test_low_precision_weight_overwritten_from_outside_wins():
    weight = torch.ones(3, dtype=torch.bfloat16)
    opt = ZOSGD([weight], lr=1e-3, directions=2, eps=1e-2)
    opt.step(lambda: weight.float().sum())
    weight.fill_(5.0)
    opt.step(lambda: weight.float().sum())
    assert float((weight.float() - 5).abs().max()) < 0.1


def test_plain_step_stores_nothing(model, loss_of):
    opt = ZOSGD(model.parameters(), lr=0.1, directions=2)
    opt.step(lambda: loss_of(model))
    assert not opt.state
    assert all(param.grad is None for param in model.parameters())


def test_frozen_parameters_are_trained():
    weight = torch.nn.Parameter(torch.ones(3), requires_grad=False)
    opt = ZOSGD([("weight", weight)], lr=0.1, directions=8)
    opt.step(lambda: weight.square().sum())
    assert not torch.equal(weight, torch.ones(3))


def test_last_step_can_be_inspected(model, loss_of):
    opt = ZOSGD(model.parameters(), lr=0.1, directions=3, sides=2)
    assert opt.last is None
    loss = opt.step(lambda: loss_of(model))
    assert opt.last.loss == loss
    assert opt.last.projected.shape == (3,)
    assert opt.last.differences.shape == (3, 2)
    assert opt.last.directions == Directions(0, 0, 3)


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
@pytest.mark.parametrize("wrap", [lambda closure: closure, BlackBox], ids=["tensor", "black-box"])
def test_failing_closure_changes_nothing(model, loss_of, bits, error, wrap):
    opt = ZOSGD(model.parameters(), lr=0.1, directions=3, momentum=0.9)
    opt.step(wrap(lambda: loss_of(model)))
    weights, last = bits(list(model.parameters())), opt.last
    state = bits([entry["momentum_buffer"] for entry in opt.state.values()])

    def closure():
        loss_of(model)
        raise error("in the closure")

    with pytest.raises(error, match="in the closure"):
        opt.step(wrap(closure))
    assert bits(list(model.parameters())) == weights
    assert bits([entry["momentum_buffer"] for entry in opt.state.values()]) == state
    assert opt.steps_done == 1
    assert opt.last is last


def test_a_step_can_be_made_in_two_halves(model, loss_of, bits):
    """As loops do that take the loss first and move later, without a closure."""
    twin = copy.deepcopy(model)
    whole, halves = (
        ZOSGD(each.parameters(), lr=0.1, directions=4, eps=1e-3, momentum=0.9) for each in (model, twin)
    )
    for _ in range(3):
        loss, before = whole.step(lambda: loss_of(model)), bits(list(twin.parameters()))
        assert halves.measure(lambda: loss_of(twin)) == loss
        assert bits(list(twin.parameters())) == before
        assert halves.step() == loss
        assert bits(list(model.parameters())) == bits(list(twin.parameters()))
    assert halves.last is not None
    assert halves.plan == whole.plan


@pytest.mark.parametrize(
    "disturb",
    [
        pytest.param(lambda opt: setattr(opt, "directions", 8), id="another-number"),
        pytest.param(lambda opt: setattr(opt, "compute_dtype", torch.bfloat16), id="another-dtype"),
        pytest.param(lambda opt: opt.apply(torch.zeros(4)), id="a-step-applied"),
    ],
)
def test_a_second_half_that_does_not_fit_the_first_is_refused(model, loss_of, disturb):
    opt = ZOSGD(model.parameters(), lr=0.1, directions=4, eps=1e-3)
    opt.measure(lambda: loss_of(model))
    disturb(opt)
    with pytest.raises(ValueError, match="measure again after a setting has changed"):
        opt.step()
    with pytest.raises(ValueError, match="step needs a closure"):
        opt.step()


def test_a_loaded_state_and_a_copy_have_measured_nothing(model, loss_of):
    opt = ZOSGD(model.parameters(), lr=0.1, directions=4, eps=1e-3)
    opt.measure(lambda: loss_of(model))
    with pytest.raises(ValueError, match="step needs a closure"):
        copy.deepcopy(opt).step()
    opt.load_state_dict(opt.state_dict())
    with pytest.raises(ValueError, match="step needs a closure"):
        opt.step()


@pytest.mark.parametrize(
    "plan", [5, "all", (), (4, 4), (4, 0, []), (4, 4, None), (4, 4, ["a"]), (4, 4, [], True, False, 1)]
)
def test_a_damaged_plan_is_refused_when_it_is_loaded(plan):
    w = torch.ones(3)
    opt = ZOSGD([w], lr=0.1, directions=4, eps=1e-2)
    opt.step(lambda: w.square().sum())
    state = opt.state_dict()
    state["zo"]["plan"] = plan
    before = opt.plan
    with pytest.raises(ValueError, match=r"the state's plan must be .* or None, got .*state_dict"):
        opt.load_state_dict(state)
    assert (opt.plan, opt.steps_done) == (before, 1)


def test_a_state_of_before_there_were_tapes_is_a_plan_too():
    w = torch.ones(3)
    opt = ZOSGD([w], lr=0.1, directions=4, eps=1e-2)
    opt.step(lambda: w.square().sum())
    state = opt.state_dict()
    state["zo"]["plan"] = state["zo"]["plan"][:3]
    opt.load_state_dict(state)
    opt.step(lambda: w.square().sum())
    assert opt.plan == (4, 4, [], True, False)
