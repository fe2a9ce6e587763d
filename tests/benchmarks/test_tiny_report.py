"""The whole suite in its tiny profile, run once: what each part has to say is in the record."""

import contextlib
import io
import json
import platform

import pytest
import torch

from benchmarks import __main__ as cli
from benchmarks.contenders.fused import hardware_dtype
from benchmarks.contenders.registry import METHODS
from benchmarks.race.decoders import missing
from benchmarks.race.races import RACES, section_of
from benchmarks.report import new_record, read
from benchmarks.report.records import dumps
from benchmarks.report.sections.transformers import SECTION
from benchmarks.suite import FULL_RACES
from zo_triton._machine import environment

NEEDS_TRANSFORMERS = pytest.mark.skipif(bool(missing()), reason="runs Hugging Face's decoders")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Of a report that found no data set but scikit-learn's digits."""
    out, printed = tmp_path_factory.mktemp("tiny") / "latest", io.StringIO()
    with pytest.MonkeyPatch.context() as patch, contextlib.redirect_stdout(printed):
        patch.setenv("ZO_TRITON_DATA", str(tmp_path_factory.mktemp("data")))
        assert cli.main(["report", "--tiny", "--out", str(out)]) == 0
    assert str(out / "report.md") in printed.getvalue()
    return out


@pytest.fixture(scope="module")
def sections(folder):
    return read(folder / "results.json")["sections"]


def test_a_tiny_report_from_end_to_end(folder):
    record = read(folder / "results.json")
    assert record["tiny"] is True
    assert {"race", "step_time", "transformers", "step_split", "accuracy"} <= set(record["sections"])
    text = (folder / "report.md").read_text()
    assert "Where fused lost" in text
    assert sorted(entry.suffix for entry in folder.iterdir()).count(".svg") >= 5
    assert json.loads((folder / "results.json").read_text())["environment"]["commit"] in text
    assert [entry.name for entry in folder.parent.iterdir()] == ["latest"]


@pytest.mark.parametrize("name", FULL_RACES)
def test_every_method_of_every_race_runs(name, sections):
    if name == "fine-tuning" and missing():
        pytest.skip("runs a decoder of Hugging Face")
    rows = sections[section_of(name)]["methods"]
    known = [each for each in RACES[name].methods if not METHODS[each].missing]
    assert [row["name"] for row in rows] == known
    assert all(row["runs"] and "error" not in row for row in rows)


def test_the_digits_race_has_its_curves_and_dtypes(sections):
    assert sections["race"]["parameters"] == 2410
    rows = sections["race"]["methods"]
    assert all(len(run["curve"]) >= 2 for row in rows for run in row["runs"])
    dtypes = {row["name"]: row["dtype"] for row in rows}
    assert dtypes["zo-activations"] == "float32", "compiled calls compute in float32 whatever is asked for"


@NEEDS_TRANSFORMERS
def test_every_decoder_has_ours_the_rivals_and_a_plain_pass(sections):
    cases = sections["transformers"]["cases"]
    ours = ["zo-float32"] if hardware_dtype() == torch.float32 else ["zo-float32", "zo", "zo-medium"]
    whole = [*ours, "mezo-1", "vmap-chunked", "forward"]
    names = [[one["name"] for one in case["contenders"]] for case in cases]
    assert names == [whole, whole, [*ours, "mezo-1", "forward"]]
    evaluations = {one["name"]: one["evaluations"] for one in cases[0]["contenders"]}
    assert (evaluations["zo-float32"], evaluations["mezo-1"], evaluations["forward"]) == (3, 2, 1)
    assert all(one["median_ms"] > 0 for case in cases for one in case["contenders"])


@NEEDS_TRANSFORMERS
@pytest.mark.skipif(platform.system() != "Linux", reason="reads glibc's account")
def test_a_decoders_memory_is_over_the_weights(sections):
    (case,) = sections["transformers"]["memory"]
    assert case["weights_mib"] == pytest.approx(4 * 3952 / 2**20, rel=1e-3)
    assert [one["name"] for one in case["methods"]][-1] == "mezo-1"
    assert all(0 <= one["excess_mib"] < 16 for one in case["methods"])


@NEEDS_TRANSFORMERS
def test_the_decoders_section_is_a_record_and_has_its_sentences(sections):
    section = sections["transformers"]
    assert "NaN" not in dumps(new_record(environment(0), {"transformers": section}, tiny=True))
    assert "**Steps on transformers**" in "\n".join(SECTION.findings(section).sentences)
    text = "\n".join(SECTION.blocks(section, lambda figure: []))
    assert all(f"| {network} " in text for network in ("GPT-2", "Llama", "GPT-2 small"))
