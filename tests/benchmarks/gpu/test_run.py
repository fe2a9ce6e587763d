"""``make gpu`` from end to end in Triton's interpreter, and what it does where something is missing."""

import gzip
import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import __main__ as cli
from benchmarks.gpu import run, settings
from benchmarks.gpu.processes import run_all
from benchmarks.report import read
from zo_triton import _chip
from zo_triton._chip import Chip
from zo_triton._progress import Monitor
from zo_triton.commands.shared import INTERRUPTED

ROOT = Path(__file__).resolve().parents[3]
PYTHON = sys.executable
NO_CHIP = Chip("", "none", True)
HIDE = "import os, sys\nfor name in os.environ['HIDDEN'].split():\n    sys.modules[name] = None\n"
QUICK = f"""
import sys
if "benchmarks.gpu.stage" in sys.orig_argv:
    sys.path.append({str(ROOT / "tests")!r})
    import quick_interpreter
    quick_interpreter.install()
"""
"""For a ``sitecustomize.py``: stages take the interpreter that the tests take."""


@pytest.fixture
def mnist_folder(tmp_path):
    """Five random images a class for training, two for testing."""
    folder, generator = tmp_path / "data" / "MNIST" / "raw", np.random.default_rng(0)
    folder.mkdir(parents=True)
    for part, count in (("train", 50), ("t10k", 20)):
        images = generator.integers(0, 256, (count, 28, 28), np.uint8)
        labels = (np.arange(count) % 10).astype(np.uint8)
        for name, array in (("images-idx3", images), ("labels-idx1", labels)):
            head = struct.pack(f">BBBB{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
            (folder / f"{part}-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    return tmp_path / "data"


def command(arguments, seconds, folders=(), **variables):
    """The command line in a process of its own, without this session's choice of the interpreter."""
    environment = {key: value for key, value in os.environ.items() if key != "TRITON_INTERPRET"}
    environment |= {"PYTHONPATH": os.pathsep.join(map(str, (*folders, ROOT))), **variables}
    return subprocess.run(
        [sys.executable, "-m", "benchmarks", *arguments], env=environment, cwd=ROOT, capture_output=True,
        text=True, timeout=seconds,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.skipif(torch.cuda.is_available(), reason="a GPU takes the real path")
def test_a_tiny_run_walks_the_whole_path(tmp_path, mnist_folder):
    out, quick = tmp_path / "report", tmp_path / "quick"
    quick.mkdir()
    (quick / "sitecustomize.py").write_text(QUICK)
    arguments = ["gpu", "--tiny", "--out", str(out), "--seed", "5"]
    done = command(arguments, 1200, [quick], ZO_TRITON_DATA=str(mnist_folder))
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    record = read(out / "results.json")
    sections = record["sections"]
    assert record["tiny"]
    assert record["environment"]["seed"] == 5
    assert {
        "gpu_stages", "gpu_goals", "gpu_checks", "gpu_ceilings", "gpu_kernels", "gpu_layers", "gate", "step_time",
        "race", "race_mnist",
    } == set(sections)  # fmt: skip
    assert [row["status"] for row in sections["gpu_stages"]["rows"]] == ["passed"] * len(settings.STAGES)
    statuses = {(row["op"], row["status"]) for row in sections["gpu_checks"]["rows"]}
    assert {status for op, status in statuses if op != "CapturedStep"} == {"passed"}
    assert all(row["ms"] > 0 and row["trust"] == "passed" for row in sections["gpu_kernels"]["rows"])
    # Nothing but CUDA graphs is left out, and no goal is judged.
    messages = {one["message"] for one in sections["gpu_stages"]["incidents"]}
    assert messages == {"CUDA graphs need a GPU."}
    assert {row["verdict"] for row in sections["gpu_goals"]["rows"]} <= {"means nothing", "not measured"}
    text = (out / "report.md").read_text()
    assert "**A tiny run.** It proves that everything works; its numbers mean nothing." in text
    assert "none: Triton's interpreter on the CPU, whose times mean nothing" in text
    assert (out / "race_mnist_time.svg").is_file()


def test_what_is_not_installed_is_left_out_and_named(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDE + QUICK)
    script = (
        "from benchmarks import __main__ as cli\nfrom benchmarks.gpu import run\n"
        "full, stages = run.run_gpu, ('checks', 'ceilings', 'steps', 'digits')\n"
        "run.run_gpu = lambda *a: full(*a[:-1], dict.fromkeys(stages, 600.0))\n"
        f"raise SystemExit(cli.main(['gpu', '--tiny', '--out', {str(tmp_path / 'out')!r}]))\n"
    )
    environment = {
        **os.environ, "HIDDEN": "matplotlib tabulate markdown rich sklearn scipy PIL safetensors",
        "PYTHONPATH": os.pathsep.join((str(tmp_path), str(ROOT))),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", script], env=environment, capture_output=True, text=True, timeout=1200
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stdout
    assert "left out: data: scikit-learn, which has the digits, is not installed." in done.stdout
    text = (tmp_path / "out" / "report.md").read_text()
    assert "| copy " in text
    assert text.endswith("\nThe figures are left out: matplotlib is not installed.\n")
    assert {entry.name for entry in (tmp_path / "out").iterdir()} == {"report.md", "results.json"}


@pytest.mark.parametrize(
    ("hidden", "reason"),
    [
        (
            "torch triton numpy",
            f"torch is not installed for {PYTHON} ({PYTHON} -m pip install torch); nothing works without it.",
        ),
        (
            "triton",
            f"triton is not installed for {PYTHON} ({PYTHON} -m pip install triton); all else works without it.",
        ),
    ],
)
def test_a_missing_package_is_one_line_and_no_failure(hidden, reason, tmp_path):
    (tmp_path / "sitecustomize.py").write_text(HIDE)
    done = command(["gpu"], 600, [tmp_path], HIDDEN=hidden)
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{reason}\n", "")


@pytest.fixture
def old_card(monkeypatch):
    """Torch as it answers on a machine with a card of compute capability 7.5."""
    monkeypatch.delenv("TRITON_INTERPRET", raising=False)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda: "Tesla T4")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (7, 5))


def test_no_gpu_is_one_line_and_no_failure(monkeypatch, capsys, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["gpu"]) == 0
    text = capsys.readouterr().out
    assert text.count("\n") == 1
    assert "finds no GPU: nothing to run here; `make test` runs the kernels in Triton's interpreter" in text
    assert list(tmp_path.iterdir()) == []


def test_an_old_card_is_refused_by_name(old_card):
    reason = _chip.why_not()
    assert reason.startswith("Tesla T4 has compute capability 7.5, and the kernels need 8.0 or newer;")


def test_the_interpreter_is_not_taken_for_a_gpu(old_card, monkeypatch):
    monkeypatch.setenv("TRITON_INTERPRET", "1")
    assert _chip.why_not().startswith("TRITON_INTERPRET=1 keeps the kernels off the GPU; unset it.")
    assert _chip.why_not(tiny=True) is None


def test_a_report_is_named_for_its_device():
    assert Chip("NVIDIA H100 80GB HBM3", "", True).slug == "nvidia-h100-80gb-hbm3"
    assert NO_CHIP.slug == "interpreter"


@pytest.mark.parametrize("seed", ["-1", str(2**64)])
def test_a_seed_out_of_range_is_refused(seed, capsys, tmp_path):
    assert cli.main(["gpu", "--tiny", "--seed", seed, "--out", str(tmp_path / "out")]) == 2
    assert f"seed must be in [0, 2**64), got {seed}" in capsys.readouterr().err


def stages(monkeypatch, **findings):
    """Stages that only return what is given."""
    seen = []

    def fake(name, budget, seed, tiny, file):
        seen.append(name)
        if isinstance(findings[name], BaseException):
            raise findings[name]
        return findings[name]

    monkeypatch.setattr(run, "_stage", fake)
    return dict.fromkeys(findings, 9.0), seen


CEILINGS = {"gpu_ceilings": {"note": "", "rows": [{"name": "copy", "unit": "GB/s", "value": 2.0}]}}
BROKEN = [{"what": "the stage itself", "status": "failed", "message": "died"}]


def test_a_failing_stage_is_a_failing_row_and_the_rest_still_runs(monkeypatch, tmp_path):
    budgets, seen = stages(monkeypatch, checks=({}, BROKEN), ceilings=(CEILINGS, []), mnist=({}, []))
    record = run.run_gpu(NO_CHIP, tmp_path / "out", 3, True, Monitor(budgets), budgets)
    assert seen == ["checks", "ceilings", "mnist"]
    rows = record["sections"]["gpu_stages"]["rows"]
    assert [row["status"] for row in rows] == ["failed", "passed", "left out"]
    assert run.has_failed(record)
    assert "checks, the stage itself: **failed**, `died`" in (tmp_path / "out" / "report.md").read_text()


def test_a_killed_run_leaves_the_stages_that_were_over(monkeypatch, tmp_path):
    budgets, _ = stages(monkeypatch, ceilings=(CEILINGS, []), checks=KeyboardInterrupt())
    with pytest.raises(KeyboardInterrupt):
        run.run_gpu(NO_CHIP, tmp_path / "out", 3, True, Monitor(budgets), budgets)
    assert run.stage_folder(tmp_path / "out").is_dir()
    sections = read(tmp_path / "out" / "results.json")["sections"]
    assert sections["gpu_ceilings"] == CEILINGS["gpu_ceilings"]
    assert [row["status"] for row in sections["gpu_stages"]["rows"]] == ["passed", "not run"]


@pytest.mark.parametrize(
    ("code", "status"),
    [
        ("", 0),
        ("raise SystemExit(3)", 3),
        ("import os, signal; os.kill(os.getpid(), signal.SIGABRT)", -signal.SIGABRT),
        ("import time; time.sleep(600)", None),
    ],
    ids=["ends", "fails", "dies", "hangs"],
)
def test_a_process_can_neither_hang_nor_take_the_run_with_it(code, status, tmp_path):
    taken = run_all([[sys.executable, "-c", code]], 10.0, dict(os.environ), [tmp_path / "log"])
    assert taken == [status]


def test_processes_run_beside_each_other_and_one_that_ended_early_goes_on(tmp_path):
    """The first waits for what the second one's second start leaves."""
    mark = tmp_path / "mark"
    wait = f"import os, time\nwhile not os.path.exists({str(mark)!r}): time.sleep(0.01)"
    twice = f"import os, sys\nprint('once', flush=True)\nif {{again}}: open({str(mark)!r}, 'w')\nelse: sys.exit(3)"
    code = twice.format(again=f"os.path.getsize({str(tmp_path / 'second')!r}) > 5")
    logs, asked = [tmp_path / "first", tmp_path / "second"], []

    def again(number, status):
        asked.append((number, status))
        return status == 3

    statuses = run_all(
        [[sys.executable, "-c", each] for each in (wait, code)], 60.0, dict(os.environ), logs, again
    )
    assert statuses == [0, 0]
    assert sorted(asked) == [(0, 0), (1, 0), (1, 3)]
    assert logs[1].read_text() == "once\nonce\n"


@pytest.mark.parametrize(
    ("status", "message"), [(None, "ended after its 7 s"), (-6, "ended with status -6: CUDA error")]
)
def test_what_a_stage_had_found_is_kept(status, message, monkeypatch, tmp_path):
    def ended(commands, budget, variables, logs, again):
        (tmp_path / "ceilings.json").write_text('{"sections": {"gate": {}}, "incidents": [], "turns": {}}')
        logs[0].write_text("something\nCUDA error\n")
        return [status]

    monkeypatch.setattr(run, "run_all", ended)
    sections, incidents = run._stage("ceilings", 7.0, 0, True, tmp_path)
    assert sections == {"gate": {}}
    assert [one["status"] for one in incidents] == ["failed"]
    assert incidents[0]["message"].startswith(message)


def test_a_dealt_out_stage_is_put_together_and_goes_on_as_long_as_it_comes_on(monkeypatch, tmp_path):
    asked = []

    def ended(commands, budget, variables, logs, again):
        for shard, command in enumerate(commands):
            assert command[command.index("--shard") + 1 :][:1] == [str(shard)]
            file = Path(command[command.index("--out") + 1])
            for turn in (1, 1):
                rows = [{"op": 2 * row + shard} for row in range(2 - shard)]
                sections = {"gpu_checks": {"note": "", "rows": rows}}
                found = {"sections": sections, "incidents": [], "turns": {"checks": [turn, turn]}}
                file.write_text(json.dumps(found))
                asked.append(again(shard, -signal.SIGABRT))
        return [0, 0]

    monkeypatch.setattr(run.os, "cpu_count", lambda: 2)
    monkeypatch.setattr(run, "run_all", ended)
    sections, incidents = run._stage("checks", 7.0, 0, True, tmp_path)
    assert [row["op"] for row in sections["gpu_checks"]["rows"]] == [0, 1, 2]
    assert incidents == []
    assert asked == [True, False, True, False]


def test_an_interrupted_command_says_what_is_left(monkeypatch, capsys, tmp_path):
    def interrupted(*arguments):
        raise KeyboardInterrupt

    monkeypatch.setattr(run, "run_gpu", interrupted)
    assert cli.main(["gpu", "--tiny", "--out", str(tmp_path / "out")]) == INTERRUPTED
    assert "interrupted; the stages that were over are in" in capsys.readouterr().err


def test_all_stages_together_stay_below_eight_minutes():
    assert sum(settings.STAGES.values()) <= 460
