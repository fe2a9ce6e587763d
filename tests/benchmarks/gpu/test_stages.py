"""The stages' parts on the CPU: what is laid down, what is judged, and that methods train alike recorded or not."""

import json

import pytest
import torch
import torch.nn.functional as F

import zo_triton as zo
from benchmarks.contenders import cuda_graphs as contenders
from benchmarks.contenders.contender import LeftOutError, Setting, make_mlp
from benchmarks.gpu import ceilings, checks, goals, races, settings
from benchmarks.gpu.results import StageContext, StageResults
from benchmarks.gpu.trial import Check, relative_error
from benchmarks.race.tasks import LoadedTask
from benchmarks.timing import Clock
from zo_triton.data import digits
from zo_triton.ops.registry import SCHEMAS

CPU = torch.device("cpu")


def place(has_bfloat16=True):
    return StageContext(CPU, True, 3, has_bfloat16)


@pytest.fixture
def results(tmp_path):
    return StageResults(tmp_path / "findings.json", place(), 60.0)


def written(results):
    return json.loads(results.file.read_text())


def test_findings_are_on_disk_as_soon_as_they_are_known(results):
    results.put("gate", {"rows": [1]})
    assert written(results) == {"sections": {"gate": {"rows": [1]}}, "incidents": []}
    assert results.attempt("a thing", lambda: 1 / 0) is None
    assert written(results)["incidents"] == [
        {"what": "a thing", "status": "failed", "message": "ZeroDivisionError: division by zero"}
    ]


@pytest.mark.parametrize(
    ("error", "status", "message"),
    [
        (LeftOutError("no graphs."), "left out", "no graphs."),
        (ModuleNotFoundError("No module", name="scipy"), "left out", "scipy is not installed."),
        (
            RuntimeError("CUDA error:\n  illegal address"),
            "failed",
            "RuntimeError: CUDA error: illegal address",
        ),
    ],
)
def test_an_error_is_an_incident_of_one_line(error, status, message, results):
    def measure():
        raise error

    assert results.attempt("a thing", measure) is None
    assert results.incidents == [{"what": "a thing", "status": status, "message": message}]


def test_nothing_new_is_begun_when_the_time_is_up(tmp_path):
    late = StageResults(tmp_path / "findings.json", place(), -1.0)
    assert late.attempt("a thing", lambda: pytest.fail("it ran")) is None
    assert late.incidents[0]["status"] == "failed"
    assert "time was used up" in late.incidents[0]["message"]


@pytest.mark.parametrize(("error", "status"), [(0.5, "passed"), (2.0, "failed"), (float("nan"), "failed")])
def test_a_wrong_result_fails_its_check(error, status, results, monkeypatch):
    monkeypatch.setattr(
        checks, "CHECKS", (Check("gram", "signs", torch.float32, lambda trial: (error, 1.0)),)
    )
    monkeypatch.setattr(checks, "_walk", lambda results: None)
    checks.run_checks(results)
    assert [row["status"] for row in results.sections["gpu_checks"]["rows"]] == [status]
    assert [one["what"] for one in results.incidents] == (["gram: signs"] if status == "failed" else [])


def test_every_op_has_a_check():
    assert {check.op for check in checks.CHECKS} >= set(SCHEMAS)


def test_memory_that_was_never_written_is_an_infinite_error():
    found = torch.tensor([1.0, torch.nan])
    assert relative_error(found, torch.ones(2).double()) == float("inf")


def test_a_chip_without_bfloat16_measures_the_rest(tmp_path):
    results = StageResults(tmp_path / "findings.json", place(has_bfloat16=False), 60.0)
    ceilings.run_ceilings(results)
    values = {row["name"]: row["value"] for row in results.sections["gpu_ceilings"]["rows"]}
    assert values["bf16 product"] is None
    assert values["copy"] > 0
    assert values["tf32 product"] > 0
    assert [one["status"] for one in results.incidents] == ["left out"]
    assert "no bfloat16 of its own; float32 works" in results.incidents[0]["message"]
    assert results.context.dtype == torch.float32


def test_a_recording_is_so_many_calls():
    calls = []
    Clock(CPU).recorded(lambda: calls.append(1), 5)()
    assert len(calls) == 5
    assert len(Clock(CPU).times(lambda: calls.append(1), 1.0)) == 1


def measured(share=0.45, accumulate=70.0, failed=(), reached=1.0):
    """Sections that reach every goal, unless told otherwise."""
    layers = ("middle layer, one-sided", "first layer, one-sided", "middle layer, central pairs")
    ops = ("perturbed_linear", "accumulate", "CapturedStep", "mlp_differences")
    kernel = {"op": "accumulate", "case": "signs, K = 8", "ms": 1.0, "tflops": None, "gbytes": accumulate}

    def method(name, family, seconds):
        taken = None if seconds is None else {"seconds": seconds, "steps": 1, "evaluations": 1}
        return {"name": name, "family": family, "runs": [{"reached": {"0.97": taken}}]}

    return {
        "gpu_checks": {"rows": [{"op": op, "status": "failed" if op in failed else "passed"} for op in ops]},
        "gpu_ceilings": {"rows": [{"name": "copy", "value": 100.0}]},
        "gpu_kernels": {"rows": [{**kernel, "ceiling": "copy"}]},
        "gpu_layers": {"rows": [{"name": name, "share": 2 * share} for name in layers]},
        "step_time": {
            "cases": [{"contenders": [{"name": "zo-graph", "median_ms": 1.0}, {"name": "mezo", "median_ms": 25.0}]}]
        },
        "race_mnist": {"methods": [method("zo-graph", "fused", reached), method("adam", "first", 2.0)]},
    }  # fmt: skip


