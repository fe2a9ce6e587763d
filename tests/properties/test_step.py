"""A step happens whole or not at all; a saved run goes on bit for bit; no value makes silent garbage."""

import copy
import math
import warnings

import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import share, values

import zo_triton as zo
from zo_triton.distributions import DISTRIBUTIONS
from zo_triton.optim import AGGREGATORS, ZOSGD, BlackBox

SPECIAL = [0.0, -0.0, 1.0, -2.5, 1e-45, -1e-39, 1e-30, 1e19, -1e30, 3.4e38, math.inf, -math.inf, math.nan]
DTYPES = [torch.float32, torch.float64, torch.float16, torch.bfloat16]


@st.composite
def settings_of(draw):
    distribution = draw(st.sampled_from(list(DISTRIBUTIONS)))
    ranks = [None] if DISTRIBUTIONS[distribution].orthogonal else [None, 1, 2]
    return {
        "lr": draw(st.sampled_from([0.0, 1e-3, 0.1])),
        "directions": draw(st.integers(1, 5)),
        "eps": draw(st.sampled_from([1e-4, 1e-2, 1.0])),
        "seed": draw(st.integers(0, 2**64 - 1)),
        "distribution": distribution,
        "sides": draw(st.integers(1, 2)),
        "aggregator": draw(st.sampled_from(sorted(AGGREGATORS))),
        "momentum": draw(st.sampled_from([0.0, 0.9])),
        "weight_decay": draw(st.sampled_from([0.0, 0.1])),
        "compute_dtype": draw(st.sampled_from([torch.float32, torch.bfloat16])),
        "rank": draw(st.sampled_from(ranks)),
        "rounds": draw(st.sampled_from([7, 10])),
        "chunk": draw(st.none() | st.integers(1, 5)),
        "low_precision": draw(st.sampled_from(["master", "stochastic"])),
    }


class Run:
    """A linear model with batch statistics and dropout, its parameters of one dtype each."""

    def __init__(self, dtypes, settings, wrap=False):
        self.weight, self.bias = values((3, 4), 0, dtypes[0]), values((3,), 1, dtypes[1])
        self.norm = torch.nn.BatchNorm1d(3, affine=False)
        self.x = values((6, 4), 2)
        self.opt = ZOSGD([{"params": [self.weight]}, {"params": [self.bias], "lr": 0.01}], **settings)
        self.closure = BlackBox(lambda: float(self.loss())) if wrap else self.loss

    def loss(self):
        h = torch.nn.functional.linear(self.x, self.weight.float(), self.bias.float())
        return torch.nn.functional.dropout(self.norm(h.tanh()), 0.2).square().sum() + h.sum()

    def everything(self, buffers=True):
        state = [value for entry in self.opt.state.values() for value in entry.values()]
        tensors = [self.weight, self.bias, *state, torch.get_rng_state()]
        tensors += self.norm.buffers() if buffers else []
        bits = [tensor.contiguous().reshape(-1).view(torch.uint8).tolist() for tensor in tensors]
        return bits, self.opt.steps_done, self.opt.plan


def steps(run, count):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        for _ in range(count):
            run.opt.step(run.closure)


@share(0.2)
@given(
    st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)), settings_of(), st.integers(0, 30),
    st.sampled_from([RuntimeError("x"), MemoryError("x"), ValueError("x"), KeyboardInterrupt("x"), "nan", "inf"]),
    st.booleans(),
)  # fmt: skip
def test_a_step_that_fails_has_not_happened(dtypes, settings, at, failure, wrap):
    run, calls = Run(dtypes, settings, wrap), []
    torch.manual_seed(0)
    steps(run, 1)
    before, honest = run.everything(not wrap), run.closure

    def failing():
        loss = honest()
        calls.append(1)
        if len(calls) - 1 == at or (len(calls) > at and isinstance(failure, MemoryError)):
            if not isinstance(failure, str):
                raise failure
            return loss * math.nan if failure == "nan" else loss + math.inf
        return loss

    run.closure = BlackBox(failing) if wrap else failing
    try:
        steps(run, 1)
    except (RuntimeError, MemoryError, ValueError, KeyboardInterrupt):
        assert run.everything(not wrap) == before
    else:
        # The failure came after the last evaluation, or along a direction that was left out.
        assert run.opt.steps_done == 2


@share(0.2)
@given(
    st.tuples(st.sampled_from(DTYPES), st.sampled_from(DTYPES)),
    settings_of(),
    st.integers(0, 2),
    st.booleans(),
)
def test_a_saved_run_goes_on_bit_for_bit(dtypes, settings, done, wrap):
    run, twin = Run(dtypes, settings, wrap), Run(dtypes, {"lr": 1.0, "chunk": settings["chunk"]}, wrap)
    torch.manual_seed(0)
    steps(run, done)
    saved, random = copy.deepcopy(run.opt.state_dict()), torch.get_rng_state()
    twin.opt.load_state_dict(saved)
    twin.weight.copy_(run.weight)
    twin.bias.copy_(run.bias)
    twin.norm.load_state_dict(run.norm.state_dict())
    steps(run, 2)
    torch.set_rng_state(random)
    steps(twin, 2)
    assert twin.everything() == run.everything()
    assert twin.opt.state_dict()["zo"] == run.opt.state_dict()["zo"]


@share(0.6)
@given(
    st.lists(st.sampled_from(SPECIAL), min_size=4, max_size=4),
    st.lists(st.sampled_from(SPECIAL), min_size=4, max_size=4),
    settings_of(), st.sampled_from(DTYPES), st.booleans(), st.sampled_from([0.1, 1e12]),
)  # fmt: skip
def test_no_value_makes_silent_garbage(weights, slopes, settings, dtype, wrap, lr):
    """A linear loss of NaN, infinities, huge and tiny numbers: finite weights and a true loss, or a ValueError."""
    weight, slope = torch.tensor([weights]).to(dtype).view(2, 2), torch.tensor(slopes).view(2, 2)

    def loss():
        return (weight.float() * slope).sum()

    opt = ZOSGD([weight], **{**settings, "lr": lr})
    before, true = weight.clone(), float(loss())
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        try:
            found = opt.step(BlackBox(lambda: float(loss())) if wrap else loss)
        except ValueError as error:
            assert any(word in str(error) for word in ("nan", "inf", "NaN", "infinite", "finite"))  # noqa: PT017
            assert torch.equal(weight.view(torch.uint8), before.view(torch.uint8))
            assert not opt.state
            return
    assert math.isfinite(found)
    assert found == true
    # Beyond float16's range even a weight that has a float32 copy is infinite.
    master = opt.state.get(weight, {}).get("master", weight)
    assert master.isfinite().all()
    assert dtype == torch.float16 or weight.isfinite().all()
    assert bool(opt.last.projected.isfinite().all()) or any("left out" in str(one.message) for one in seen)


@share(0.1)
@given(settings_of(), st.sampled_from(["cpu", "reference"]))
def test_engines_take_the_same_step(settings, engine):
    ours, theirs = (Run((torch.float32, torch.float64), {**settings, "chunk": None}) for _ in range(2))
    for run, name in ((ours, engine), (theirs, "reference")):
        torch.manual_seed(0)
        with zo.use_engine(name):
            steps(run, 1)
    slack = 0.1 if settings["compute_dtype"] == torch.bfloat16 else 2e-3
    scale = max(1.0, float((theirs.weight - values((3, 4), 0)).abs().max()))
    if settings["aggregator"] in ("average", "normalized"):
        torch.testing.assert_close(ours.weight, theirs.weight, rtol=slack, atol=slack * scale)
