"""The stages' parts on the CPU: what is laid down, what is judged, and that methods train alike recorded or not."""

import json
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import zo_triton as zo
from benchmarks.contenders import cuda_graphs as contenders
from benchmarks.contenders.backprop import Backprop
from benchmarks.contenders.contender import NO_GPU, LeftOutError, Setting
from benchmarks.contenders.registry import METHODS
from benchmarks.gpu import ceilings, checks, goals, races, stage
from benchmarks.gpu import results as stage_results
from benchmarks.gpu.results import StageContext, StageResults
from benchmarks.gpu.trial import Check, Trial, relative_error
from benchmarks.race.networks import make_mlp
from benchmarks.race.races import RACES
from benchmarks.timing import Clock
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
    found = {"sections": {"gate": {"rows": [1]}}, "incidents": [], "turns": {}, "deadline": results.deadline}
    assert written(results) == found
    assert StageResults(results.file, place(), 1e9).deadline == results.deadline
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
    assert late.incidents[0]["status"] == "left out"
    assert "time was used up" in late.incidents[0]["message"]


def test_items_are_dealt_out_and_begun_once(tmp_path):
    def process(shard):
        return StageResults(tmp_path / f"{shard}.json", place(), 60.0, shard, 2)

    assert list(process(1).turns("letters", "abcde")) == ["b", "d"]
    turns = process(0).turns("letters", "abcde")
    assert [next(turns), next(turns)] == ["a", "c"]
    # The process dies here: another one finds that "c" was never ended, and runs it no more.
    after = process(0)
    attempted = {one: after.attempt(one, lambda: "run") for one in after.turns("letters", "abcde")}
    assert attempted == {"c": None, "e": "run"}
    assert [(one["what"], one["status"]) for one in after.incidents] == [("c", "failed")]
    assert list(process(0).turns("letters", "abcde")) == []


def test_a_failure_that_spoils_the_device_ends_the_process(results, monkeypatch):
    monkeypatch.setattr(stage_results, "_is_spoiled", lambda device: True)
    seen = []

    def run():
        for one in results.turns("numbers", (1, 0, 2)):
            seen.append(results.attempt(f"1/{one}", lambda one=one: 1 / one))

    with pytest.raises(stage_results.SpoiledError):
        run()
    assert seen == [1.0, None]
    again = StageResults(results.file, place(), 60.0)
    assert list(again.turns("numbers", (1, 0, 2))) == [2]


def test_a_spoiled_process_says_so_by_its_status(monkeypatch, tmp_path):
    def spoiled(results):
        results.put("gate", {"rows": []})
        raise stage_results.SpoiledError

    monkeypatch.setitem(stage.STAGES, "checks", spoiled)
    file = tmp_path / "findings.json"
    arguments = ["checks", "--seconds", "9", "--seed", "3", "--out", str(file), "--tiny"]
    assert stage.main(arguments) == stage.SPOILED
    assert json.loads(file.read_text())["sections"] == {"gate": {"rows": []}}


def test_what_a_check_draws_on_the_host_is_the_references(monkeypatch):
    """On a GPU machine the kernels refuse a CPU's tensors."""
    engines, sample = [], zo.sample
    monkeypatch.setattr(zo, "sample", lambda *a: engines.append(zo.ops.engine_for(CPU)) or sample(*a))
    with zo.use_engine("triton"):
        error, allowed = checks._differences(Trial(CPU, True, 3))
    assert error <= allowed
    assert set(engines) == {"reference"}


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
    assert Clock(CPU).device_seconds(lambda: calls.append(1), 1.0) > 0
    assert len(calls) == 7


