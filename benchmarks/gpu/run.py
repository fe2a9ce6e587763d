"""All stages one after the other, and the report, which is written again after each of them."""

from __future__ import annotations

import json
import os
import shutil
import sys
from collections.abc import Sequence
from itertools import zip_longest
from pathlib import Path
from time import monotonic
from typing import Any

from benchmarks.gpu.goals import judge, relate
from benchmarks.gpu.processes import run_all
from benchmarks.gpu.results import FAILED, LEFT_OUT, LONGEST_MESSAGE, PASSED
from benchmarks.gpu.settings import MOST_SHARDS, SHARDED, SOFT_SHARE, STAGES
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
            "its time is up. A process whose device refuses everything after a failure is followed by another."
        )
        stages = {"note": note, "rows": rows, "incidents": incidents}
        sections = {"gpu_stages": stages, "gpu_goals": judge(found, tiny), **found}
        return new_record(origin, sections, tiny)

    scratch = stage_folder(folder)
    shutil.rmtree(scratch, ignore_errors=True)
    scratch.mkdir(parents=True)
    for row in rows:
        name = str(row["name"])
        told.begin(name)
        told.say(f"{name} (at most {budgets[name]:g} s)")
        start = monotonic()
        sections, mishaps = _stage(name, budgets[name], seed, tiny, scratch)
        row["seconds"] = round_digits(monotonic() - start, 3)
        failed = any(one["status"] == FAILED for one in mishaps)
        row["status"] = FAILED if failed else PASSED if sections else LEFT_OUT
        for one in mishaps:
            told.say(f"{NOTE}{one['status']}: {one['what']}: {one['message']}")
        incidents += [{"stage": name, **one} for one in mishaps]
        found.update(sections)
        publish(record(), folder)
    shutil.rmtree(scratch, ignore_errors=True)
    return record()


def stage_folder(folder: str | os.PathLike[str]) -> Path:
    """Where stages write what they find as they find it, beside the report; gone once all are over."""
    target = Path(folder).resolve()
    return target.with_name(f"{target.name}.stages")


def has_failed(record: Record) -> bool:
    """Whether any stage failed in part or as a whole."""
    return any(row["status"] == FAILED for row in record["sections"]["gpu_stages"]["rows"])


def _stage(
    name: str, budget: float, seed: int, tiny: bool, folder: Path
) -> tuple[dict[str, Any], list[dict[str, str]]]:
    """A stage's sections and incidents, as far as it came."""
    shards = min(MOST_SHARDS, os.cpu_count() or 1) if name in SHARDED else 1
    names = [name if shards == 1 else f"{name}-{shard}" for shard in range(shards)]
    files = [folder / f"{each}.json" for each in names]
    logs = [folder / f"{each}.log" for each in names]
    command = [sys.executable, "-m", "benchmarks.gpu.stage", name, "--seed", str(seed)]
    command += ["--seconds", str(SOFT_SHARE * budget), "--shards", str(shards)]
    commands = [
        [*command, "--shard", str(shard), "--out", str(file), *(["--tiny"] if tiny else [])]
        for shard, file in enumerate(files)
    ]
    came: list[Any] = [None] * shards

    def again(shard: int, status: int) -> bool:
        """Whether the process was not done and has come on since it was last asked, so that a new one will too."""
        before, came[shard] = came[shard], _found(files[shard])["turns"]
        return status not in (0, 1) and before != came[shard]

    statuses = run_all(commands, budget, _environment(tiny), logs, again)
    found = [_found(file) for file in files]
    incidents = [one for each in found for one in each["incidents"]]
    for status, file, log in zip(statuses, files, logs, strict=True):
        if status is None:
            words = f"ended after its {budget:g} s; what it had measured by then is kept."
        elif status in (0, 1) and file.is_file():
            continue
        else:
            said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines() or ["no word"]
            words = f"ended with status {status}: {said[-1][-LONGEST_MESSAGE:]}"
        incidents.append({"what": "the stage itself", "status": FAILED, "message": words})
    return _joined([each["sections"] for each in found]), incidents


def _found(file: Path) -> dict[str, Any]:
    if not file.is_file():
        return {"sections": {}, "incidents": [], "turns": {}}
    return json.loads(file.read_text(encoding="utf-8"))


def _joined(parts: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The sections of a stage's processes as one, their rows in the order in which they were dealt out."""
    sections: dict[str, Any] = {}
    for name in dict.fromkeys(name for part in parts for name in part):
        own = [part[name] for part in parts if name in part]
        sections[name] = own[0]
        if len(own) > 1:
            dealt = zip_longest(*(each["rows"] for each in own))
            sections[name] = {**own[0], "rows": [row for turn in dealt for row in turn if row is not None]}
    return sections


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
