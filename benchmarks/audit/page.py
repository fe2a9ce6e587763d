"""The page ``docs/coverage.md``: what becomes of a difference, first in counts, then by name."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import torch

from benchmarks.audit.names import CARRIED, MEANINGS, NONE, words
from benchmarks.audit.ways import WAYS
from zo_triton._tables import lay_out

PAGE = Path(__file__).resolve().parents[2] / "docs" / "coverage.md"

_MEASURED = "## Measured on torch's own list of operators"
"""What stands before this heading can be told without calling anything."""


def told(measured: dict[str, Counter[str]]) -> str:
    """The whole page.

    Args:
        measured: Spelling → outcome → how many operators, as :func:`benchmarks.audit.run.measure` counts them.
    """
    outcomes = sorted({outcome for counts in measured.values() for outcome in counts})
    rows = [
        [spelling, *(str(counts[outcome]) for outcome in outcomes)] for spelling, counts in measured.items()
    ]
    return "\n\n".join(
        [
            known(),
            _MEASURED,
            "`op_db` of `torch.testing` has sample arguments for every operator. Each is called with its first "
            "sample in each spelling, and the differences are compared with float64 values at the moved points. "
            "`constant` also counts what torch itself refuses. A nightly test does it with all samples; none "
            "may be `wrong`.",
            lay_out(["spelling", *outcomes], rows),
            "",
        ]
    )


def known() -> str:
    """The page's part that needs no measuring."""
    found = words()
    counts = {space: Counter(names.values()) for space, names in found.items()}
    rows = [[f"`{space}`", *(str(each[word] or "") for word in MEANINGS)] for space, each in counts.items()]
    parts = [
        "# What becomes of each torch function",
        f"Made by `python -m benchmarks audit` with torch {_version()}. Each name that takes a tensor, and each "
        "way into or out of one, does one of these things to a difference:",
        "\n".join(f"* **{word}**: {meaning}" for word, meaning in MEANINGS.items()),
        lay_out(["", *MEANINGS], rows),
        "## Ways into and out of tensors",
        "h depends on the trained parameters. Each row is tried by a test.",
        lay_out(["way", "what becomes of the difference"], [[way, word] for way, (word, _) in WAYS.items()]),
        "What is `constant` flows back into the loss unseen: `.item()` and `float()` serve control flow and "
        "logging, where the base's value is the right one. If the loss depends on such a number, wrap the "
        "closure in [`zo.BlackBox`](tutorial.md#losses-that-torch-cant-see-into).",
        "## By name",
        f"What is not listed is {CARRIED} ([the rules](difference-propagation.md#the-rules)) or has {NONE}.",
    ]
    for space, names in found.items():
        listed = [word for word in MEANINGS if word not in (CARRIED, NONE) and counts[space][word]]
        if listed:
            parts.append(f"### `{space}`")
        for word in listed:
            named = " ".join(f"`{name}`" for name, its in names.items() if its == word)
            parts.append(f"**{word}**: {named}")
    return "\n\n".join(parts)


def is_current(page: str) -> bool | None:
    """Whether a page says what is known now; None if it was made with another torch."""
    if f"with torch {_version()}." not in page:
        return None
    return page.partition(_MEASURED)[0].rstrip() == known()


def _version() -> str:
    return torch.__version__.partition("+")[0]
