"""Renders report.md from a record alone: the same record gives the same bytes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from benchmarks.report import gpu_markdown, scaling, tables
from benchmarks.report.field_markdown import random_quality
from benchmarks.report.ops_table import ops
from benchmarks.report.records import Record, check_record, races_of
from benchmarks.report.summary import summarise
from zo_triton._tables import environment

BUSY = 0.3
"""Load a thread above which a warning is printed: threads then wait for a core in every parallel region."""

CAPTIONS = {
    "race_time": "Accuracy and loss against training time",
    "race_evaluations": "Accuracy and loss against forward evaluations",
    "throughput": "Evaluations a second over plain inference's, against the batch",
    "growth": "Milliseconds of a step against directions, batch and width",
    "step_time": "Step times",
    "step_split": "Where a fused step's time goes",
    "accuracy": "Error of a loss difference against ε",
    "memory": "Peak memory over inference",
    "scaling": "Milliseconds of a step against the number of ranks: two measured, the rest simulated",
}

Builder = Callable[[dict[str, Any], dict[str, str]], list[str]]
"""Makes a section's blocks of the section and of the drawn figures' names by their stems."""


def render(record: Record, figures: list[str]) -> str:
    """The report's text.

    Args:
        record: A valid record.
        figures: File names of drawn figures, beside the text; their stems choose their place.

    Returns:
        Markdown.

    Raises:
        ValueError: The record is not valid.
    """
    check_record(record, "the record to be rendered")
    sections = record["sections"]
    drawn = {name.rsplit(".", 1)[0]: name for name in figures}
    blocks = ["# Zeroth-order training with fused forward passes"]
    if record["tiny"]:
        blocks.append("> **A tiny run.** It proves that everything works; its numbers mean nothing.")
    if record["environment"].get("interrupted"):
        blocks.append("> **Interrupted.** What was finished by then is here, the rest is missing.")
    load, threads = record["environment"].get("load before"), record["environment"]["threads"]
    if load is not None and load > BUSY * threads:
        blocks.append(
            f"> **The machine was busy** before anything ran (load {load} on {threads} threads). Times, and "
            "the choices that a cap on the clock made, can't be trusted: repeat this on a quiet machine."
        )
    summary = summarise(record)
    if summary:
        blocks.append("\n".join(f"- {line}" for line in summary))
    for name, build in _BUILD.items():
        if name == "race":
            for stem, section in races_of(record).items():
                blocks += _race(section, drawn, stem)
        elif name in sections:
            blocks += build(sections[name], drawn)
    blocks += ["## Where the numbers come from", environment(record["environment"])]
    return "\n\n".join(blocks) + "\n"


def _picture(drawn: dict[str, str], stem: str) -> list[str]:
    if stem not in drawn:
        return []
    caption = CAPTIONS.get(stem) or CAPTIONS["race_time" if stem.endswith("_time") else "race_evaluations"]
    return [f"![{caption}]({drawn[stem]})"]


def _race(section: dict[str, Any], drawn: dict[str, str], stem: str = "race") -> list[str]:
    config = section["config"]
    # Records from before there were other networks hold the widths instead.
    network = section.get("network") or "ReLU network " + "-".join(map(str, config["sizes"]))
    seeds = len(config["seeds"])
    intro = (
        f"{network} ({section['parameters']} weights), batch {config['batch']}, "
        f"{seeds} {'seed' if seeds == 1 else 'seeds'}; for each seed all methods start from the same weights and "
        f"see the same batches. Zeroth-order methods walk K = {config['directions']} directions a step unless "
        "said. The clock runs during training steps only: evaluation, compilation and warm-up are outside. "
        "Times are medians over the seeds of the first checkpoint at or above the target, in brackets the "
        "quartiles; *set-up* is the first two steps, where compilation happens; *trials* are learning rates "
        "tried; a run ends at "
        f"the hardest target (plus a little, for the curves) or after {config['run_seconds']:g} s of "
        "training."
    )
    return [
        f"## The race: {section['task']}",
        intro,
        tables.race(section),
        *_picture(drawn, f"{stem}_time"),
        *_picture(drawn, f"{stem}_evaluations"),
        "### How the learning rates were chosen",
        section["tuning"]["note"],
        tables.sweep(section),
    ]


def _case_by_case(title: str, table: Callable[[dict[str, Any]], str], stem: str) -> Builder:
    def build(section: dict[str, Any], drawn: dict[str, str]) -> list[str]:
        blocks = [f"## {title}", section["note"]]
        for case in section["cases"]:
            blocks += [f"### {case['name']}", table(case)]
        return blocks + _picture(drawn, stem)

    return build


def _step_split(section: dict[str, Any], drawn: dict[str, str]) -> list[str]:
    return [
        "## Where a step's time goes",
        section["note"],
        tables.step_split(section),
        *_picture(drawn, "step_split"),
    ]


def _accuracy(section: dict[str, Any], drawn: dict[str, str]) -> list[str]:
    intro = (
        f"Median over {section['directions']} directions of |Δ − Δ₆₄|/|Δ₆₄| with Δ₆₄ the float64 "
        f"difference along the same direction; network {section['model']}, batch {section['batch']}, "
        "cross-entropy. *Propagated* carries differences from layer to layer; *direct* subtracts two losses."
    )
    return ["## Accuracy of a loss difference", intro, tables.accuracy(section), *_picture(drawn, "accuracy")]


def _curves(section: dict[str, Any], drawn: dict[str, str]) -> list[str]:
    plain = section["throughput"]
    blocks = [
        "## Cost curves", section["note"],
        f"### Throughput over plain inference: {plain['network']}, K = {plain['directions']}",
        tables.throughput(plain), *_picture(drawn, "throughput"),
    ]  # fmt: skip
    for curve in section["growth"]:
        blocks += [f"### Growth with {curve['axis']} ({curve['fixed']})", tables.growth(curve)]
    return blocks + _picture(drawn, "growth")


def _gate(section: dict[str, Any], drawn: dict[str, str]) -> list[str]:
    return ["## The gate: kernels against theory", section["note"], tables.gate(section)]


def _benchmarks(section: dict[str, Any], drawn: dict[str, str]) -> list[str]:
    intro = (
        "From `pytest --benchmark`: each passed its correctness gate first; compilation is not in the times."
    )
    summary = ops(section)
    return [
        "## Benchmarks", intro, *(["### Ops", *summary] if summary else []), "### Every benchmark",
        tables.benchmarks(section),
    ]  # fmt: skip


def _scaling(section: dict[str, Any], drawn: dict[str, str]) -> list[str]:
    return [
        "## Many ranks", section["note"], "### Measured", *scaling.measured(section), "### Simulated",
        scaling.simulated(section), *_picture(drawn, "scaling"),
    ]  # fmt: skip


_BUILD: dict[str, Builder] = {
    "gpu_goals": gpu_markdown.goals,
    "race": _race,
    "step_time": _case_by_case("Step time", tables.step_time, "step_time"),
    "step_split": _step_split,
    "curves": _curves,
    "accuracy": _accuracy,
    "memory": _case_by_case("Peak memory", tables.memory, "memory"),
    "gpu_layers": gpu_markdown.layers,
    "gpu_kernels": gpu_markdown.kernels,
    "gpu_ceilings": gpu_markdown.ceilings,
    "gpu_checks": gpu_markdown.checks,
    "gate": _gate,
    "gpu_stages": gpu_markdown.stages,
    "field_quality": random_quality,
    "benchmarks": _benchmarks,
    "scaling": _scaling,
}
