"""The addresses of a text's headings, as GitHub makes them, so that the same links work there and on the page."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable


class Anchors:
    """Gives each heading of a text its address; equal ones are numbered in their order."""

    def __init__(self, headings: Iterable[str] = ()) -> None:
        self._seen: Counter[str] = Counter()
        for heading in headings:
            self.of(heading)

    def of(self, heading: str) -> str:
        """The next heading's address: lower case, without punctuation, a hyphen for each space."""
        plain = re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-")
        count = self._seen[plain]
        self._seen[plain] += 1
        return f"{plain}-{count}" if count else plain
