"""Experiments from their settings to their records, in small."""

import numpy as np
import pytest
import torch

from benchmarks.nzk import network
from benchmarks.nzk.problems import linearise, make_problem, sphere
from benchmarks.nzk.run import choose_settings, run_experiment
from benchmarks.nzk.settings import EXPERIMENTS, Noise
from benchmarks.nzk.walks import function_walk, parameter_walk
from benchmarks.report.records import dumps


class Heard:
    def __init__(self):
        self.messages, self.done, self.plan, self.entered = [], [], {}, []

    def say(self, message):
        self.messages.append(message)

    def expect(self, plan):
        self.plan = dict(plan)

    def enter(self, part):
        self.entered.append(part)

    def progress(self, done, total):
        self.done.append(done / total)


@pytest.fixture
def no_data(monkeypatch, tmp_path):
    monkeypatch.setenv("ZO_TRITON_DATA", str(tmp_path))


def test_the_papers_settings_are_the_defaults():
    assert set(EXPERIMENTS) == {
        "linear", "distributions", "variances", "network", "mnist", "cifar", "tiny-imagenet",
    }  # fmt: skip
    for settings in EXPERIMENTS.values():
        assert (settings.steps, settings.lr, settings.draws) == (16_000, 1e-3, 10_000)
        assert (settings.network_directions, settings.eps) == (100, 1e-3)
    assert [case.inputs for case in EXPERIMENTS["linear"].cases] == [2, 50]


@pytest.mark.parametrize(
    ("name", "changes", "message"),
    [
        ("minst", {}, "unknown experiment 'minst'; choose one of \\('linear'"),
        ("linear", {"steps": 0}, "steps must be from 10 to 10000000, got 0"),
        ("linear", {"draws": 49}, "draws must be from 50 to"),
        ("linear", {"directions": 0}, "directions must be from 1"),
        ("linear", {"lr": 0.0}, "lr must be positive and finite, got 0.0"),
        ("linear", {"lr": float("nan")}, "lr must be positive and finite, got nan"),
        ("linear", {"seed": -1}, "seed must be in \\[0, 2\\*\\*64\\), got -1"),
        ("mnist", {"resize": "cubic"}, "unknown resize 'cubic'; choose bilinear or area"),
    ],
)
def test_bad_settings_are_refused(name, changes, message):
    with pytest.raises(ValueError, match=message):
        choose_settings(name, **changes)


def test_directions_belong_to_the_kernels_or_to_the_real_network():
    assert choose_settings("linear", directions=4).directions == 4
    images = choose_settings("mnist", directions=4)
    assert (images.directions, images.network_directions) == (1, 4)


def test_the_sphere_is_the_papers():
    points, targets, note = sphere(50, 100, 0.05, seed=0)
    assert points.shape == (100, 50)
    assert (points >= 0).all()
    assert np.linalg.norm(points, axis=1) == pytest.approx(np.ones(100))
    teacher, residual, *_ = np.linalg.lstsq(points, targets, rcond=None)
    assert np.abs(teacher - np.round(teacher)).max() < 0.5
    assert set(np.round(teacher)) <= set(range(1, 10))
    # 50 residual degrees of freedom: the deviation is within 4 standard errors, 4·σ/√(2·50).
    assert np.sqrt(residual[0] / 50) == pytest.approx(0.05, abs=0.02)
    assert "deviation 0.05" in note


def test_the_linearised_network_is_its_finite_difference(no_data):
    problem = make_problem(EXPERIMENTS["network"].cases[0], EXPERIMENTS["network"])
    features, outputs = linearise(problem.model, problem.pair.x)
    assert features.shape == (100, 2 * 5 + 5 + 5 * 5 + 5 + 5 + 1)
    generator = torch.Generator().manual_seed(0)
    x = torch.from_numpy(problem.pair.x).double()
    step = [1e-6 * torch.randn(p.shape, generator=generator).double() for p in problem.model.parameters()]
    model = problem.model.double()
    with torch.no_grad():
        for parameter, change in zip(model.parameters(), step, strict=True):
            parameter += change
        moved = model(x)[:, 0].numpy() - outputs
    predicted = features @ torch.cat([change.flatten() for change in step]).numpy()
    assert moved == pytest.approx(predicted, rel=1e-4, abs=1e-10)


def test_images_have_711_parameters(no_data):
    problem = make_problem(EXPERIMENTS["mnist"].cases[0], EXPERIMENTS["mnist"])
    assert (problem.size, problem.samples) == (711, 200)
    assert "digits 3 v 5 instead of classes 3 v 5" in problem.warning


