"""All stages one after the other, and the report, which is written again after each of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.gpu.goals import judge, relate
from benchmarks.gpu.results import FAILED, LEFT_OUT, LONGEST_MESSAGE, PASSED
from benchmarks.gpu.settings import SOFT_SHARE, STAGES
from benchmarks.report import Record, new_record, publish
from benchmarks.timing import round_digits
from zo_triton._chip import Chip
from zo_triton._machine import environment
from zo_triton._progress import NOTE, Monitor

NOT_RUN = "not run"


def run_gpu(
    chip: Chip,
    folder: str | os.PathLike[str],
    seed: int,
    tiny: bool,
    told: Monitor,
    budgets: dict[str, float] = STAGES,
) -> Record:
    """Runs every stage, each in a process of its own, and publishes what is there after each.

    Args:
        chip: What is measured.
        folder: The report's, replaced whole each time.
        seed: Of every random input.
        tiny: Small shapes, in Triton's interpreter where there is no GPU: proves the path, measures nothing.
        told: Told what runs now, and what failed; its plan are the budgets.
        budgets: Seconds that each stage may take.

    Returns:
        The record as last published. ``gpu_stages`` says what failed.
    """
    origin = {**environment(seed), "gpu": chip.facts}
    rows = [{"name": name, "status": NOT_RUN, "seconds": None, "budget": budgets[name]} for name in budgets]
    incidents: list[dict[str, str]] = []
    found: dict[str, Any] = {}

    def record() -> Record:
        relate(found)
        note = (
            "Each stage runs in a process of its own, so that none can spoil another's device, and is ended when "
            "its time is up."
        )
        stages = {"note": note, "rows": rows, "incidents": incidents}
        sections = {"gpu_stages": stages, "gpu_goals": judge(found, tiny), **found}
        return new_record(origin, sections, tiny)

    with tempfile.TemporaryDirectory() as scratch:
        for row in rows:
            name = str(row["name"])
            told.begin(name)
            told.say(f"{name} (at most {budgets[name]:g} s)")
            start = monotonic()
            sections, mishaps = _stage(name, budgets[name], seed, tiny, Path(scratch) / f"{name}.json")
            row["seconds"] = round_digits(monotonic() - start, 3)
            failed = any(one["status"] == FAILED for one in mishaps)
            row["status"] = FAILED if failed else PASSED if sections else LEFT_OUT
            for one in mishaps:
                told.say(f"{NOTE}{one['status']}: {one['what']}: {one['message']}")
            incidents += [{"stage": name, **one} for one in mishaps]
            found.update(sections)
            publish(record(), folder)
    return record()


def has_failed(record: Record) -> bool:
    """Whether any stage failed in part or as a whole."""
    return any(row["status"] == FAILED for row in record["sections"]["gpu_stages"]["rows"])


def _stage(
    name: str, budget: float, seed: int, tiny: bool, file: Path
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """A stage's sections and incidents, as far as it came."""
    command = [sys.executable, "-m", "benchmarks.gpu.stage", name]
    command += ["--seconds", str(SOFT_SHARE * budget), "--seed", str(seed), "--out", str(file)]
    log = file.with_suffix(".log")
    status = _run([*command, "--tiny"] if tiny else command, budget, _environment(tiny), log)
    findings: dict[str, Any] = {"sections": {}, "incidents": []}
    if file.is_file():
        findings = json.loads(file.read_text(encoding="utf-8"))
    if status is None:
        words = f"ended after its {budget:g} s; what it had measured by then is kept."
    elif status in (0, 1) and file.is_file():
        words = ""
    else:
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no word"]
        words = f"ended with status {status}: {said[-1][-LONGEST_MESSAGE:]}"
    if words:
        findings["incidents"].append({"what": "the stage itself", "status": FAILED, "message": words})
    return findings["sections"], findings["incidents"]


def _run(command: list[str], budget: float, variables: dict[str, str], log: Path) -> int | None:
    """Runs a command to its end and returns its status, negative for a signal; None if its time was up first."""
    # A session of its own: compilers that a stage has started end with it.
    with (
        log.open("w") as words,
        subprocess.Popen(
            command, env=variables, stdin=subprocess.DEVNULL, stdout=words, stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process,
    ):  # fmt: skip
        try:
            return process.wait(budget)
        except subprocess.TimeoutExpired:
            return None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)


def _environment(tiny: bool) -> dict[str, str]:
    """This process's, in which a child finds the same package; the interpreter only where a tiny run needs it."""
    import torch

    variables = dict(os.environ)
    root = str(Path(__file__).resolve().parents[2])
    variables["PYTHONPATH"] = os.pathsep.join(filter(None, [root, variables.get("PYTHONPATH")]))
    if tiny and not torch.cuda.is_available():
        # Tensors of a few elements: further threads only spin.
        variables |= {"TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"}
    return variables
