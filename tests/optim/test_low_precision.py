"""float16 and bfloat16 weights without a float32 copy: moved right in the mean, reproducible, replayable."""

import copy
import io
import math

import pytest
import torch

import zo_triton as zo
from zo_triton import ops
from zo_triton.directions import Directions
from zo_triton.optim import ZOSGD, estimate_gradient

DTYPES = [torch.bfloat16, torch.float16]
RULES = [
    pytest.param({}, id="plain"),
    pytest.param({"weight_decay": 0.3}, id="weight-decay"),
    pytest.param({"momentum": 0.9}, id="momentum"),
    pytest.param({"momentum": 0.5, "weight_decay": 0.3}, id="both"),
]
SLOPES = torch.linspace(-1, 1, 35).view(5, 7)


def weights_of(dtype):
    """A low-precision matrix between a float32 and a low-precision vector."""
    matrix = torch.linspace(1, 2, 35).view(5, 7).to(dtype)
    return [torch.linspace(-1, 1, 4), matrix, torch.linspace(-2, -1, 3).to(dtype)]


def loss_of(weights):
    return (weights[1].float() * SLOPES).sum() + sum(weight.float().square().sum() for weight in weights[::2])


def optimizer(weights, **settings):
    groups = [{"params": weights[:1], "lr": 0.02}, {"params": weights[1:]}]
    known = {"lr": 1e-3, "directions": 4, "eps": 1e-2, "seed": 7, "low_precision": "stochastic"}
    return ZOSGD(groups, **{**known, **settings})


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_step_is_torch_sgd_s_in_float32_and_one_stochastic_rounding(dtype, rule):
    weights = weights_of(dtype)
    opt = optimizer(weights, **rule)
    buffers = [torch.zeros(weight.shape) for weight in weights]
    for step in range(3):
        twins = [weight.clone() for weight in weights]
        full = [twin.float().requires_grad_() for twin in twins]
        # The gradient is measured at the weights themselves, as float32 tensors of the same values.
        estimate_gradient(lambda full=full: loss_of(full), full, opt.next_directions(), 1e-2)
        opt.step(lambda: loss_of(weights))
        for number, (twin, one, buffer) in enumerate(zip(twins, full, buffers, strict=True)):
            lr = 0.02 if number == 0 else 1e-3
            gradient = one.grad + rule.get("weight_decay", 0.0) * twin.float()
            buffer.mul_(rule.get("momentum", 0.0)).add_(gradient)
            if twin.dtype == dtype:
                ops.stochastic_add(twin, buffer * -lr, Directions(7, step, 4), number)
                # A word may fall between two moves that differ by a float32 rounding.
                assert (twin != weights[number]).float().mean() < 0.05
            else:
                torch.testing.assert_close(twin - lr * buffer, weights[number], rtol=1e-5, atol=1e-6)


def test_no_copy_is_kept():
    weights = weights_of(torch.bfloat16)
    opt = optimizer(weights)
    opt.step(lambda: loss_of(weights))
    assert not opt.state
    opt = optimizer(weights, momentum=0.9)
    opt.step(lambda: loss_of(weights))
    assert {name for state in opt.state.values() for name in state} == {"momentum_buffer"}
    assert all(state["momentum_buffer"].dtype == torch.float32 for state in opt.state.values())


def test_the_choice_may_change_between_steps():
    weights = weights_of(torch.bfloat16)
    opt = optimizer(weights, low_precision="master")
    opt.step(lambda: loss_of(weights))
    assert "master" in opt.state[weights[1]]
    opt.low_precision = "stochastic"
    opt.step(lambda: loss_of(weights))
    assert "master" not in opt.state[weights[1]]
    opt.low_precision = "master"
    before = weights[1].clone()
    opt.step(lambda: loss_of(weights))
    assert (weights[1].float() - before.float()).abs().max() < 0.1
    opt.low_precision = "nearest"
    with pytest.raises(
        ValueError, match=r"low_precision must be one of \('master', 'stochastic'\), got 'near"
    ):
        opt.step(lambda: loss_of(weights))


