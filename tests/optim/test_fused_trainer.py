"""The compiled step against the general one, which is tested against autograd."""

import copy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton.ops import engines


def mlp(*sizes, seed=0):
    generator = torch.Generator().manual_seed(seed)
    layers = []
    for inner, outer in pairwise(sizes):
        layers += [nn.Linear(inner, outer), nn.ReLU()]
    model = nn.Sequential(*layers[:-1])
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) / param.shape[-1] ** 0.5)
    return model


def batch(samples, features, classes, seed=0, loss=F.cross_entropy):
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(samples, features, generator=generator)
    if loss is F.mse_loss:
        return x, torch.randn(samples, classes, generator=generator)
    return x, torch.randint(classes, (samples,), generator=generator)


OPTIMIZERS = {
    "adam": lambda params: torch.optim.Adam(params, lr=1e-2),
    "adam-with-decay": lambda params: torch.optim.Adam(params, lr=1e-2, betas=(0.8, 0.9), weight_decay=0.1),
    "sgd": lambda params: torch.optim.SGD(params, lr=0.1),
    "momentum": lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, weight_decay=0.01),
}
# Widths and samples: one of everything, a tail of a word and of a run, past a block of samples and three layers.
SHAPES = {
    "logistic": ((5, 3), 1),
    "digits": ((64, 32, 10), 37),
    "deep": ((33, 65, 7, 4), 131),
    "one-output": ((64, 10, 5, 1), 64),
}


