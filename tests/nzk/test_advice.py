from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from benchmarks.race.networks import make_mlp
from zo_triton.nzk import Advice, advise_lr, probe_lr
from zo_triton.nzk.advice import COVERED, STEPS

X = torch.randn(96, 6, generator=torch.Generator().manual_seed(0))
Y = X.sum(1, keepdim=True)
CLASSES = X[:, :3].argmax(1)


def sgd(model, momentum=0.0, perturb="weights"):
    return zo.ZOSGD(
        model.parameters(), lr=1e9, directions=8, eps=1e-3, seed=3, momentum=momentum, perturb=perturb
    )


def losses(model, opt, lr, steps):
    opt.param_groups[0]["lr"] = lr
    found = []
    for _ in range(steps):
        try:
            found.append(opt.step(lambda: F.cross_entropy(model(X), CLASSES)))
        except zo.NonFiniteLossError:
            found.append(float("inf"))
    return found


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_a_linear_model_whose_curvature_is_its_own_everywhere(momentum):
    model = make_mlp((6, 1), 1)
    limit = probe_lr(model, X[:16], 1.0, 8, "mse", momentum=momentum).upper
    advice = advise_lr(sgd(model, momentum), model, X, Y, "mse", steps=60)
    assert advice.start == pytest.approx(limit)
    assert advice.limit == pytest.approx(limit)
    assert advice.lr <= limit / 2
    assert advice.last < advice.first / 4
    assert f"lr = {advice.lr:.3g} held for 60 steps" in str(advice)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("perturb", ["weights", "activations"])
def test_half_of_it_learns_and_four_times_the_limit_does_not(momentum, perturb):
    """Four tanh layers, whose curvature grows by an order of magnitude as they learn.

    Nearly without noise, on activations, a rate above the limit that was met may find flatter places and settle
    there; four times that of the first weights does not.
    """

    def fresh():
        model = make_mlp((6, 24, 24, 24, 3), 0, nn.Tanh)
        return model, sgd(model, momentum, perturb)

    model, opt = fresh()
    advice = advise_lr(opt, model, X, CLASSES)
    assert advice.limit < advice.start / 3
    learnt = losses(*fresh(), advice.lr / 2, 300)
    assert learnt[-1] < learnt[0] / 2
    assert max(learnt) < 1.1 * learnt[0]
    above = advice.limit if perturb == "weights" else advice.start
    assert max(losses(*fresh(), 4 * above, 60)) > 1.5 * learnt[0]


def test_nothing_changes():
    model = nn.Sequential(nn.Linear(6, 8), nn.BatchNorm1d(8), nn.Linear(8, 3))
    opt = sgd(model)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    with torch.random.fork_rng(devices=()):
        advise_lr(opt, model, X, CLASSES, steps=3)
    assert all(torch.equal(before[name], tensor) for name, tensor in model.state_dict().items())
    assert all(module.training for module in model.modules())
    assert opt.steps_done == 0
    assert opt.param_groups[0]["lr"] == 1e9


def test_the_squared_loss_is_half_of_torchs_times_the_outputs():
    model = make_mlp((6, 2), 1)
    targets = torch.cat([Y, -Y], 1)
    mine, torchs = (advise_lr(sgd(model), model, X, targets, loss, steps=2) for loss in ("squared", "mse"))
    assert mine.first == pytest.approx(torchs.first, rel=1e-5)
    assert mine.limit == pytest.approx(torchs.limit)


def test_bad_questions():
    model = make_mlp((6, 3), 1)
    with pytest.raises(TypeError, match=r"known for a zo\.ZOSGD, got ZOAdam"):
        advise_lr(zo.ZOAdam(model.parameters()), model, X, CLASSES)
    with pytest.raises(ValueError, match="x has 96 samples, but y has 5 targets"):
        advise_lr(sgd(model), model, X, CLASSES[:5])
    with pytest.raises(ValueError, match="steps must be at least 1, got 0"):
        advise_lr(sgd(model), model, X, CLASSES, steps=0)
    with pytest.raises(ValueError, match="loss"):
        advise_lr(sgd(model), model, X, CLASSES, loss="hinge")
    silent = nn.Linear(6, 1, bias=False)
    with pytest.raises(ValueError, match="the curvature is zero"):
        advise_lr(sgd(silent), silent, 0 * X, Y, "mse")


def test_a_climb_is_refused():
    model = make_mlp((6, 3), 1)
    with pytest.raises(ValueError, match="got maximize=True; ask with maximize=False"):
        advise_lr(zo.ZOSGD(model.parameters(), lr=1.0, maximize=True), model, X, CLASSES)


