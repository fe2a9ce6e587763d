"""Calls every operator of torch's own list in every spelling, and counts what comes of it."""

from __future__ import annotations

import warnings
from collections import Counter

import zo_triton as zo
from benchmarks.audit.spellings import cases, samples
from benchmarks.audit.sweep import ANNOUNCED, CARRIED, CONSTANT, REFUSED, WRONG, outcome
from zo_triton._progress import Monitor

WORST_FIRST = (WRONG, REFUSED, ANNOUNCED, CARRIED, CONSTANT)


def measure(told: Monitor, number: int = 1) -> dict[str, Counter[str]]:
    """Spelling → outcome → operators; the worst of an operator's samples counts.

    Args:
        told: Hears of each spelling, and of whatever is wrong.
        number: Samples of each operator.
    """
    from torch.testing._internal.common_methods_invocations import op_db

    found: dict[str, Counter[str]] = {}
    for spelling, those in cases(op_db).items():
        counts: Counter[str] = Counter()
        for name, case in those.items():
            said = {CONSTANT: ""}
            with warnings.catch_warnings(), zo.use_engine("reference"):
                warnings.simplefilter("ignore")
                for sample in samples(case.op, number):
                    word, why = outcome(case.function, sample, **case.options)
                    said[word] = why
            if WRONG in said:
                told.say(f"{name}, {spelling}: {said[WRONG]}")
            counts[next(word for word in WORST_FIRST if word in said)] += 1
        told.say(f"{spelling}: " + ", ".join(f"{count} {word}" for word, count in counts.items()))
        found[spelling] = counts
    return found