@pytest.mark.parametrize(
    ("noise", "count"),
    [(Noise("normal(0.5)", "normal", 0.5), 1), (Noise("Laplace(0.605)", "laplace", 0.605), 3)],
)
def test_the_fused_walk_is_the_function_walk(noise, count):
    settings = choose_settings("linear", tiny=True)
    problem = make_problem(settings.cases[1], settings)
    record = [0, 1, 30, 100]
    function = function_walk(problem, noise, "shared", count, 5e-3, record, 7, lambda step: None)
    fused = parameter_walk(problem, noise, count, 5e-3, record, 7, torch.device("cpu"), lambda step: None)
    error = np.linalg.norm(fused - function, axis=1) / np.linalg.norm(function - problem.targets, axis=1)
    assert error.max() < 1e-5
    # They have gone somewhere.
    assert np.linalg.norm(function[-1] - function[0]) > 0.1 * np.linalg.norm(problem.targets)


def test_a_tiny_experiment_is_reproducible_and_complete():
    settings = choose_settings("linear", tiny=True, seed=5)
    heard = Heard()
    sections = [run_experiment(settings, heard)["sections"]["nzk"] for _ in range(2)]
    assert sections[0] == sections[1]
    assert [case["name"] for case in sections[0]["cases"]] == ["d = 2", "d = 50"]
    case = sections[0]["cases"][0]
    assert set(case["curves"]) == {"first", "independent", "shared", "fused"}
    assert all(len(curve) == len(case["steps"]) for curve in case["curves"].values())
    assert case["agreement"]["worst"] < 1e-5
    assert all(abs(row["z"]) < 5 for row in case["factors"])
    assert max(heard.done) <= 1
    assert heard.entered == 2 * list(heard.plan)


def test_student_t_has_no_fused_run():
    settings = choose_settings("distributions", tiny=True)
    heard = Heard()
    cases = run_experiment(settings, heard)["sections"]["nzk"]["cases"]
    assert heard.entered == list(heard.plan)
    with_fused = [case["name"] for case in cases if "fused" in case["curves"]]
    assert with_fused == ["normal(1)", "Laplace(0.5)", "Laplace(0.605)"]


def test_a_missing_data_set_and_an_unstable_rate_are_said_before_the_run(no_data, tmp_path):
    heard = Heard()
    target = tmp_path / "data.mat"
    record = run_experiment(choose_settings("cifar", tiny=True), heard, export=str(target))
    section = record["sections"]["nzk"]
    first, second = heard.messages[:2]
    assert "these are scikit-learn's digits 3 v 5 instead of classes 2 v 9" in first
    assert "lr 0.001 is beyond the stable limit" in second
    assert "one shared vector" in second
    assert section["notes"] == [message.removeprefix("note: ") for message in (first, second)]
    assert [run["aggregator"] for run in section["network"]["runs"]] == ["average", "best"]
    assert all(abs(run["worst"]) < 0.05 for run in section["network"]["runs"])
    assert target.is_file()
    assert heard.entered == list(heard.plan)
    # The mean loss overflows within these steps or not; either way JSON can hold the record.
    dumps(record)


def test_an_unknown_engine_is_refused_before_anything_runs():
    heard = Heard()
    with pytest.raises(ValueError, match="unknown engine 'abacus'"):
        run_experiment(choose_settings("linear", tiny=True), heard, engine="abacus")
    assert heard.messages == heard.entered == []


def test_a_process_of_its_own_changes_nothing(monkeypatch, no_data):
    settings = choose_settings("network", tiny=True)
    problem = make_problem(settings.cases[0], settings)
    run = network.NetworkRun(
        0, problem.model, problem.pair.x, problem.targets.astype(np.float32), "best",
        1e-3, 40, 4, 1e-3, 0, None, "cpu",
    )  # fmt: skip
    with network.background([run]) as wait:
        (inline,) = wait(lambda step: None)
    monkeypatch.setattr(network, "WORTH_A_PROCESS", 1)
    with network.background([run]) as wait:
        (apart,) = wait(lambda step: None)
    assert apart == pytest.approx(inline, rel=1e-6)
    assert len(inline) == 41


def test_a_diverging_network_ends_early(no_data):
    settings = choose_settings("network", tiny=True)
    problem = make_problem(settings.cases[0], settings)
    run = network.NetworkRun(
        0, problem.model, problem.pair.x, problem.targets.astype(np.float32), "average",
        1e6, 50, 4, 1e-3, 0, None, "cpu",
    )  # fmt: skip
    losses = network.train_network(run)
    assert 1 <= len(losses) < 50
    assert np.isfinite(losses).all()
