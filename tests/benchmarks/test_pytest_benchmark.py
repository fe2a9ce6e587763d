"""``pytest --benchmark`` as a user types it, in processes of its own."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.report import new_record, read, write

ROOT = Path(__file__).resolve().parents[2]
ONE = "benchmarks/ops/bench_ops.py::bench_op[gram-fused-middle]"

# A session that runs on several workers is not what a user types: their marks are taken off.
ENVIRONMENT = {name: value for name, value in os.environ.items() if not name.startswith("PYTEST_XDIST")}

pytest.importorskip("pytest_benchmark")


def benchmark(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "pytest", "-p", "no:cacheprovider", *arguments],
        cwd=ROOT, env=ENVIRONMENT, capture_output=True, text=True, timeout=300,
    )  # fmt: skip


def test_without_the_option_benchmarks_are_no_tests():
    done = benchmark("benchmarks", "--collect-only", "-q")
    assert "no tests collected" in done.stdout


def test_the_option_alone_runs_every_benchmark_and_makes_a_report(tmp_path):
    out = tmp_path / "latest"
    done = benchmark("--benchmark", "--benchmark-tiny", "-v", "--report-dir", str(out))
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"refreshed {out / 'report.md'}" in done.stdout
    assert "tests/" not in done.stdout
    entries = read(out / "results.json")["sections"]["benchmarks"]["entries"]
    for name in (
        "bench_step.py::bench_step",
        "bench_ops.py::bench_op[gram-torch-K=8]",
        "bench_field.py::bench_sample",
    ):
        assert name in done.stdout
    groups = {entry["group"] for entry in entries}
    assert {"field", "op: hidden layer, middle", "op: NZK draws, middle"} <= groups
    assert all(
        entry["extra"]["roofline"] > 0 for entry in entries if entry["extra"].get("contender") == "fused"
    )
    assert all(entry["extra"]["first_call_ms"] > 0 for entry in entries)
    assert "## Benchmarks" in (out / "report.md").read_text()


def test_a_part_of_the_benchmarks_keeps_the_others_figures(tmp_path):
    facts = dict.fromkeys(("commit", "dirty", "versions", "device", "threads", "seed", "date"), "x")
    facts["versions"] = {}
    other = {
        "id": "benchmarks/ops/bench_other.py::bench_other", "group": "other", "name": "other", "median_ms": 1.0,
        "min_ms": 1.0, "rounds": 1, "extra": {}, "commit": "x", "dirty": False, "date": "x", "threads": 1,
    }  # fmt: skip
    write(tmp_path / "results.json", new_record(facts, {"benchmarks": {"entries": [other]}}, tiny=True))
    done = benchmark("--benchmark", "--benchmark-tiny", "--report-dir", str(tmp_path), ONE)
    assert done.returncode == 0, done.stdout + done.stderr
    entries = read(tmp_path / "results.json")["sections"]["benchmarks"]["entries"]
    assert [entry["id"] for entry in entries] == [ONE, other["id"]]


def test_a_spoilt_record_is_named_and_left_alone(tmp_path):
    (tmp_path / "results.json").write_text("{")
    done = benchmark("--benchmark", "--benchmark-tiny", "--report-dir", str(tmp_path), ONE)
    assert done.returncode == 1
    assert f"report not refreshed: {tmp_path / 'results.json'} is not complete JSON" in done.stdout
    assert (tmp_path / "results.json").read_text() == "{"


def test_without_pytest_benchmark_one_line_says_so():
    done = benchmark("--benchmark", "-p", "no:benchmark")
    assert done.returncode == pytest.ExitCode.USAGE_ERROR
    assert done.stderr.strip() == "ERROR: --benchmark needs pytest-benchmark: pip install pytest-benchmark"


@pytest.mark.skipif(os.name != "posix", reason="sends an interrupt")
def test_an_interrupt_keeps_what_is_finished(tmp_path):
    command = [sys.executable, "-u", "-m", "pytest", "-v", "-p", "no:cacheprovider"]
    arguments = ["--benchmark", "--report-dir", str(tmp_path / "out"), "--benchmark-max-time=0.3"]
    files = ["benchmarks/ops/bench_ops.py", "benchmarks/ops/bench_step.py"]

    def hear_interrupts():
        """A shell's background jobs ignore them, and so would their children."""
        signal.signal(signal.SIGINT, signal.SIG_DFL)

    with subprocess.Popen(
        [*command, *arguments, *files],
        cwd=ROOT,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        text=True,
        preexec_fn=hear_interrupts,
    ) as process:
        deadline = time.monotonic() + 120
        seen = []
        while not any("PASSED" in line for line in seen) and time.monotonic() < deadline:
            seen.append(process.stdout.readline())
        time.sleep(0.1)  # into the next benchmark: between two, pytest itself may fall over an interrupt
        process.send_signal(signal.SIGINT)
        rest = process.stdout.read()
    assert process.returncode == pytest.ExitCode.INTERRUPTED, rest
    entries = read(tmp_path / "out" / "results.json")["sections"]["benchmarks"]["entries"]
    assert entries[0]["id"].startswith("benchmarks/ops/bench_ops.py::")
    assert len(entries) < 8
