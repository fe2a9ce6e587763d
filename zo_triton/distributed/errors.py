"""The error of a run on many ranks that can't go on."""

from __future__ import annotations

from collections.abc import Iterable


class RankError(RuntimeError):
    """Some ranks are gone, or are not in the state that the others are in.

    Attributes:
        ranks: Their numbers, in order.
    """

    ranks: tuple[int, ...]

    def __init__(self, message: str, ranks: Iterable[int]) -> None:
        super().__init__(message)
        self.ranks = tuple(ranks)


def spell(ranks: Iterable[int]) -> str:
    """``rank 2``, or ``ranks 2 and 3``."""
    numbers = [str(rank) for rank in ranks]
    if len(numbers) == 1:
        return f"rank {numbers[0]}"
    return f"ranks {', '.join(numbers[:-1])} and {numbers[-1]}"
