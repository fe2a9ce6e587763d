"""Tests of a stream of words, each with one p-value for the whole stream.

Sources: Knuth, The Art of Computer Programming 2, 3.3.2 (frequency, serial, gap, runs); Marsaglia's Diehard (rank,
birthday spacings; L'Ecuyer and Simard, "On the performance of birthday spacings tests", 2001, for their sizes);
Blackman and Vigna, "A new test for Hamming-weight dependencies", 2022.

A p-value is two-sided: counts that are too even are as suspicious as too uneven ones.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import comb, factorial

import numpy as np
from scipy import stats

from benchmarks.field import counting
from benchmarks.field.words import NEIGHBOURS

TESTS = {
    "bits": "each of the 32 bits is 1 half of the time",
    "bytes": "all 256 bytes equally often, at each of the four places",
    "serial pairs": "all 65 536 pairs of successive words' top bytes",
    "gaps": "words between two in the lowest, and two in the highest, sixteenth",
    "runs": "lengths of ascending runs of words",
    "bit runs": "changes between successive bits, that is runs of signs",
    "bits of a word": "agreement of every two of the 32 bits",
    "bits of two words": "agreement of each bit with each bit of the next word",
    "streams": "agreement of every two of the 64 interleaved streams",
    "Hamming weights": "classes of five successive words' numbers of ones",
    "matrix rank": "of 32 × 32 bits, in a quarter of the words",
    "birthday spacings": "equal spacings of 2¹⁸ birthdays in a year of 2⁵² days",
}
"""What each test looks at."""

_GAP_WORDS = 16
_LONGEST_GAP, _LONGEST_RUN = 80, 9
_BIRTHDAYS, _DAYS_BITS = 1 << 18, 52


class Battery:
    """Every test over one stream, chunk by chunk."""

    def __init__(self) -> None:
        self.words = 0
        self._bytes, self._pairs = np.zeros((4, 256), np.int64), np.zeros(65536, np.int64)
        self._low, self._high = (np.zeros(_LONGEST_GAP + 1, np.int64) for _ in range(2))
        self._runs = np.zeros(_LONGEST_RUN, np.int64)
        self._changes = self._bit_pairs = 0
        self._weights = np.zeros(243, np.int64)
        self._ranks = np.zeros(33, np.int64)
        self._within, self._across = (np.zeros((32, 32), np.int64) for _ in range(2))
        self._streams = np.zeros((NEIGHBOURS, NEIGHBOURS), np.int64)
        self._coincidences = self._years = 0

    def add(self, words: np.ndarray) -> None:
        """Counts one chunk, uint32 [a multiple of 2·2¹⁸]."""
        sixteenth = 2**32 // _GAP_WORDS
        self.words += words.size
        counting.count_bytes(words, self._bytes, self._pairs)
        counting.count_gaps(words, 0, sixteenth, self._low)
        counting.count_gaps(words, 2**32 - sixteenth, 2**32, self._high)
        counting.count_runs(words, self._runs)
        self._changes += counting.count_changes(words)
        self._bit_pairs += 32 * words.size - 1
        counting.count_weights(words, self._weights)
        counting.count_ranks(words[: words.size // 4], self._ranks)  # the slowest by far
        counting.count_equal_bits(words, self._within, self._across)
        counting.count_equal_streams(words, self._streams)
        self._add_birthdays(words)

    def _add_birthdays(self, words: np.ndarray) -> None:
        shift = np.uint64(64 - _DAYS_BITS)
        pairs = (
            words[: words.size // (2 * _BIRTHDAYS) * 2 * _BIRTHDAYS]
            .reshape(-1, _BIRTHDAYS, 2)
            .astype(np.uint64)
        )
        days = (pairs[:, :, 0] << np.uint64(32) | pairs[:, :, 1]) >> shift
        days.sort(axis=1)
        spacings = np.diff(days, axis=1)
        spacings.sort(axis=1)
        self._coincidences += int((spacings[:, 1:] == spacings[:, :-1]).sum())
        self._years += len(days)

    def p_values(self) -> dict[str, float]:
        """Of every test in :data:`TESTS`, in (0, 1]: how often chance is at least as far from what is expected."""
        ones = (self._bytes[:, :, None] * (np.arange(256)[:, None] >> np.arange(8) & 1)).sum(1).ravel()
        return {
            "bits": _agreements(ones, self.words),
            "bytes": _chi_square(self._bytes, np.full((4, 256), 1 / 256)),
            "serial pairs": _chi_square(self._pairs, np.full(65536, 1 / 65536)),
            "gaps": _chi_square(np.stack([self._low, self._high]), np.stack([_gap_chances()] * 2)),
            "runs": _chi_square(self._runs, _run_chances()),
            "bit runs": _agreements(np.array([self._changes]), self._bit_pairs),
            "bits of a word": _agreements(self._within[np.tril_indices(32, -1)], self.words),
            "bits of two words": _agreements(self._across.ravel(), self.words // 64 * 63),
            "streams": _agreements(
                self._streams[np.tril_indices(NEIGHBOURS, -1)], 32 * (self.words // NEIGHBOURS)
            ),
            "Hamming weights": _chi_square(self._weights, _weight_chances()),
            "matrix rank": _chi_square(
                np.array([self._ranks[:30].sum(), *self._ranks[30:]]), _rank_chances()
            ),
            "birthday spacings": _poisson(
                self._coincidences, self._years * _BIRTHDAYS**3 / 2 ** (_DAYS_BITS + 2)
            ),
        }


def _chi_square(counts: np.ndarray, chances: np.ndarray) -> float:
    """Pearson's; one table, or several below each other with rows of their own."""
    counts, chances = np.atleast_2d(counts).astype(float), np.atleast_2d(chances)
    expected = counts.sum(axis=1, keepdims=True) * chances
    if not expected.all():
        return np.finfo(float).tiny  # nothing was counted that every random stream is full of
    statistic = float(((counts - expected) ** 2 / expected).sum())
    return _two_sided(stats.chi2(counts.shape[0] * (counts.shape[1] - 1)), statistic)


