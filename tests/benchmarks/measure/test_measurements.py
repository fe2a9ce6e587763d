import platform
from dataclasses import replace
from importlib import metadata

import pytest
import torch

from benchmarks import timing
from benchmarks.contenders.backprop import Backprop
from benchmarks.contenders.fused import FusedSGD, hardware_dtype
from benchmarks.contenders.mezo import MeZO
from benchmarks.contenders.vmap_ensemble import VmapEnsemble
from benchmarks.measure import accuracy, gates, memory, step_time
from benchmarks.race.networks import count_parameters
from benchmarks.report.records import ENVIRONMENT
from benchmarks.timing import alternate
from zo_triton import _machine as machine

CASE = step_time.StepCase((12, 9, 5), 8, 64)


def test_actions_take_turns_after_their_warm_up():
    calls = []
    times = alternate([lambda: calls.append("a"), lambda: calls.append("b")], 1e-9, 0.0, warm_up=2)
    assert calls == ["a", "a", "b", "b", "a", "b"]
    assert [len(taken) for taken in times] == [1, 1]
    with pytest.raises(ValueError, match="seconds must be positive, got 0"):
        alternate([], 0)


def test_a_slow_action_leaves_the_others_as_much_time(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(timing, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(timing, "sleep", lambda seconds: None)

    def taking(seconds):
        def action():
            clock[0] += seconds

        return action

    quick, slow = alternate([taking(0.001), taking(0.1)], 3.0, burst_seconds=0.01)
    assert len(slow) >= timing.ENOUGH
    assert sum(quick) == pytest.approx(sum(slow), rel=0.1)


@pytest.mark.parametrize(
    "build",
    [
        FusedSGD,
        lambda model, setting: FusedSGD(model, setting, sides=2, rank=1),
        MeZO,
        VmapEnsemble,
        lambda model, setting: Backprop(model, setting, adam=False),
    ],
    ids=["fused", "fused rank 1", "mezo", "vmap", "backprop"],
)
def test_honest_contenders_pass_the_descent_gate(build):
    gates.check_descent("one", build, CASE, 1e-2)


@pytest.mark.parametrize("fault", [-1.0, 1e-3, 64.0], ids=["sign", "missing 1/ε", "sum instead of mean"])
def test_the_descent_gate_refuses_a_wrong_scale(fault):
    with pytest.raises(gates.GateError, match="times the expected distance along the gradient"):
        gates.check_descent("wrong", lambda model, s: MeZO(model, replace(s, lr=fault * s.lr)), CASE, 1e-2)


def test_the_descent_gate_refuses_other_noise_in_the_update():
    class Forgetful(MeZO):
        def _replay(self, seed):
            self.calls = getattr(self, "calls", 0) + 1
            return super()._replay(seed + (self.calls > 3 * self.directions))

    with pytest.raises(gates.GateError, match="moves"):
        gates.check_descent("forgetful", Forgetful, CASE, 1e-2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_propagated_differences_pass_their_gate(dtype):
    assert gates.check_differences(CASE, dtype) <= gates.BOUNDS[dtype]


def test_the_difference_gate_refuses_errors(monkeypatch):
    monkeypatch.setitem(gates.BOUNDS, torch.float32, 0.0)
    with pytest.raises(
        gates.GateError, match=r"loss differences in torch.float32 on 12-9-5, batch 8, K = 64"
    ):
        gates.check_differences(CASE, torch.float32)


def test_propagated_differences_beat_direct_ones_where_those_cancel():
    rows = accuracy.run_accuracy(accuracy.TINY, lambda message: None)["rows"]
    finest = rows[-1]["errors"]
    assert finest["propagated float32"] < 1e-4
    assert finest["propagated bfloat16"] < 2e-2
    assert finest["direct float32"] > 100 * finest["propagated float32"]


def test_step_time_and_split_have_a_row_for_everything():
    times = step_time.run_step_time(step_time.TINY_CASES, 0.01, lambda message: None)
    names = [one["name"] for one in times["cases"][0]["contenders"]]
    assert names[:2] == ["zo-whole", "zo"]
    assert {"zo-activations-sgd", "zo-central", "mezo", "vmap", "inference", "sgd"} < set(names)
    related = {one["name"]: one["of_inference"] for one in times["cases"][0]["contenders"]}
    assert related["inference"] == 1.0
    assert all(ratio > 0 for ratio in related.values())
    split = step_time.run_step_split(step_time.TINY_CASES, 0.01, lambda message: None)
    assert list(split["cases"][0]["parts"]) == ["draw", "base", "differences", "update", "rest"]


def test_the_convolutional_case_is_le_net():
    case = step_time.CASES[-1]
    model, x, _ = step_time.example(case)
    assert case.name == "LeNet-5, batch 64, K = 32"
    assert count_parameters(model) == 61706
    assert model(x).shape == (64, 10)
    first = model[1].weight.clone()
    torch.manual_seed(5)
    drawn = torch.rand(1)
    torch.manual_seed(5)
    assert torch.equal(case.make_model(0)[1].weight, first)
    assert torch.equal(torch.rand(1), drawn)


def test_contenders_report_their_own_dtype():
    listed = {one.name: one.dtype for one in step_time.contenders(step_time.CASES[0])}
    assert listed["zo"] == str(hardware_dtype()).removeprefix("torch.")
    assert listed["mezo"] == "float32"


@pytest.mark.skipif(platform.system() != "Linux", reason="reads glibc's account")
def test_memory_of_a_tiny_case():
    case = memory.MemoryCase(step_time.TINY_CASES[0], ("mezo",))
    rows = memory.run_memory([case], lambda message: None)["cases"]
    assert rows[0]["methods"][0]["excess_mib"] < 16
    assert rows[0]["chunk_mib"] == pytest.approx(4 * 32 * 32 * hardware_dtype().itemsize / 2**20, rel=1e-3)


def test_a_decoder_is_described_to_its_process_and_measured_there():
    pytest.importorskip("transformers")
    case = memory.DecoderCase(batch=2, directions=3)
    assert case.name == "fine-tuning, batch 2, K = 3"
    assert memory.KINDS[type(case).__name__](case.sizes, 2, 3) == case
    assert memory.chunk_bytes(case, torch.float32) == 3 * 2 * 16 * 4 * 128 * 4
    model, x, y = step_time.example(case)
    assert model(x).shape == (2, 64)
    assert y.max() < 64
    if platform.system() == "Linux":
        (row,) = memory.run_memory([memory.MemoryCase(case, ("adam-lora",))], lambda message: None)["cases"]
        assert row["name"].endswith(f"d = {count_parameters(model):,}")
        assert 0 < row["methods"][0]["excess_mib"] < 64


def test_environment_is_complete():
    facts = machine.environment(seed=3)
    assert set(ENVIRONMENT) <= set(facts)
    assert facts["seed"] == 3
    assert facts["versions"]["torch"] == metadata.version("torch")