def verdicts(sections, tiny=False):
    goals.relate(sections)
    return {row["name"]: row["verdict"] for row in goals.judge(sections, tiny)["rows"]}


def test_goals_that_are_reached_are_met():
    assert set(verdicts(measured()).values()) == {"met"}


def test_a_goal_that_is_missed_is_missed_in_plain_words():
    sections = measured(share=0.195, accumulate=59.0, reached=2.1)
    found = verdicts(sections)
    assert found["middle-one-sided"] == found["accumulate"] == found["race-mnist"] == "missed"
    assert found["step-mezo"] == "met"
    row = goals.judge(sections, False)["rows"][0]
    assert goals.line(row).endswith("one-sided: goal at least 0.42, measured 0.39: missed")


def test_a_figure_of_a_wrong_operation_does_not_count():
    found = verdicts(measured(failed=("accumulate",)))
    assert found["accumulate"] == found["step-mezo"] == "not counted: accumulate failed a check"
    assert found["middle-one-sided"] == "met"


def test_unchecked_and_unmeasured_figures_are_called_so():
    sections = measured()
    del sections["gpu_checks"]
    assert verdicts(sections)["accumulate"] == "not counted: accumulate is unchecked"
    assert set(verdicts({}).values()) == {"not measured"}
    assert verdicts(measured(reached=None))["race-mnist"] == "not measured"
    assert set(verdicts(measured(), tiny=True).values()) == {"means nothing"}


@pytest.fixture
def anywhere(monkeypatch):
    """Methods that are recorded on a GPU may be made on the CPU, to be run step by step."""
    monkeypatch.setattr(contenders, "_need_gpu", lambda model: None)


def flat(model):
    return torch.cat([param.detach().flatten() for param in model.parameters()])


def batch():
    generator = torch.Generator().manual_seed(1)
    return torch.randn(8, 12, generator=generator), torch.randint(5, (8,), generator=generator)


def test_graphs_are_left_out_on_the_cpu():
    for build in (
        contenders.RecordedBackprop,
        lambda model, lr, adam: contenders.RecordedZO(model, Setting(lr, 0, 4, 1e-3)),
    ):
        with pytest.raises(LeftOutError, match="CUDA graphs need a GPU"):
            build(make_mlp((12, 9, 5), 0), 0.1, False)


def test_preparing_trains_nothing_and_steps_are_the_optimizers(anywhere):
    x, y = batch()
    model, plain = make_mlp((12, 9, 5), 0), make_mlp((12, 9, 5), 0)
    before = flat(model)
    stepper = contenders.RecordedZO(model, Setting(0.1, 7, 6, 1e-3), momentum=0.9, dtype=torch.float32)
    stepper.prepare(x, y, recorded=False)
    assert torch.equal(flat(model), before)
    optimizer = zo.ZOSGD(plain.parameters(), 0.1, 6, 1e-3, 7, momentum=0.9)
    optimizer.steps_done = contenders.STEPS_TAKEN_BY_RECORDING
    for shift in (0.0, 1.0):
        stepper.step(x + shift, y)
        optimizer.step(lambda shift=shift: F.cross_entropy(plain(x + shift), y))
    assert torch.equal(flat(model), flat(plain))
    assert not torch.equal(flat(model), before)


def test_a_recorded_update_is_backpropagations(anywhere):
    x, y = batch()
    model, plain = make_mlp((12, 9, 5), 0), make_mlp((12, 9, 5), 0)
    stepper = contenders.RecordedBackprop(model, Setting(0.1), adam=False)
    stepper.prepare(x, y, recorded=False)
    eager = contenders.Backprop(plain, Setting(0.1), adam=False)
    for shift in (0.0, 1.0):
        stepper.step(x + shift, y)
        eager.step(x + shift, y)
    torch.testing.assert_close(flat(model), flat(plain))


def task():
    sizes = (64, 32, 10)
    return LoadedTask("digits", digits().standardized(), lambda seed: make_mlp(sizes, seed), "a network")


def race_once(lr, seconds=0.5):
    one = task()
    method = next(each for each in races.methods(settings.DIGITS, torch.float32, True) if each.name == "adam")
    data = races.OnDevice.of(one.data, CPU)
    return races.run(method, one, data, settings.DIGITS, 0, lr, seconds, place())


def test_a_run_reaches_its_targets_and_stops_a_little_later():
    found = race_once(1e-2, seconds=20.0)
    late = found["reached"]["0.95"]
    assert found["reached"]["0.9"]["steps"] <= late["steps"]
    assert late["evaluations"] == 3 * late["steps"]
    steps, clocks = zip(*((point[0], point[1]) for point in found["curve"]), strict=True)
    assert list(steps) == sorted(set(steps))
    assert list(clocks) == sorted(clocks)
    assert clocks[-1] < 20.0
    assert found["diverged"] is False


def test_a_run_that_diverges_says_so():
    found = race_once(1e30)
    assert found["diverged"] is True
    assert all(point[3] == point[3] for point in found["curve"])
    assert races._trial(found, 1e30)["loss"] is None


def test_every_method_sees_the_same_batches():
    data = races.OnDevice.of(task().data, CPU)
    first, second = (next(data.batches(16, seed=4)) for _ in range(2))
    assert torch.equal(first[0], second[0])
    assert first[0].shape == (16, 64)
    assert not torch.equal(first[0], next(data.batches(16, seed=5))[0])