def test_a_loss_that_rose_is_told():
    advice = Advice(lr=0.1, limit=0.3, start=0.5, steps=20, first=1.01, last=1.09)
    assert "held for 20 steps, but the loss did not fall: from 1.01 to 1.09; the" in str(advice)
    assert "in which the loss went from 1.01 to 0.9; the" in str(replace(advice, last=0.9))


def test_half_of_it_is_advised_for_twice_the_steps_of_a_trial():
    advice = Advice(lr=0.1, limit=0.3, start=0.5, steps=20, first=1.01, last=1.09)
    assert advice.covered == 40
    assert "Begin a run of up to 40 steps with 0.05, a longer one after trials of half its steps." in str(
        advice
    )


@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_at_half_the_rate_noise_leads_less_far_in_twice_the_steps(momentum):
    """Losses without a gradient in the mean: each step's is along another vector, drawn anew."""
    size, few, seeds = 256, 50, 4

    def square(lr, steps, seed):
        generator, weight = torch.Generator().manual_seed(seed), torch.zeros(size)
        opt = zo.ZOSGD([weight], lr=lr, directions=4, momentum=momentum, seed=seed)
        for _ in range(steps):
            pull = torch.randn(size, generator=generator)
            opt.step(lambda pull=pull: weight @ pull)
        return float(weight.square().sum())

    def walk(steps):
        """Of one coordinate, lr 1 and noise 1: what the n-th last step has come to, squared and summed."""
        return sum(((1 - momentum**n) / (1 - momentum)) ** 2 for n in range(1, steps + 1))

    whole, half = (
        sum(square(lr, steps, seed) for seed in range(seeds)) / (lr**2 * walk(steps))
        for lr, steps in ((2.0, few), (1.0, 2 * few))
    )
    # The square of a normal vector of n coordinates varies by the share √(2/n).
    assert half / whole == pytest.approx(1, abs=4 * (2 * 2 / (size * seeds)) ** 0.5)
    assert walk(COVERED * STEPS) / (2**2 * walk(STEPS)) == pytest.approx(0.5, rel=0.06)


def test_the_curvature_is_that_of_what_is_trained():
    model = nn.Sequential(nn.Linear(6, 5), nn.Tanh(), nn.Linear(5, 3))
    opt = zo.ZOSGD(model[2].parameters(), lr=1.0, directions=8)
    with torch.no_grad():
        features = model[:2](X[:16])
    expected = probe_lr(model[2], features, 1.0, 8).lower
    assert advise_lr(opt, model, X, CLASSES, steps=2).start == pytest.approx(expected, rel=1e-5)


def test_dropout_takes_its_chance_from_the_seed_and_leaves_torchs():
    model = nn.Sequential(nn.Linear(6, 8), nn.Dropout(), nn.Linear(8, 3))
    found = []
    for state in (1, 2):
        torch.manual_seed(state)
        before = torch.get_rng_state()
        found.append(advise_lr(sgd(model), model, X, CLASSES, steps=5, seed=4))
        assert torch.equal(before, torch.get_rng_state())
    assert found[0] == found[1]
    assert advise_lr(sgd(model), model, X, CLASSES, steps=5, seed=2**64 - 1).first != found[0].first


WITH_NAN, FEW = X.clone(), CLASSES.clone()
WITH_NAN[90, 2] = float("nan")
FEW[50] = 3
BAD_SAMPLES = {
    "x": ((WITH_NAN, CLASSES), ValueError, r"x has 1 value\(s\) that are NaN or infinite"),
    "no tensor": ((X, CLASSES.tolist()), TypeError, "y must be a tensor, got type list"),
    "x no tensor": ((X.numpy(), CLASSES), TypeError, "x must be a tensor, got type ndarray"),
    "ignored": ((X, CLASSES * 0 - 100), ValueError, "every label is -100.*pass samples that have a label"),
    "class": ((X, FEW), ValueError, r"labels must be in \[0, 3\), the model's logits, got 0 to 3"),
    "negative": (
        (X, CLASSES - 1),
        ValueError,
        r"labels must be in \[0, 3\), the model's logits, got -1 to 1",
    ),
    "float": (
        (X, CLASSES.float()),
        TypeError,
        r"labels must be of dtype torch.int64, got y of torch.float32",
    ),
    "column": ((X, CLASSES[:, None]), ValueError, r"labels must have shape \[n\], got y of shape \(96, 1\)"),
    "probabilities": ((X, WITH_NAN[:, :3]), ValueError, r"y has 1 value\(s\) that are NaN"),
    "spread": (
        (X, Y[:, 0], "mse"),
        ValueError,
        r"outputs of shape \(96, 3\) and y of shape \(96,\); reshape y",
    ),
    "column of 3": ((X, Y, "squared"), ValueError, r"outputs of shape \(96, 3\) and y of shape \(96, 1\)"),
    "nan target": ((X, WITH_NAN[:, :3], "mse"), ValueError, r"y has 1 value\(s\) that are NaN"),
}


