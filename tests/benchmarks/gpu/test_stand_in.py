"""The stages where their tensors lie on a stand-in for a GPU: none mixes devices, or reads while it records."""

from functools import partial

import pytest
from cuda_stand_in import CUDA, cuda

from benchmarks.gpu import kernel_times, step_times
from benchmarks.gpu.results import StageContext, StageResults
from benchmarks.gpu.stage import STAGES


@pytest.fixture
def without_what_it_lacks(monkeypatch):
    """The stand-in has no launchers, whose bits a row may choose, no gradients, and nothing to compile for."""
    monkeypatch.setattr(kernel_times.Row, "call", lambda self, case, arguments: partial(case.run, arguments))
    forward = [name for name in step_times.NAMES if not name.startswith("sgd")]
    monkeypatch.setattr(step_times, "NAMES", forward)
    monkeypatch.setattr(step_times, "COMPILED", ())


@pytest.mark.parametrize("name", [name for name in STAGES if name not in ("digits", "mnist")])
def test_a_stage_has_its_rows_and_no_incident(name, tmp_path, without_what_it_lacks):
    with cuda():
        results = StageResults(tmp_path / "findings.json", StageContext(CUDA, True, 3, True), 600.0)
        STAGES[name](results)
    assert results.incidents == []
    assert all(section.get("rows") or section.get("cases") for section in results.sections.values())
