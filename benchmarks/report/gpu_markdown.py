"""The sections that only a GPU run has, as Markdown: goals first, then what they rest on."""

from __future__ import annotations

from typing import Any

from zo_triton._tables import lay_out, number

Section = dict[str, Any]
MISSING = "–"


def goals(section: Section, drawn: dict[str, str]) -> list[str]:
    """Each goal beside what was measured."""
    rows = [
        [
            row["label"],
            f"{'≥' if row['at_least'] else '≤'} {row['goal']:g}",
            number(row["measured"], missing=MISSING),
            row["verdict"] if row["verdict"] == "met" else f"**{row['verdict']}**",
        ]
        for row in section["rows"]
    ]
    return ["## Goals", section["note"], lay_out(["figure", "goal", "measured", ""], rows)]


def stages(section: Section, drawn: dict[str, str]) -> list[str]:
    """Each stage, and everything that failed or was left out."""
    rows = [
        [row["name"], row["status"], number(row["seconds"], missing=MISSING), number(row["budget"])]
        for row in section["rows"]
    ]
    blocks = ["## Stages", section["note"], lay_out(["stage", "", "seconds", "at most"], rows)]
    listed = [
        f"- {one['stage']}, {one['what']}: **{one['status']}**, {_plain(one['message'])}"
        for one in section["incidents"]
    ]
    return [*blocks, "\n".join(listed)] if listed else blocks


def checks(section: Section, drawn: dict[str, str]) -> list[str]:
    """Each operation's error beside what is allowed."""
    rows = [
        [row["op"], row["case"], _error(row["error"]), _error(row["allowed"]), _status(row["status"])]
        for row in section["rows"]
    ]
    return [
        "## Checks against float64", section["note"],
        lay_out(["operation", "case", "error", "allowed", ""], rows),
    ]  # fmt: skip


def ceilings(section: Section, drawn: dict[str, str]) -> list[str]:
    """What the device reaches on plain work."""
    rows = [[row["name"], number(row["value"], row["unit"], MISSING)] for row in section["rows"]]
    return ["## Ceilings", section["note"], lay_out(["ceiling", "measured"], rows)]


def kernels(section: Section, drawn: dict[str, str]) -> list[str]:
    """Each kernel's time and rates."""
    rows = []
    for row in section["rows"]:
        if row["ms"] is None:
            rows.append([row["op"], row["case"], "**not measured**", *[MISSING] * 4])
            continue
        rates = [number(row[name], missing=MISSING) for name in ("tflops", "gvalues", "gbytes")]
        share = row.get("share")
        held = MISSING if share is None else f"{100 * share:.3g} % of {row['ceiling']}"
        if row["trust"] != "passed":
            held = f"**not counted: {row['trust']}**"
        rows.append([row["op"], row["case"], number(row["ms"]), *rates, held])
    headers = ["operation", "case", "ms", "TFLOP/s", "10⁹ values/s", "GB/s", "of ceiling"]
    return ["## Kernels", section["note"], lay_out(headers, rows)]


def layers(section: Section, drawn: dict[str, str]) -> list[str]:
    """Evaluations of a layer against plain passes through it."""
    rows = [
        [row["name"], *(number(row[key], missing=MISSING) for key in ("per_second", "share", "limit"))]
        for row in section["rows"]
    ]
    plain = f"A plain pass takes {number(section['pass_us'], 'µs', 'an unknown time')}."
    return [
        "## The cost of inference", section["note"], plain,
        lay_out(["layer", "a second", "over passes a second", "limit"], rows),
    ]  # fmt: skip


def summarise_goals(section: Section) -> tuple[str, list[tuple[str, str]]]:
    """One sentence for the report's first screen, and the goals that were missed."""
    parts = []
    for row in section["rows"]:
        reached = "" if row["measured"] is None else f", measured {row['measured']:g}"
        parts.append(f"{row['label']}: goal {row['goal']:g}{reached}: {row['verdict']}")
    missed = [row["label"] for row in section["rows"] if row["verdict"] == "missed"]
    met = sum(row["verdict"] == "met" for row in section["rows"])
    sentence = f"**{met} of {len(parts)} goals met.** {'; '.join(parts)}."
    return sentence, [("goals missed", label) for label in missed]


def summarise_checks(section: Section) -> tuple[str, list[tuple[str, str]]]:
    """One sentence for the report's first screen: no speed is worth reading of what is wrong."""
    counts = dict.fromkeys(("passed", "failed", "left out"), 0)
    for row in section["rows"]:
        counts[row["status"]] += 1
    wrong = [f"{row['op']} ({row['case']})" for row in section["rows"] if row["status"] == "failed"]
    tail = f" **Wrong: {', '.join(wrong)}.**" if wrong else ""
    listed = ", ".join(f"{count} {status}" for status, count in counts.items())
    return f"**Checks against float64**: {listed}.{tail}", []


def _error(value: float | None) -> str:
    return MISSING if value is None else f"{value:.1e}" if value else "0"


def _status(status: str) -> str:
    return status if status == "passed" else f"**{status}**"


def _plain(text: str) -> str:
    """A message that no Markdown can be made of."""
    return "`" + text.replace("`", "'") + "`"
