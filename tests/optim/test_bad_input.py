"""Every bad input is named, with its remedy, before anything has changed."""

import math

import pytest
import torch

from zo_triton.directions import Directions
from zo_triton.optim import ZOSGD, BlackBox, NonFiniteLossError, ZOAdam, estimate_gradient

SETTINGS = [
    ({"lr": -0.1}, ValueError, "lr must be finite and not negative, got -0.1"),
    ({"lr": math.nan}, ValueError, "lr must be finite and not negative, got nan"),
    ({"lr": 1e30}, ValueError, r"lr must be at most 2\*\*40, got 1e\+30"),
    ({"lr": math.inf}, ValueError, "lr must be finite and not negative, got inf"),
    ({"eps": 0.0}, ValueError, "eps must be positive and finite, got 0.0"),
    ({"eps": -1e-3}, ValueError, "eps must be positive and finite, got -0.001"),
    ({"eps": math.nan}, ValueError, "eps must be positive and finite, got nan"),
    ({"eps": math.inf}, ValueError, "eps must be positive and finite, got inf"),
    ({"directions": 0}, ValueError, "directions must be at least 1, got 0"),
    ({"directions": 2.0}, TypeError, "num must be an int, got 2.0"),
    ({"seed": -1}, ValueError, r"seed must be in \[0, 2\*\*64\), got -1"),
    ({"seed": 2**64}, ValueError, r"seed must be in \[0, 2\*\*64\)"),
    ({"distribution": "normal"}, ValueError, r"unknown distribution 'normal'; choose one of \('rademacher'"),
    ({"aggregator": "mean"}, ValueError, r"unknown aggregator 'mean'; choose one of \('average'"),
    ({"sides": 3}, ValueError, "sides must be 1 .* or 2 .*, got 3"),
    ({"compute_dtype": torch.float16}, ValueError, "compute_dtype must be .*, got torch.float16"),
    ({"rank": 4}, ValueError, r"rank 4 exceeds min\(rows, cols\) = 3 of parameter 0"),
    ({"rank": 0}, ValueError, "rank must be at least 1 or None for full rank, got 0"),
    ({"rounds": 8}, ValueError, "rounds must be 7 or 10, got 8"),
    ({"chunk": 0}, ValueError, "chunk must be at least 1 direction"),
    ({"momentum": 1.0}, ValueError, r"momentum must be in \[0, 1\), got 1.0"),
    ({"momentum": -0.1}, ValueError, r"momentum must be in \[0, 1\), got -0.1"),
    ({"weight_decay": -1.0}, ValueError, "weight_decay must be finite and not negative, got -1.0"),
]
PARAMETERS = [
    ([], ValueError, "empty parameter list"),
    ([torch.ones(3, dtype=torch.int64)], TypeError, "parameter 0 has dtype torch.int64; only real floating"),
    (
        [torch.ones(3), torch.ones(3, dtype=torch.complex64)],
        TypeError,
        "parameter 1 has dtype torch.complex64",
    ),
    ([("scale", torch.ones(3, dtype=torch.bool))], TypeError, "parameter 'scale' has dtype torch.bool"),
    ([torch.ones(3).to_sparse()], TypeError, "parameter 0 has layout torch.sparse_coo"),
    (
        [torch.ones(3), torch.ones(3, device="meta")],
        ValueError,
        "parameter 1 lies on meta .* first one on cpu",
    ),
    ([torch.empty(2**20, 2**20, device="meta")], ValueError, r"more than 2\*\*32"),
]


@pytest.mark.parametrize(("settings", "error", "message"), SETTINGS)
def test_constructor_refuses_settings(settings, error, message):
    with pytest.raises(error, match=message):
        ZOSGD([torch.ones(3, 4)], **{"lr": 0.1, **settings})


@pytest.mark.parametrize(("params", "error", "message"), PARAMETERS)
def test_constructor_refuses_parameters(params, error, message):
    with pytest.raises(error, match=message):
        ZOSGD(params, lr=0.1)


@pytest.mark.filterwarnings("ignore:optimizer contains a parameter group with duplicate")
def test_one_tensor_twice_is_refused():
    weight = torch.ones(3)
    with pytest.raises(ValueError, match="parameter 1 is the same tensor as parameter 0"):
        ZOSGD([weight, weight], lr=0.1)