@pytest.mark.parametrize("loss", [F.cross_entropy, F.mse_loss])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_compiled_step_is_the_general_step(name, shape, loss):
    sizes, samples = shape
    ends = []
    for fused in (True, False):
        model = mlp(*sizes)
        trainer = zo.FusedTrainer(
            model, OPTIMIZERS[name](model.parameters()), directions=9, eps=1e-3, seed=7, sides=2, fused=fused,
            loss=loss,
        )  # fmt: skip
        assert trainer.is_fused is fused
        losses = [trainer.step(*batch(samples, sizes[0], sizes[-1], seed, loss)) for seed in range(3)]
        ends.append((losses, [param.detach() for param in model.parameters()], trainer.optimizer))
    torch.testing.assert_close(ends[0][0], ends[1][0], rtol=1e-4, atol=1e-5)
    # Adam divides by the estimate's own size: rounding of a coordinate near zero moves it by a share of lr.
    for ours, theirs in zip(ends[0][1], ends[1][1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=2e-4)
    states = [optimizer.state_dict()["state"] for *_, optimizer in ends]
    assert [set(state) for state in states[0].values()] == [set(state) for state in states[1].values()]


def test_reloaded_optimizer_goes_on_bit_for_bit():
    model = mlp(20, 9, 4)
    trainer = zo.FusedTrainer(model, torch.optim.Adam(model.parameters(), lr=0.02), directions=8)
    for seed in range(3):
        trainer.step(*batch(16, 20, 4, seed))
    second = copy.deepcopy(model)
    adam = torch.optim.Adam(second.parameters(), lr=0.5)
    adam.load_state_dict(copy.deepcopy(trainer.optimizer.state_dict()))
    resumed = zo.FusedTrainer(second, adam, directions=8)
    resumed.steps_done = trainer.steps_done
    for seed in range(3, 6):
        assert trainer.step(*batch(16, 20, 4, seed)) == resumed.step(*batch(16, 20, 4, seed))
    for ours, theirs in zip(model.parameters(), second.parameters(), strict=True):
        assert torch.equal(ours, theirs)


@pytest.mark.parametrize(
    ("spoil", "error", "message"),
    [
        (lambda state: state.pop("plan"), ValueError, "the state dict has no plan: it is not a trainer's"),
        (lambda state: state.update(steps_done=-3), ValueError, r"step must be in \[0, 2\*\*32\), got -3"),
        (lambda state: state.update(steps_done="4"), TypeError, "step must be an int, got '4'"),
    ],
    ids=["plan", "negative", "string"],
)
def test_a_state_that_is_none_changes_nothing(spoil, error, message):
    model = mlp(6, 5, 4)
    trainer = zo.FusedTrainer(model, torch.optim.Adam(model.parameters(), lr=0.02), directions=8)
    trainer.step(*batch(8, 6, 4))
    state = copy.deepcopy(trainer.state_dict())
    trainer.step(*batch(8, 6, 4))
    before, last = str(trainer.state_dict()), trainer.last
    spoil(state)
    with pytest.raises(error, match=message):
        trainer.load_state_dict(state)
    assert str(trainer.state_dict()) == before
    assert trainer.last is last


def test_learns_and_obeys_a_scheduler():
    model = mlp(10, 16, 3)
    adam = torch.optim.Adam(model.parameters(), lr=0.02)
    scheduler = torch.optim.lr_scheduler.StepLR(adam, 60, gamma=0.0)
    trainer = zo.FusedTrainer(model, adam, directions=64)
    x, y = batch(64, 10, 3)
    losses = []
    for _ in range(70):
        losses.append(trainer.step(x, y))
        scheduler.step()
    assert losses[60] < 0.6 * losses[0]
    assert losses[61] == losses[-1]


@pytest.mark.parametrize(
    "change",
    [
        lambda model: model.append(nn.Softplus()),
        lambda model: model[0].register_forward_hook(lambda *_: None),
        lambda model: model[0].bias.requires_grad_(False),
        lambda model: model.double(),
        lambda model: model.__setitem__(1, nn.Tanh()),
    ],
    ids=["other-tail", "hook", "frozen", "float64", "tanh"],
)
def test_anything_else_takes_the_general_way(change):
    model = mlp(6, 5, 4)
    change(model)
    params = [param for param in model.parameters() if param.requires_grad]
    trainer = zo.FusedTrainer(model, torch.optim.SGD(params, lr=0.1), directions=4)
    assert not trainer.is_fused
    x, y = batch(8, 6, 4)
    x = x.to(params[0].dtype)
    before = F.cross_entropy(model(x), y).item()
    assert trainer.step(x, y) == pytest.approx(before)


@pytest.mark.parametrize(
    "make",
    [
        lambda params: torch.optim.Adam(params, amsgrad=True),
        lambda params: torch.optim.AdamW(params),
        lambda params: torch.optim.SGD(params, lr=0.1, momentum=0.9, nesterov=True),
        lambda params: torch.optim.Adam(params, lr=torch.tensor(0.1)),
    ],
    ids=["amsgrad", "adamw", "nesterov", "tensor-lr"],
)
def test_other_rules_are_left_to_torch(make):
    model = mlp(6, 5, 4)
    trainer = zo.FusedTrainer(model, make(model.parameters()), directions=4)
    assert not trainer.is_fused
    before = [param.clone() for param in model.parameters()]
    trainer.step(*batch(8, 6, 4))
    assert any(not torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def test_a_layer_whose_memory_was_dropped_counts_anew():
    """Adam corrects each parameter's moments by its own count of steps; the compiled update has one for all."""
    ends = []
    for fused in (True, False):
        model = mlp(6, 5, 4)
        adam = torch.optim.Adam(model.parameters(), lr=0.02)
        trainer = zo.FusedTrainer(model, adam, directions=16, eps=1e-3, fused=fused)
        for seed in range(4):
            trainer.step(*batch(8, 6, 4, seed))
        assert trainer.is_fused is fused
        for param in model[2].parameters():
            del adam.state[param]
        assert trainer.why_general() == (
            "the optimizer has counted from 0 to 4 steps of the parameters" if fused else "fused is False"
        )
        for seed in range(4, 6):
            trainer.step(*batch(8, 6, 4, seed))
        ends.append([param.detach() for param in model.parameters()])
        assert [float(adam.state[param]["step"]) for param in model.parameters()] == [6, 6, 2, 2]
    torch.testing.assert_close(*ends, rtol=1e-3, atol=1e-4)


def test_another_engine_is_obeyed():
    model = mlp(6, 5, 4)
    trainer = zo.FusedTrainer(model, torch.optim.SGD(model.parameters(), lr=0.1), directions=4)
    assert trainer.is_fused
    with zo.use_engine("reference"):
        assert not trainer.is_fused
        trainer.step(*batch(8, 6, 4))


BAD_BATCHES = {
    "features": (lambda x, y: (x[:, :-1], y), ValueError, r"x must be a batch \[N, 6\]"),
    "empty": (lambda x, y: (x[:0], y[:0]), ValueError, "at least one example"),
    "lengths": (lambda x, y: (x, y[:-1]), ValueError, r"y must be \[8\]"),
    "float-labels": (lambda x, y: (x, y.float()), TypeError, "int64"),
    "label-too-large": (lambda x, y: (x, y + 4), ValueError, r"labels must be in \[0, 4\)"),
    "negative-label": (lambda x, y: (x, y - 9), ValueError, "labels must be in"),
    "nan": (lambda x, y: (x * float("nan"), y), zo.NonFiniteLossError, "the loss is nan"),
}
BAD_TARGETS = {
    "broadcast": (
        lambda x, y: (x, y[:, :1]),
        ValueError,
        r"y must be \[8, 4\] like the outputs, got \(8, 1\)",
    ),
    "labels": (lambda x, y: (x, y[:, 0].long()), ValueError, r"y must be \[8, 4\]"),
    "float64": (lambda x, y: (x, y.double()), TypeError, "float32"),
    "infinite": (lambda x, y: (x, y / 0), ValueError, "the loss is inf"),
}
BAD = [(F.cross_entropy, *case) for case in BAD_BATCHES.values()]
BAD += [(F.mse_loss, *case) for case in BAD_TARGETS.values()]


@pytest.mark.parametrize("case", BAD, ids=[*BAD_BATCHES, *BAD_TARGETS])
def test_bad_batches_change_nothing(case):
    loss, spoil, error, message = case
    model = mlp(6, 5, 4)
    trainer = zo.FusedTrainer(model, torch.optim.Adam(model.parameters()), directions=4, loss=loss)
    before = [param.clone() for param in model.parameters()]
    with pytest.raises(error, match=message):
        trainer.step(*spoil(*batch(8, 6, 4, loss=loss)))
    assert trainer.steps_done == 0
    assert not trainer.optimizer.state
    assert all(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))


def shares_of_classes(x, y):
    return x, torch.rand(8, 4, generator=torch.Generator().manual_seed(5)).softmax(1)


def sequences(x, y):
    return x.view(2, 4, 6), y.view(2, 4, 4)


@pytest.mark.parametrize("perturb", ["weights", "activations"])
@pytest.mark.parametrize(("loss", "change"), [(F.cross_entropy, shares_of_classes), (F.mse_loss, sequences)])
def test_batches_that_compiled_calls_do_not_know_take_the_general_way(perturb, loss, change):
    ends = []
    for fused in (True, False):
        model = mlp(6, 5, 4)
        sgd = torch.optim.SGD(model.parameters(), lr=0.1)
        trainer = zo.FusedTrainer(model, sgd, directions=8, loss=loss, perturb=perturb, fused=fused)
        ends.append([trainer.step(*change(*batch(8, 6, 4, loss=loss))), *model.parameters()])
    assert trainer.steps_done == 1
    assert all(torch.equal(torch.as_tensor(a), torch.as_tensor(b)) for a, b in zip(*ends, strict=True))


def test_optimizer_of_another_model_is_refused():
    model, other = mlp(6, 5, 4), mlp(6, 5, 4)
    with pytest.raises(ValueError, match="not the model's 4 trained parameters"):
        zo.FusedTrainer(model, torch.optim.SGD(other.parameters(), lr=0.1))


@pytest.mark.parametrize(("name", "value"), [("eps", 0.0), ("directions", 0), ("sides", 3), ("seed", -1)])
def test_settings_out_of_range(name, value):
    model = mlp(6, 5, 4)
    with pytest.raises(ValueError, match=name.rstrip("s") if name == "directions" else name):
        zo.FusedTrainer(model, torch.optim.SGD(model.parameters(), lr=0.1), **{name: value})


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_low_precision_parameters_lose_small_updates_and_it_says_so(dtype):
    model = mlp(4, 3).to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.warns(RuntimeWarning, match=rf"in {dtype}, .*no master copy.*train with zo.ZOSGD"):
        zo.FusedTrainer(model, optimizer)


@pytest.mark.parametrize("elements", [1, 1 << 20])
def test_a_large_model_s_optimizer_has_all_of_torch_s_threads(elements, monkeypatch):
    calls = []

    def run(function, /, *args, **kwargs):
        calls.append(getattr(function, "__name__", ""))
        return function(*args, **kwargs)

    monkeypatch.setattr(engines, "LARGE", elements)
    monkeypatch.setattr(engines, "wider", lambda device: run)
    model = mlp(5, 3)
    before = copy.deepcopy(model.state_dict())
    trainer = zo.FusedTrainer(model, torch.optim.RMSprop(model.parameters()), directions=4)
    trainer.step(*batch(6, 5, 3))
    assert calls == ["step"] * (elements == 1)
    assert all(not torch.equal(value, before[name]) for name, value in model.state_dict().items())
