"""One figure in two records, and what a machine's load does to all of them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import median

SCATTER = 3 * 1.4826
"""Three standard deviations in median absolute deviations: tens of figures are looked at together."""

WORSE, BETTER, SAME = "worse", "better", ""


@dataclass(frozen=True)
class Change:
    """One figure in both records.

    Attributes:
        what: Section, case and contender.
        before: With its unit.
        after: Likewise.
        ratio: After over before, above 1 is worse; infinite if only the later record failed to get there, 0 if only
            the earlier one did.
        low: Lower end of the ratio's interval.
        high: Upper end.
    """

    what: str
    before: str
    after: str
    ratio: float
    low: float
    high: float

    def verdict(self, allowed: float) -> str:
        """:data:`WORSE` or :data:`BETTER` if the whole interval is beyond the ratio or its inverse."""
        return WORSE if self.low > allowed else BETTER if self.high < 1 / allowed else SAME


def drift(pairs: list[tuple[float | None, float | None]]) -> tuple[float, float]:
    """How many times slower the machine was for code that is not ours, and how far a contender may be from that.

    The others' scatter about their median is what a machine does to one contender and not to the next.

    Args:
        pairs: Times before and after, of contenders that did not change.

    Returns:
        The median ratio, and a half-width of its logarithm.
    """
    ratios = [math.log(after / before) for before, after in pairs if before and after]
    if not ratios:
        return 1.0, 0.0
    middle = median(ratios)
    return math.exp(middle), SCATTER * median(abs(ratio - middle) for ratio in ratios)