def test_an_unknown_choice_is_refused():
    with pytest.raises(ValueError, match=r"low_precision must be one of .*, got 'fp32'"):
        optimizer(weights_of(torch.float16), low_precision="fp32")


@pytest.mark.parametrize("rule", RULES)
def test_learning_rate_zero_keeps_every_bit(bits, rule):
    weights = [torch.tensor([0.3, -0.0, 1e-40], dtype=torch.bfloat16)]
    before = bits(weights)
    opt = ZOSGD(weights, lr=0.0, directions=2, low_precision="stochastic", **rule)
    for _ in range(20):
        opt.step(lambda: weights[0].float().sum())
    assert bits(weights) == before


def test_the_same_run_gives_the_same_bits_and_a_saved_one_goes_on(bits):
    def run(steps, saved=None):
        weights = weights_of(torch.bfloat16)
        opt = optimizer(weights, momentum=0.9)
        if saved is not None:
            for weight, old in zip(weights, saved["weights"], strict=True):
                weight.copy_(old)
            opt.low_precision = "master"
            opt.load_state_dict(saved["opt"])
            assert opt.low_precision == "stochastic"
        for _ in range(steps):
            opt.step(lambda: loss_of(weights))
        return weights, opt

    straight = bits(run(6)[0])
    assert bits(run(6)[0]) == straight
    weights, opt = run(4)
    file = io.BytesIO()
    torch.save({"weights": weights, "opt": opt.state_dict()}, file)
    file.seek(0)
    assert bits(run(2, torch.load(file, weights_only=True))[0]) == straight
    twin = copy.deepcopy((weights, opt))
    for _ in range(2):
        opt.step(lambda: loss_of(weights))
        twin[1].step(lambda: loss_of(twin[0]))
    assert bits(weights) == bits(twin[0]) == straight


def test_a_state_from_before_there_was_a_choice_keeps_masters():
    weights = weights_of(torch.bfloat16)
    saved = optimizer(weights, low_precision="master").state_dict()
    del saved["zo"]["low_precision"]
    opt = optimizer(weights)
    opt.load_state_dict(saved)
    assert opt.low_precision == "master"


@pytest.mark.parametrize("engine", ["reference", "triton"])
def test_engines_agree_on_a_run_of_signs(engine):
    def run(name):
        weights = weights_of(torch.float16)
        opt = optimizer(weights)
        with zo.use_engine(name):
            for _ in range(2):
                opt.step(lambda: loss_of(weights))
        return weights

    ours, theirs = run("cpu"), run(engine)
    # Moves agree to float32 rounding, so a word hardly ever falls between two of them.
    for mine, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(mine.float(), other.float(), rtol=1e-2, atol=1e-5)
        assert (mine == other).float().mean() > 0.9 or mine.dtype == torch.float32


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_small_steps_add_up_in_the_mean(one_thread, dtype):
    """A thousand steps down one slope, each a few thousandths of the spacing, against their exact sum."""
    weight, spacing = torch.full((1024,), 1.25, dtype=dtype), torch.finfo(dtype).eps
    opt = ZOSGD([weight], lr=1e-3 * spacing, directions=64, eps=1e-2, low_precision="stochastic")
    exact, variance = torch.zeros(1024, dtype=torch.float64), 0.0
    for _ in range(1000):
        directions = opt.next_directions()
        opt.step(lambda: weight.float().sum())
        move = torch.zeros(1024)
        ops.accumulate([move], [0], opt.last.coefficients([weight], "average") * -1e-3 * spacing, directions)
        exact += move
        variance += float((move.abs() * (spacing - move.abs())).mean())
    deviation = math.sqrt(variance / 1024)
    assert exact.mean().item() < -10 * deviation
    assert abs((weight.double() - 1.25 - exact).mean().item()) < 4.5 * deviation
