"""The look at a GPU without one: its whole path in Triton's interpreter, and what it says where it can't run."""

import os
import subprocess
import sys

import pytest
import torch

from zo_triton import cli
from zo_triton.experiments.gpu import correctness, run
from zo_triton.reporting import read

TINY = """
import sys
for name in ("matplotlib", "tabulate", "rich", "sklearn", "scipy"):
    sys.modules[name] = None
from zo_triton import cli
sys.exit(cli.main(["gpu", "--tiny", "--out", sys.argv[1]]))
"""


def test_a_tiny_run_needs_nothing_that_a_bare_machine_lacks(tmp_path):
    folder = tmp_path / "device"
    done = subprocess.run(
        [sys.executable, "-c", TINY, str(folder)],
        env={**os.environ, "TRITON_INTERPRET": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    assert "matplotlib and tabulate missing: `zo-triton render" in done.stdout
    section = read(folder / "results.json")["sections"]["gpu"]
    assert section["problems"] == []
    assert {row["name"] for row in section["correctness"]} == set(correctness.CASES)
    assert all(row["passed"] for row in section["correctness"])
    assert all(row["ms"] > 0 for row in section["kernels"])
    assert [row["measured"] > 0 for row in section["goals"]] == [True] * 4
    assert cli.main(["render", str(folder)]) == 0
    text = (folder / "report.md").read_text()
    for part in (
        "A tiny run",
        "### Goals",
        "### Ceilings",
        "### Kernels",
        f"All {len(correctness.CASES)} are right",
    ):
        assert part in text


def test_no_op_lacks_a_case():
    assert correctness.every_op_is_covered()


def test_a_wrong_and_a_failing_kernel_are_told(monkeypatch):
    cases = {
        name: correctness.CASES[name]
        for name in ("sample rademacher", "accumulate gaussian", "cross-entropy")
    }
    monkeypatch.setattr(correctness, "CASES", cases)

    def untouched(out, *rest):
        """Leaves the NaN where it is."""

    def broken(*arguments):
        raise RuntimeError("out of resource: shared memory\nand a listing")

    import zo_triton.kernels as kernels

    monkeypatch.setattr(kernels, "sample", untouched)
    monkeypatch.setattr(kernels, "accumulate", broken)
    wrong, failing, right = correctness.run_correctness(torch.device("cpu"), 0)
    assert (wrong["passed"], wrong["problem"]) == (False, "NaN in the result")
    assert (failing["passed"], failing["problem"]) == (False, "RuntimeError: out of resource: shared memory")
    assert right["passed"]


def test_a_stage_that_fails_hides_no_other(monkeypatch):
    from zo_triton.experiments.gpu import ceilings, kernels

    def broken(*arguments):
        raise RuntimeError("the device is gone\nfar away")

    monkeypatch.setattr(correctness, "CASES", {})
    monkeypatch.setattr(ceilings, "run_ceilings", broken)
    monkeypatch.setattr(kernels, "_kernels", lambda shape, device: [])
    monkeypatch.setattr(kernels, "run_goals", lambda *arguments: [])
    monkeypatch.setattr(run.step_time, "run_step_time", lambda *arguments: {"note": "", "cases": []})
    saved = []
    assert not run.run_gpu(0, lambda text: None, saved.append, tiny=True)
    assert len(saved) == 5
    assert saved[-1]["sections"]["gpu"]["problems"] == ["ceilings: RuntimeError: the device is gone"]
    assert "step_time" in saved[-1]["sections"]


@pytest.mark.parametrize(
    ("triton", "gpu", "capability", "told"),
    [
        (False, True, (9, 0), "Triton is not installed"),
        (True, False, (9, 0), "no GPU that torch can use: nothing to run"),
        (True, True, (7, 5), "has compute capability 7.5 and the kernels need 8.0"),
        (True, True, (9, 0), ""),
    ],
)
def test_what_is_missing_is_one_line_and_no_failure(triton, gpu, capability, told, monkeypatch, capsys):
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(run.importlib.util, "find_spec", lambda name: object() if triton else None)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: gpu)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Old One")
    assert told in run.why_not()
    assert bool(run.why_not()) == bool(told)
    if told:
        assert cli.main(["gpu"]) == 0
        assert capsys.readouterr().out.count("\n") == 1