@pytest.mark.parametrize("kind", [ZOSGD, ZOAdam])
@pytest.mark.parametrize(
    ("option", "message"),
    [
        ({"directions": 8}, "directions=8 would have no effect in a parameter group: all groups share"),
        ({"strict": True}, "strict=True would have no effect in a parameter group: all groups share"),
        (
            {"adam_eps": 1e-3},
            "adam_eps=0.001 would have no effect in a parameter group, where it is called 'eps'",
        ),
        ({"nesterov": True}, "nesterov=True would have no effect: the groups' options here are lr, "),
        ({"decoupled_weight_decay": True}, "decoupled_weight_decay=True would have no effect"),
    ],
)
def test_group_options_without_effect_are_refused(kind, option, message):
    first, second = torch.ones(3), torch.ones(2)
    with pytest.raises(ValueError, match=message):
        kind([{"params": [first], **option}], lr=0.1)
    opt = kind([first], lr=0.1)
    with pytest.raises(ValueError, match=message):
        opt.add_param_group({"params": [second], **option})
    assert len(opt.param_groups) == 1


def test_group_options_of_the_other_kind_are_refused():
    with pytest.raises(ValueError, match=r"eps=0\.1 would have no effect in a parameter group"):
        ZOSGD([{"params": [torch.ones(3)], "eps": 0.1}], lr=0.1)
    with pytest.raises(ValueError, match=r"betas=\(0.9, 0.99\) would have no effect"):
        ZOSGD([{"params": [torch.ones(3)], "betas": (0.9, 0.99)}], lr=0.1)
    with pytest.raises(ValueError, match=r"momentum=0\.9 would have no effect"):
        ZOAdam([{"params": [torch.ones(3)], "momentum": 0.9}], lr=0.1)
    # A name says nothing, and what other rules call off asks for nothing.
    assert ZOSGD([{"params": [torch.ones(3)], "name": "head", "nesterov": False, "dampening": 0}], lr=0.1)


def test_a_group_added_after_measuring_is_not_moved_by_it():
    weights, added = torch.ones(3), torch.ones(2)
    opt = ZOSGD([weights], lr=0.1, directions=4)
    opt.measure(lambda: weights.square().sum())
    opt.add_param_group({"params": [added]})
    with pytest.raises(ValueError, match=r"call opt\.measure"):
        opt.step()
    assert torch.equal(torch.cat([weights, added]), torch.ones(5))


def test_refused_group_is_not_added():
    opt = ZOSGD([torch.ones(3)], lr=0.1)
    with pytest.raises(ValueError, match="momentum must be in"):
        opt.add_param_group({"params": [torch.ones(2)], "momentum": 2.0})
    assert len(opt.param_groups) == 1


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"eps": 0.0}, ValueError, "eps must be positive and finite, got 0.0"),
        ({"sides": 0}, ValueError, "sides must be 1 .* or 2 .*, got 0"),
        ({"aggregator": "median"}, ValueError, "unknown aggregator 'median'"),
        ({"params": []}, ValueError, "params is empty"),
        ({"params": ["weight"]}, TypeError, "parameter 0 is no tensor but 'weight' of type str"),
        ({"params": [torch.ones(3, dtype=torch.int32)]}, TypeError, "parameter 0 has dtype torch.int32"),
    ],
)
def test_estimate_gradient_refuses(arguments, error, message):
    weight = torch.ones(3)
    known = {"params": [weight], "directions": Directions(0, 0, 2), "eps": 1e-3}
    with pytest.raises(error, match=message):
        estimate_gradient(lambda: weight.sum(), **{**known, **arguments})


@pytest.mark.parametrize(
    ("attribute", "value", "message"),
    [
        ("eps", -1.0, "eps must be positive"),
        ("sides", 3, "sides must be"),
        ("distribution", "cauchy", "unknown distribution"),
        ("aggregator", "mean", "unknown aggregator"),
        ("rank", 5, "rank 5 exceeds"),
        ("steps_done", 2**32, r"step must be in \[0, 2\*\*32\)"),
    ],
)
def test_attribute_changed_between_steps_is_checked(attribute, value, message):
    weight = torch.ones(3, 4)
    opt = ZOSGD([weight], lr=0.1, momentum=0.9)
    setattr(opt, attribute, value)
    with pytest.raises(ValueError, match=message):
        opt.step(lambda: weight.sum())
    assert torch.equal(weight, torch.ones(3, 4))
    assert not opt.state


def test_learning_rate_spoilt_by_a_scheduler_is_refused():
    weight = torch.ones(3)
    opt = ZOSGD([weight], lr=0.1)
    opt.param_groups[0]["lr"] = math.nan
    with pytest.raises(ValueError, match="lr must be finite and not negative, got nan"):
        opt.step(lambda: weight.sum())
    assert torch.equal(weight, torch.ones(3))


