"""Compatibility: what comes of a strict step of models that other people wrote."""

from __future__ import annotations

from benchmarks.report.section import Data, Findings, Section, Show
from zo_triton._tables import lay_out, number

MEANINGS = {
    "strict": "a strict step, and the right differences",
    "kept": "a strict step, and the right differences for the choices made at the base point: along most "
    "directions a top-k or a comparison comes out otherwise, and that jump is not followed",
    "rounded": "a strict step, past the bound; backpropagation in the same dtype is off by as much",
    "announced": "the right differences with `strict=False`; a warning names the function that is subtracted",
    "refused": "an error that names the function and the remedy",
    "wrong": "other differences than the measured ones, and no warning",
    "crashed": "an error that was not meant",
    "not run": "the model itself fails here",
}


def blocks(section: Data, show: Show) -> list[str]:
    """The counts, then a table for each kind of model."""
    bounds = ", ".join(f"{number(bound)} with {dtype} weights" for dtype, bound in section["bounds"].items())
    result = [
        "## Compatibility",
        f"{_sentence(section)} Each model comes from a small configuration with random weights and is evaluated "
        "as a training step evaluates it: in training mode with dropout, its cache and all other settings at "
        f"their defaults, ε = {number(section['eps'])}, {section['directions']} directions. The measure is a "
        "float64 copy, moved along the same directions and subtracted, which draws the same dropout masks. The "
        f"error is the median over directions of |found − measured| / |measured|, and may be {bounds}.",
        lay_out(
            ["outcome", "models", "meaning"],
            [[word, str(section["counts"].get(word, 0)), meaning] for word, meaning in MEANINGS.items()],
        ),
        "Packages: " + ", ".join(f"{name} {version}" for name, version in section["packages"].items()) + ".",
    ]
    for kind in section["kinds"]:
        result.append(f"#### {kind['title']}")
        if kind["missing"]:
            result.append(f"Left out: {' and '.join(kind['missing'])} can't be imported here.")
        else:
            result.append(
                lay_out(["model", "outcome", "error", "remark"], [_row(row) for row in kind["rows"]])
            )
    return result


def findings(section: Data) -> Findings:
    """How many step strictly."""
    return Findings([f"**Compatibility**: {_sentence(section)}"])


def _sentence(section: Data) -> str:
    counts = section["counts"]
    total = sum(counts.values()) - counts.get("not run", 0)
    strictly, bad = counts.get("strict", 0), counts.get("wrong", 0) + counts.get("crashed", 0)
    share = f" ({100 * strictly / total:.1f} %)" if total else ""
    told = [f"{strictly} of {total} models take a strict step with the right differences{share}"]
    if kept := counts.get("kept"):
        told.append(f"{kept} more do for the base's choices, which others replace at θ + εz")
    if rounded := counts.get("rounded"):
        told.append(f"{rounded} more is as far beyond the bound as backpropagation in the same dtype")
    return "; ".join([*told, f"{bad} are wrong or crash."])


def _row(row: Data) -> list[str]:
    return [row["name"], row["word"], number(row["error"], missing="–"), row["why"]]


SECTION = Section(
    name="compatibility",
    place=145,
    keys=("eps", "directions", "bounds", "packages", "counts", "kinds"),
    blocks=blocks,
    findings=findings,
    title=lambda section: ["# A strict step of other people's models"],
)
