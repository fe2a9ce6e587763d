import numpy as np
import pytest
import torch
from torch import nn

import zo_triton as zo
from zo_triton import ops
from zo_triton.nzk import check, evolve
from zo_triton.nzk.gate import check_mean, mean_z_scores
from zo_triton.nzk.step_check import StepCheck
from zo_triton.nzk.walk import walk_step

KINDS = [("update", "shared"), ("nzk", "shared"), ("nzk", "independent")]
KIND_IDS = ["-".join(kind) for kind in KINDS]


@pytest.fixture(autouse=True)
def small_tensors(one_thread):
    """The tensors here are small enough for one thread."""


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
@pytest.mark.parametrize(("num", "distribution"), [(1, "gaussian"), (8, "rademacher")])
def test_1000_steps_on_the_cpu_engine(kernel, coupling, num, distribution):
    found = check(1000, num, kernel, coupling, distribution)
    assert found.passed
    assert found.worst == found.errors.max() <= 1e-5
    assert found.errors.shape == found.losses.shape == (1001,)
    # The run went somewhere: no error is small because nothing moved.
    assert found.losses[-1] < 0.5 * found.losses[0]


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
@pytest.mark.parametrize("num", [1, 8])
def test_a_few_steps_on_interpreted_triton(kernel, coupling, num):
    device = "cuda" if torch.cuda.is_available() else "cpu"
    with zo.use_engine("triton"):
        found = check(2, num, kernel, coupling, "rademacher", device=device, seed=1)
    assert found.passed
    assert abs(found.losses[-1] / found.losses[0] - 1) > 1e-3


def test_the_reference_engine_passes_too():
    with zo.use_engine("reference"):
        assert check(3, 2, "nzk", "independent", "gaussian").passed


def test_a_wrong_kernel_turns_the_gate_red(monkeypatch):
    gram, accumulate = ops.gram, ops.accumulate
    monkeypatch.setattr(ops, "gram", lambda *a: gram(*a) * 1.0001)
    found = check(20, 2, "nzk")
    assert not found.passed
    assert "FAILED: 20 steps" in str(found)
    monkeypatch.setattr(ops, "gram", gram)

    # One direction of the eight is walked backwards.
    def flipped(tensors, ids, coefficients, directions, dtype):
        accumulate(tensors, ids, coefficients * torch.tensor([-1.0] + [1.0] * 7), directions, dtype)

    monkeypatch.setattr(ops, "accumulate", flipped)
    assert check(2).worst > 1e-2


def test_bfloat16_is_within_its_own_tolerance():
    found = check(50, compute_dtype=torch.bfloat16, tolerance=0.02)
    assert found.passed
    assert found.worst > 1e-5


def test_a_result_tells_its_story():
    found = check(20, lr=0.01)
    assert found.lr == 0.01
    rows = found.table()
    assert [row["step"] for row in rows] == [0, 1, 10, 20]
    assert rows[2] == {"step": 10, "loss": found.losses[10], "error": found.errors[10]}
    assert found.table([5])[0]["error"] == found.errors[5]
    assert str(found).startswith("passed: 20 steps, worst relative error")


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
def test_mean_of_200_runs_through_the_kernels(kernel, coupling):
    found = check_mean(200, (1, 3, 10), kernel=kernel, coupling=coupling)
    assert found.passed
    assert found.worst == max(np.abs(found.z).max(), np.abs(found.loss_z).max()) < 4
    assert found.z.shape == (3, 48)
    assert 0.3 < found.z.std() < 2


def test_a_mean_that_is_off_is_noticed(monkeypatch):
    monkeypatch.setattr(
        "zo_triton.nzk.gate.evolve", lambda f0, y, kernel, lr, steps: evolve(f0, y, kernel, 1.5 * lr, steps)
    )
    found = check_mean(200, (1, 10), num_directions=4)
    assert not found.passed
    assert np.abs(found.loss_z).max() < 4 < np.abs(found.z).max()


def test_z_scores_by_hand():
    runs = np.array([[[1.0, 5.0], [3.0, 5.0]]])
    np.testing.assert_allclose(mean_z_scores(runs, [[1.0, 5.0]]), [[1.0, 0.0]], atol=1e-9)
    assert mean_z_scores(runs, [[2.0, 6.0]])[0, 1] < -1e6