CLOSURES = [
    (lambda weight: weight * 2, ValueError, r"loss must be a scalar, got .*\(3,\)"),
    (lambda weight: weight.sum() * math.nan, NonFiniteLossError, "the loss is nan: the step is refused"),
    (lambda weight: weight.sum() + math.inf, NonFiniteLossError, "the loss is inf: the step is refused"),
    (lambda weight: None, TypeError, "got None of type NoneType; is a `return` missing"),
    (lambda weight: "0.5", TypeError, "got '0.5' of type str"),
]


@pytest.mark.parametrize(("loss", "error", "message"), CLOSURES)
@pytest.mark.parametrize("wrap", [lambda closure: closure, BlackBox], ids=["tensor", "black-box"])
def test_step_refuses_what_the_closure_returns(loss, error, message, wrap):
    weight = torch.ones(3)
    opt = ZOSGD([weight], lr=0.1, momentum=0.9)
    with pytest.raises(error, match=message):
        opt.step(wrap(lambda: loss(weight)))
    assert torch.equal(weight, torch.ones(3))
    assert (opt.steps_done, opt.last, len(opt.state)) == (0, None, 0)


def test_closure_that_uses_no_trained_parameter_is_refused():
    weight, other = torch.ones(3), torch.ones(3)
    opt = ZOSGD([weight], lr=0.1)
    with pytest.raises(ValueError, match="used none of the 1 trained parameters"):
        opt.step(lambda: other.sum())
    with pytest.raises(ValueError, match=r"carries no difference.*zo\.BlackBox"):
        opt.step(lambda: torch.tensor(weight.sum().item()))
    assert torch.equal(weight, torch.ones(3))
    assert opt.steps_done == 0


def test_step_without_closure():
    with pytest.raises(ValueError, match="step needs a closure that returns the loss"):
        ZOSGD([torch.ones(3)], lr=0.1).step()


def test_black_box_of_no_function():
    with pytest.raises(TypeError, match=r"BlackBox takes a closure, got 0\.5 of type float"):
        BlackBox(0.5)


@pytest.mark.parametrize("aggregator", ["average", "normalized", "ranked", "best", "align"])
@pytest.mark.parametrize("sides", [1, 2])
def test_directions_without_a_finite_difference_are_left_out(aggregator, sides):
    """The first direction's loss overflows: the step must be the one that the other directions make."""
    weight = torch.zeros(3)
    slopes = torch.tensor([1.0, -2.0, 3.0])
    calls = iter(range(100))
    opt = ZOSGD([weight], lr=0.1, directions=4, eps=1e-2, aggregator=aggregator, sides=sides)
    directions = opt.next_directions()
    with pytest.warns(RuntimeWarning, match="along 1 of 4 directions is NaN or infinite"):
        opt.step(BlackBox(lambda: math.inf if next(calls) == 1 else float((weight * slopes).sum())))

    other = torch.zeros(3)
    estimate_gradient(
        lambda: (other * slopes).sum(), [other], directions[1:], 1e-2, sides=sides, aggregator=aggregator
    )
    assert opt.last.usable.tolist() == [False, True, True, True]
    torch.testing.assert_close(weight, -0.1 * other.grad, rtol=1e-3, atol=1e-5)


def test_no_direction_with_a_finite_difference():
    weight = torch.zeros(3)
    calls = iter(range(100))
    opt = ZOSGD([weight], lr=0.1, directions=4)
    with pytest.raises(
        NonFiniteLossError, match="difference along each of the 4 directions is NaN or infinite"
    ):
        opt.step(BlackBox(lambda: math.nan if next(calls) else 1.0))
    assert torch.equal(weight, torch.zeros(3))
    assert opt.steps_done == 0


@pytest.mark.parametrize("wrap", [lambda closure: closure, BlackBox], ids=["tensor", "black-box"])
def test_a_slope_that_would_overflow_the_weights_is_refused(wrap):
    weight = torch.zeros(3)
    opt = ZOSGD([weight], lr=1e12, directions=2, momentum=0.9)
    with pytest.raises(NonFiniteLossError, match=r"or its slope beyond 2\*\*60: the step is refused"):
        opt.step(wrap(lambda: (weight * 1e19).sum()))
    assert torch.equal(weight, torch.zeros(3))
    assert not opt.state


def test_a_run_that_diverges_is_told_to_lower_lr(bits):
    """Weights this large are not eps's fault: the loss is finite, its slopes are beyond 2**60."""
    weight = torch.full((3,), 2.0**60)
    opt = ZOSGD([weight], lr=0.1, directions=4)
    before = bits([weight])
    with pytest.raises(
        NonFiniteLossError, match="has diverged: restart from a checkpoint with a lower lr; at a"
    ):
        opt.step(lambda: weight.square().sum())
    assert bits([weight]) == before