@pytest.mark.parametrize(("samples", "error", "match"), BAD_SAMPLES.values(), ids=BAD_SAMPLES)
def test_bad_samples(samples, error, match):
    model = make_mlp((6, 3), 1)
    with pytest.raises(error, match=match):
        advise_lr(sgd(model), model, *samples)
    assert model.training


def test_probabilities_and_bytes_are_targets_of_cross_entropy():
    model = make_mlp((6, 3), 1)
    by_label, by_byte, by_share = (
        advise_lr(sgd(model), model, X, y, steps=2)
        for y in (CLASSES, CLASSES.byte(), F.one_hot(CLASSES, 3).float())
    )
    assert by_byte == by_label
    assert by_share.first == pytest.approx(by_label.first, rel=1e-5)


@pytest.mark.parametrize(
    ("seed", "error", "match"),
    [
        (-1, ValueError, r"seed must be in \[0, 2\*\*64\), got -1"),
        (2**64, ValueError, r"seed must be in \[0, 2\*\*64\)"),
        (1.5, TypeError, "seed"),
    ],
)
def test_bad_seeds(seed, error, match):
    model = make_mlp((6, 3), 1)
    with pytest.raises(error, match=match):
        advise_lr(sgd(model), model, X, CLASSES, seed=seed)


def test_a_first_loss_that_tells_nothing():
    model = make_mlp((6, 1), 1)
    with torch.no_grad():
        fitted = model(X)
    with pytest.raises(ValueError, match=r"loss of the first step is 0 already.*nothing to learn"):
        advise_lr(sgd(model), model, X[:1], fitted[:1], "mse")
    with pytest.raises(ValueError, match="loss of the first step is not finite, whatever the learning rate"):
        advise_lr(sgd(model), model, X, 1e30 * Y, "mse")


def test_a_step_that_leaves_no_finite_outputs_does_not_hold(monkeypatch):
    """The first rate tried is far too large, and its first step goes where nothing is finite."""
    model = make_mlp((6, 3), 1)
    step = zo.ZOSGD.step

    def broken(self, closure):
        loss = step(self, closure)
        if self.param_groups[0]["lr"] > 0.1:
            nn.init.constant_(self.param_groups[0]["params"][-1], float("nan"))
        return loss

    monkeypatch.setattr(zo.ZOSGD, "step", broken)
    advice = advise_lr(sgd(model), model, X, CLASSES, steps=4)
    assert advice.lr <= 0.1 < advice.start / 2


@pytest.mark.parametrize(
    ("met", "losses", "second"),
    [(1e-3, 1.0, 1.0), (2.4, 1.0, 1.2), (3.9, 1.0, 1.95), (7.9, 1.0, 2.0), (9.0, float("inf"), 2.0)],
    ids=["another valley's", "half of what was met", "nearly half", "half", "a loss that grew"],
)
def test_a_failed_trial_divides_the_rate_by_two_to_four(monkeypatch, met, losses, second):
    """η* is 8 at first, so the first trial has a rate of 4; it meets ``met``, or its loss grows."""
    tried = []

    def limit(optimizer, *_):
        return 8.0 if optimizer.param_groups[0]["lr"] != 4.0 else met

    def step(trial, *_):
        tried.append(trial.lr)
        return losses if len(tried) == 2 else 1.0

    for module in ("advice", "trial"):
        monkeypatch.setattr(f"zo_triton.nzk.{module}.max_stable_lr_of", limit)
    monkeypatch.setattr("zo_triton.nzk.trial.Trial._step", step)
    model = make_mlp((6, 3), 1)
    assert advise_lr(sgd(model), model, X, CLASSES, steps=3).lr == second
    assert sorted({*tried}, reverse=True) == [4.0, second]


def test_no_rate_holds_where_the_loss_jumps_whatever_is_done(monkeypatch):
    monkeypatch.setattr("zo_triton.nzk.trial.MARGIN", 1.0)
    model = make_mlp((6, 1), 1)
    opt = sgd(model)
    found = iter(range(1, 10**6))
    opt.step = lambda closure: float(next(found))
    monkeypatch.setattr("zo_triton.nzk.advice.deepcopy", lambda pair: pair)
    with pytest.raises(ValueError, match=r"no learning rate from .* held; look whether the loss falls"):
        advise_lr(opt, model, X, Y, "mse", steps=2)