def _agreements(counts: Iterable[int], trials: int) -> float:
    """Of independent counts of fair coins, by the sum of their squared z-scores."""
    z = (np.asarray(counts, float) - trials / 2) / (trials / 4) ** 0.5
    return _two_sided(stats.chi2(z.size), float((z**2).sum()))


def _poisson(count: int, mean: float) -> float:
    law = stats.poisson(mean)
    return max(np.finfo(float).tiny, min(1.0, 2 * min(law.cdf(count), law.sf(count - 1))))


def _two_sided(law: stats.rv_continuous, statistic: float) -> float:
    return max(np.finfo(float).tiny, min(1.0, 2 * min(law.cdf(statistic), law.sf(statistic))))


def _gap_chances() -> np.ndarray:
    hit = 1 / _GAP_WORDS
    chances = hit * (1 - hit) ** np.arange(_LONGEST_GAP)
    return np.append(chances, 1 - chances.sum())


def _run_chances() -> np.ndarray:
    chances = [1 / factorial(length) - 1 / factorial(length + 1) for length in range(1, _LONGEST_RUN)]
    return np.append(chances, 1 / factorial(_LONGEST_RUN))


def _weight_chances() -> np.ndarray:
    middle = comb(32, 16) / 2**32
    single = np.array([(1 - middle) / 2, middle, (1 - middle) / 2])
    chances = single
    for _ in range(4):
        chances = np.multiply.outer(chances, single).ravel()
    return chances


def _rank_chances() -> np.ndarray:
    """Of ranks up to 29, 30, 31 and 32."""

    def chance(rank: int) -> float:
        product = 2.0 ** (rank * (64 - rank) - 1024)
        for i in range(rank):
            product *= (1 - 2.0 ** (i - 32)) ** 2 / (1 - 2.0 ** (i - rank))
        return product

    exact = [chance(rank) for rank in (30, 31, 32)]
    return np.array([1 - sum(exact), *exact])