def network(activation: nn.Module) -> tuple[nn.Module, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(8)
    model = nn.Sequential(nn.Linear(4, 6), activation, nn.Linear(6, 2))
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(0.5 * torch.randn(param.shape, generator=generator))
    return model, torch.randn(9, 4, generator=generator), torch.randint(2, (9,), generator=generator)


@pytest.mark.parametrize("activation", [nn.Tanh(), nn.ReLU()], ids=["tanh", "relu"])
def test_any_step_of_any_model(activation):
    """Cross-entropy, ZOSGD: what the kernels did is the prediction; the rest is the model's curvature."""
    model, x, labels = network(activation)

    def loss(logits: torch.Tensor) -> torch.Tensor:
        return nn.functional.cross_entropy(logits, labels)

    optimizer = zo.ZOSGD(model.parameters(), lr=0.01, directions=8, eps=1e-4, sides=2, seed=1)
    probe = StepCheck(model, x, loss)
    for _ in range(3):
        probe.before(optimizer.next_directions(), 0.01)
        optimizer.step(lambda: loss(model(x)))
        found = probe.after()
        assert found.kernels < 1e-4
        assert found.rounding < 1e-4
        assert found.error <= found.kernels + found.curvature + 1e-12
    assert found.curvature > 1e-4


@pytest.mark.parametrize(("kernel", "coupling"), KINDS, ids=KIND_IDS)
def test_a_step_of_either_kernel_on_a_linear_model(kernel, coupling):
    model, x, y = nn.Linear(3, 1), torch.linspace(-1, 1, 15).view(5, 3), torch.ones(5, 1)
    with torch.no_grad():
        model.weight.fill_(0.5)
        model.bias.fill_(-1.0)

    def loss(f: torch.Tensor) -> torch.Tensor:
        return 0.5 * (f - y).square().mean()

    probe = StepCheck(model, x, loss)
    directions = zo.Directions(0, 0, 4)
    predicted = probe.before(directions, 0.1, kernel, coupling)
    assert predicted.shape == (5,)
    walk_step(lambda: loss(model(x)), model.parameters(), directions, 0.1, 1e-3, kernel, coupling)
    found = probe.after()
    assert found.error < 2e-6
    assert found.curvature < 1e-12


def test_a_wrong_learning_rate_is_noticed():
    model, x, labels = network(nn.Tanh())
    loss = lambda f: nn.functional.cross_entropy(f, labels)  # noqa: E731
    optimizer = zo.ZOSGD(model.parameters(), lr=0.011, directions=8, sides=2)
    probe = StepCheck(model, x, loss)
    probe.before(optimizer.next_directions(), 0.01)
    optimizer.step(lambda: loss(model(x)))
    assert probe.after().kernels == pytest.approx(0.1, abs=1e-3)


def test_frozen_parameters_are_no_tensors_of_the_field():
    model, x, labels = network(nn.Tanh())
    model[0].weight.requires_grad_(False)
    loss = lambda f: nn.functional.cross_entropy(f, labels)  # noqa: E731
    trained = [param for param in model.parameters() if param.requires_grad]
    optimizer = zo.ZOSGD(trained, lr=0.01, directions=4, sides=2)
    probe = StepCheck(model, x, loss)
    probe.before(optimizer.next_directions(), 0.01)
    optimizer.step(lambda: loss(model(x)))
    assert probe.after().kernels < 1e-4


def test_bad_input_is_refused():
    model, x, labels = network(nn.Tanh())
    directions = zo.Directions(0, 0, 2)
    probe = StepCheck(model, x, lambda f: nn.functional.cross_entropy(f, labels))
    flat = StepCheck(model, x, lambda f: f.mean() * 0)
    cases = [
        ("call before", probe.after),
        ("lr must be positive and finite, got -1", lambda: probe.before(directions, -1)),
        ("unknown kernel 'ntk'", lambda: probe.before(directions, 0.1, "ntk")),
        ("loss must return a scalar", lambda: StepCheck(model, x, lambda f: f).before(directions, 0.1)),
        ("predicted change is zero", lambda: (flat.before(directions, 0.1), flat.after())),
        ("steps must be at least 1, got 0", lambda: check(0)),
        ("tolerance must be positive, got 0", lambda: check(1, tolerance=0)),
        ("unknown distribution", lambda: check(1, distribution="cauchy")),
        ("lr must be positive", lambda: check(1, lr=-1.0)),
        ("runs must be at least 2, got 1", lambda: check_mean(1)),
        ("record must ascend from 1", lambda: check_mean(2, (0, 3))),
        ("record must ascend from 1", lambda: check_mean(2, (3, 3))),
        (r"f must be \[1, runs, 2\]", lambda: mean_z_scores(np.ones((1, 1, 2)), [[1.0, 1.0]])),
    ]  # fmt: skip
    for match, call in cases:
        with pytest.raises(ValueError, match=match):
            call()