def measured(share=0.45, accumulate=70.0, failed=(), reached=1.0):
    """Sections that reach every goal, unless told otherwise."""
    layers = ("middle layer, one-sided", "first layer, one-sided", "middle layer, central pairs")
    ops = ("perturbed_linear", "accumulate", "CapturedStep", "mlp_differences", "node_linear")
    kernel = {"op": "accumulate", "case": "signs, K = 8", "ms": 1.0, "tflops": None, "gbytes": accumulate}
    layer = {"op": "node_linear", "case": "orthogonal signs, bfloat16", "ms": 1.0, "tflops": 85.0}

    def method(name, family, seconds):
        taken = None if seconds is None else {"seconds": seconds, "steps": 1, "evaluations": 1}
        return {"name": name, "family": family, "runs": [{"reached": {"0.97": taken}}]}

    return {
        "gpu_checks": {"rows": [{"op": op, "status": "failed" if op in failed else "passed"} for op in ops]},
        "gpu_ceilings": {"rows": [{"name": "copy", "value": 100.0}, {"name": "bf16 product", "value": 100.0}]},
        "gpu_kernels": {"rows": [{**kernel, "ceiling": "copy"}, {**layer, "ceiling": "bf16 product"}]},
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
    sections = measured(share=0.165, accumulate=59.0, reached=2.1)
    found = verdicts(sections)
    assert found["middle-one-sided"] == found["accumulate"] == found["race-mnist"] == "missed"
    assert found["step-mezo"] == "met"
    row = goals.judge(sections, False)["rows"][0]
    assert goals.line(row).endswith("one-sided: goal at least 0.36, measured 0.33: missed")


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
    eager = Backprop(plain, Setting(0.1), adam=False)
    for shift in (0.0, 1.0):
        stepper.step(x + shift, y)
        eager.step(x + shift, y)
    torch.testing.assert_close(flat(model), flat(plain))


def test_a_recording_takes_steps_of_no_length(anywhere, monkeypatch):
    rates = []
    monkeypatch.setattr(
        zo, "CapturedStep", lambda optimizer, closure: rates.append(optimizer.param_groups[0]["lr"])
    )
    stepper = contenders.RecordedZO(make_mlp((12, 9, 5), 0), Setting(1e6, 0, 4, 1e-3))
    stepper.prepare(*batch())
    assert rates == [0.0]
    assert stepper.optimizer.param_groups[0]["lr"] == 1e6


@pytest.fixture
def no_gpu(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)


def incidents(results):
    return {one["what"]: (one["status"], one["message"]) for one in results.incidents}


def test_a_race_has_rows_of_those_who_can_run_and_names_the_others(results, no_gpu):
    races.run_race(results, "digits-gpu", "race")
    names = [row["name"] for row in written(results)["sections"]["race"]["methods"]]
    assert names == ["zo-adam", "mezo-adam", "adam"]
    graphs = ("fused ZO + momentum, CUDA graph", "backprop + Adam, CUDA graph")
    assert incidents(results) == dict.fromkeys(graphs, ("left out", NO_GPU))


def test_a_method_that_fails_is_a_row_and_an_incident(results, no_gpu, monkeypatch):
    def build(model, setting):
        raise RuntimeError("no such luck\nand more")

    monkeypatch.setitem(METHODS, "adam", replace(METHODS["adam"], build=build))
    races.run_race(results, "digits-gpu", "race")
    rows = {row["name"]: row for row in results.sections["race"]["methods"]}
    assert rows["adam"]["error"] == "RuntimeError: no such luck"
    assert rows["adam"]["runs"] == []
    assert incidents(results)["backprop + Adam"] == ("failed", "RuntimeError: no such luck")


def test_a_race_that_comes_too_late_keeps_what_it_has(results, no_gpu, monkeypatch):
    """The time is up with the first run."""
    put = results.put

    def put_and_expire(name, section):
        put(name, section)
        results.deadline = -1.0

    monkeypatch.setattr(results, "put", put_and_expire)
    races.run_race(results, "digits-gpu", "race")
    rows = written(results)["sections"]["race"]["methods"]
    assert [(row["name"], len(row["runs"])) for row in rows] == [("zo-adam", 1)]
    assert incidents(results)["the rest of the race"][0] == "left out"


def test_a_race_without_our_own_is_no_section(results, no_gpu, monkeypatch):
    def build(model, setting):
        raise RuntimeError("no such luck")

    monkeypatch.setitem(METHODS, "zo-adam", replace(METHODS["zo-adam"], build=build))
    races.run_race(results, "digits-gpu", "race")
    assert results.sections == {}


def test_a_race_without_its_data_is_left_out(results, tmp_path, monkeypatch):
    monkeypatch.setenv("ZO_TRITON_DATA", str(tmp_path))
    races.run_race(results, "mnist-gpu", "race_mnist")
    status, message = incidents(results)["data"]
    assert status == "left out"
    assert "mnist is not in" in message
    assert {RACES[name].on_device for name in ("digits-gpu", "mnist-gpu")} == {True}
