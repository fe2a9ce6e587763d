"""The whole look at a GPU: stages that don't depend on one another, each in the record as soon as it is done."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Callable
from typing import Any

import torch

import zo_triton as zo
from zo_triton.experiments import step_time
from zo_triton.experiments.machine import environment
from zo_triton.reporting.records import Record, new_record

Say = Callable[[str], None]
Save = Callable[[Record], None]

OLDEST = (8, 0)
"""Compute capability from which tensor cores multiply bfloat16."""

CASES = (
    step_time.StepCase((784, 256, 256, 10), 128, 32),
    step_time.StepCase((784, 256, 256, 10), 128, 512),
    step_time.StepCase((1024, 4096, 4096, 256), 256, 32),
)
MEZO_CASE, MEZO_GOAL = CASES[0].name, 20.0
"""The step that is to be so many times faster than the MeZO loop's."""


def why_not() -> str:
    """The reason why nothing can run here, with what still works; empty if a GPU can be looked at."""
    if importlib.util.find_spec("triton") is None:
        return (
            "Triton is not installed: no kernel can run; `pip install triton` on Linux. The CPU engine works."
        )
    if not torch.cuda.is_available():
        return (
            "no GPU that torch can use: nothing to run; `make test` runs the kernels in Triton's interpreter."
        )
    if torch.version.hip is None and torch.cuda.get_device_capability() < OLDEST:
        major, minor = torch.cuda.get_device_capability()
        return (
            f"{torch.cuda.get_device_name()} has compute capability {major}.{minor} and the kernels need "
            f"{OLDEST[0]}.{OLDEST[1]}: nothing to run; the CPU engine works."
        )
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 would interpret the kernels instead of compiling them; unset it."
    return ""


def run_gpu(seed: int, say: Say, save: Save, tiny: bool = False) -> bool:
    """Correctness of every op, measured ceilings, every kernel's share of them, the goals, and whole steps.

    A stage that fails is told in the record, and the others still run.

    Args:
        seed: Of the random inputs.
        say: Told what runs now.
        save: Gets the record after each stage, with what is there by then.
        tiny: Small shapes on the CPU through Triton's interpreter: proves that everything works, measures nothing.

    Returns:
        Whether every stage ran and every result was right.
    """
    # Triton is loaded by whoever has been told that it is there.
    from zo_triton.experiments.gpu import ceilings, correctness, kernels

    device = torch.device("cpu" if tiny else "cuda")
    found: dict[str, Any] = {"problems": [], "correctness": [], "ceilings": [], "kernels": [], "goals": []}
    found["note"] = (
        "Times are medians between events in the device's stream. Ceilings are measured on the same device just "
        "before. A linear layer's FLOP count both of its products; values are random ones that the kernel draws."
    )
    sections: dict[str, Any] = {"gpu": found}
    origin = environment(seed)

    def highest() -> dict[str, float]:
        return {row["name"]: row["value"] for row in found["ceilings"]}

    def steps() -> None:
        cases = step_time.TINY_CASES if tiny else CASES
        section = step_time.run_step_time(cases, 0.01 if tiny else 6.0, say, device)
        sections["step_time"] = section
        if not tiny:
            found["goals"].append(_mezo_goal(section))

    stages: dict[str, Callable[[], None]] = {
        "every op against the reference": lambda: found.update(
            correctness=correctness.run_correctness(device, seed)
        ),
        "ceilings": lambda: found.update(ceilings=ceilings.run_ceilings(device, tiny)),
        "kernels": lambda: found.update(kernels=kernels.run_kernels(device, highest(), tiny)),
        "goals": lambda: found.update(goals=kernels.run_goals(device, found["kernels"], tiny)),
        "steps": steps,
    }
    for name, stage in stages.items():
        say(name)
        try:
            with zo.use_engine("triton"):
                stage()
        # What a device does wrong must not hide what it does right.
        except Exception as problem:
            found["problems"].append(f"{name}: {type(problem).__name__}: {problem}".splitlines()[0])
        save(new_record(origin, sections, tiny))
    wrong = [
        row
        for row in (*found["correctness"], *found["kernels"])
        if row["problem"] or not row.get("passed", True)
    ]
    return not found["problems"] and not wrong


def _mezo_goal(section: dict[str, Any]) -> dict[str, Any]:
    case = next(each for each in section["cases"] if each["name"] == MEZO_CASE)
    times = {one["name"]: one["median_ms"] for one in case["contenders"]}
    ours = min(taken for name, taken in times.items() if name in ("zo", "zo-graph"))
    return {
        "name": f"times faster than the MeZO loop, {MEZO_CASE}",
        "goal": MEZO_GOAL,
        "measured": times["mezo"] / ours,
    }
