"""Random quality: what statistical tests say of the field's bits, moments and addresses."""

from __future__ import annotations

from benchmarks.report.section import Data, Findings, Section, Show
from zo_triton._tables import lay_out, number


def blocks(section: Data, show: Show) -> list[str]:
    """The field's tests, then the same tests on generators that they must flag."""
    return [
        "## Random quality",
        f"{section['note']} The smallest of all p-values is {number(section['smallest_p'])}. "
        f"{_verdict(section)}",
        batteries(section),
        "What follows what in a reading: "
        + "; ".join(f"*{name}*: {meaning}" for name, meaning in section["readings"].items())
        + ".",
        "#### Distributions",
        "z-scores of the moments of order 1 to 4 against their exact values, and the p-value of "
        "Kolmogorov and Smirnov "
        "for the first draw. *Exact*: no value can deviate, and none did.",
        distributions(section),
        "#### Addresses",
        "Blocks drawn at different addresses (seed, step, direction, tensor, part, block), and how "
        "many were equal.",
        addresses(section),
        "#### Planted generators",
        "The same tests on generators with a known fault, which they must flag.",
        planted(section),
    ]


def _verdict(section: Data) -> str:
    flagged = section["smallest_p"] < section["bound"]
    return "**The field was flagged.**" if flagged else "Nothing was flagged."


def findings(section: Data) -> Findings:
    """The smallest p-value, and every fault that was planted and went unnoticed."""
    count = len(section["tests"])
    sentence = (
        f"**Random quality**: {count} {'test' if count == 1 else 'tests'} of {section['words']} words; the "
        f"smallest p-value is {number(section['smallest_p'])}. {_verdict(section)}"
    )
    unnoticed = [row["name"] for row in section["planted"] if not row["flagged_by"]]
    if unnoticed:
        sentence += f" **Planted and not flagged: {', '.join(unnoticed)}.**"
    return Findings([sentence])


def batteries(section: Data) -> str:
    """One row a test, its p-value in each reading."""
    rows = [
        [test["name"], *(number(test["p"][reading]) for reading in section["readings"]), test["looks"]]
        for test in section["tests"]
    ]
    return lay_out(["test, p-value", *section["readings"], "looks at"], rows)


def distributions(section: Data) -> str:
    """One row a distribution."""
    rows = [
        [
            law["name"],
            str(law["values"]),
            *("exact" if z is None else f"{z:+.2f}" for z in law["z"]),
            number(law["ks"], missing="–"),
        ]
        for law in section["distributions"]
    ]
    return lay_out(
        ["distribution", "values", "mean", "second", "third", "fourth", "Kolmogorov–Smirnov p"], rows
    )


def addresses(section: Data) -> str:
    """One row a set of addresses."""
    rows = [[row["name"], str(row["addresses"]), str(row["collisions"])] for row in section["addresses"]]
    return lay_out(["addresses", "blocks", "equal"], rows)


def planted(section: Data) -> str:
    """One row a generator with a fault."""
    rows = [
        [row["name"], number(row["smallest_p"]), ", ".join(row["flagged_by"]) or "nothing"]
        for row in section["planted"]
    ]
    return lay_out(["generator", "smallest p", "flagged by"], rows)


SECTION = Section(
    name="field_quality",
    place=140,
    keys=(
        "note", "words", "bound", "smallest_p", "readings", "tests", "distributions", "addresses", "planted",
    ),
    blocks=blocks,
    findings=findings,
)  # fmt: skip
