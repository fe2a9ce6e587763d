"""The report's section on the field's randomness, of its record alone."""

from __future__ import annotations

from typing import Any

from zo_triton._tables import lay_out, number


def random_quality(section: dict[str, Any], drawn: dict[str, str]) -> list[str]:
    """The section's blocks; ``drawn`` is not used, as there are no figures of it."""
    flagged = section["smallest_p"] < section["bound"]
    verdict = "**The field was flagged.**" if flagged else "Nothing was flagged."
    blocks = [
        "## Random quality",
        f"{section['note']} The smallest of all p-values is {number(section['smallest_p'])}. {verdict}",
        batteries(section),
        "What follows what in a reading: "
        + "; ".join(f"*{name}*: {meaning}" for name, meaning in section["readings"].items())
        + ".",
        "### Distributions",
        "z-scores of the moments of order 1 to 4 against their exact values, and the p-value of "
        "Kolmogorov and Smirnov "
        "for the first draw. *Exact*: no value can deviate, and none did.",
        distributions(section),
        "### Addresses",
        "Blocks drawn at different addresses (seed, step, direction, tensor, part, block), and how "
        "many were equal.",
        addresses(section),
        "### Planted generators",
        "The same tests on generators with a known fault, which they must flag.",
        planted(section),
    ]
    return blocks


def batteries(section: dict[str, Any]) -> str:
    """One row a test, its p-value in each reading."""
    rows = [
        [test["name"], *(number(test["p"][reading]) for reading in section["readings"]), test["looks"]]
        for test in section["tests"]
    ]
    return lay_out(["test, p-value", *section["readings"], "looks at"], rows)


def distributions(section: dict[str, Any]) -> str:
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


def addresses(section: dict[str, Any]) -> str:
    """One row a set of addresses."""
    rows = [[row["name"], str(row["addresses"]), str(row["collisions"])] for row in section["addresses"]]
    return lay_out(["addresses", "blocks", "equal"], rows)


def planted(section: dict[str, Any]) -> str:
    """One row a generator with a fault."""
    rows = [
        [row["name"], number(row["smallest_p"]), ", ".join(row["flagged_by"]) or "nothing"]
        for row in section["planted"]
    ]
    return lay_out(["generator", "smallest p", "flagged by"], rows)
