"""The batteries count rightly, find planted faults, and find none in the field. All sizes are fixed."""

from itertools import pairwise

import numpy as np
import pytest

from benchmarks.field import batteries, counting, planted
from benchmarks.field.batteries import TESTS, Battery
from benchmarks.field.run import BOUND
from benchmarks.field.words import CHUNK, READINGS, read_field

SEED = 20260101
WORDS = np.random.default_rng(5).integers(2**32, size=640, dtype=np.uint32)
BITS = WORDS[:, None] >> np.arange(32, dtype=np.uint32) & 1
"""[640, 32], bit by bit: what the counts are checked with."""


def p_values(words):
    battery = Battery()
    battery.add(words)
    return battery.p_values()


@pytest.mark.parametrize("reading", READINGS)
def test_the_field_is_not_flagged(reading):
    found = p_values(read_field(reading, SEED, 0)[: CHUNK // 2])
    assert set(found) == set(TESTS)
    assert min(found.values()) > BOUND, found


FAULTS = {
    "the low bits of an LCG": {"bits", "bits of two words", "matrix rank", "birthday spacings"},
    "a counter without mixing": {"serial pairs", "gaps", "runs", "birthday spacings"},
    "neighbouring streams that are equal": {"streams", "matrix rank", "serial pairs", "Hamming weights"},
    "neighbouring streams that overlap": {"birthday spacings", "gaps", "bits of a word"},
    "one bit with a bias of 1 %": {"bits", "bytes"},
}


@pytest.mark.parametrize("name", planted.PLANTED)
def test_planted_faults_are_flagged(name):
    found = p_values(planted.PLANTED[name]("directions", SEED, 0))
    flagged = {test for test, p in found.items() if p < BOUND}
    assert flagged >= FAULTS[name], found


def test_good_words_of_another_generator_are_not_flagged():
    words = np.random.default_rng(SEED).integers(2**32, size=CHUNK, dtype=np.uint32)
    assert min(p_values(words).values()) > BOUND


@pytest.mark.parametrize(("test", "damage"), {
    "runs": lambda words: np.sort(words.reshape(-1, 3), axis=1).ravel(),
    "bit runs": lambda words: words & ~(words >> np.uint32(1) & np.uint32(0x01010101)),
    "gaps": lambda words: np.where(np.arange(words.size) % 16, words | np.uint32(1 << 28), words >> np.uint32(4)),
    "Hamming weights": lambda words: np.where(np.arange(words.size) % 2, ~np.roll(words, 1), words),
    "matrix rank": lambda words: np.where(np.arange(words.size) % 32, words, np.roll(words, -1)),
    "birthday spacings": lambda words: words & np.uint32(0xFFFFF000),
}.items(), ids=lambda each: each if isinstance(each, str) else "")  # fmt: skip
def test_each_test_finds_the_fault_it_is_for(test, damage):
    words = np.random.default_rng(SEED).integers(2**32, size=3 * CHUNK, dtype=np.uint32)
    assert p_values(damage(words)[:CHUNK].astype(np.uint32))[test] < BOUND


def test_bytes_and_pairs_are_counted():
    single, pairs = np.zeros((4, 256), np.int64), np.zeros(65536, np.int64)
    counting.count_bytes(WORDS, single, pairs)
    places = WORDS.view("<u1").reshape(-1, 4)
    for place in range(4):
        assert np.array_equal(single[place], np.bincount(places[:, place], minlength=256))
    first, second = places[::2, 3].astype(int), places[1::2, 3]
    assert np.array_equal(pairs, np.bincount(256 * first + second, minlength=65536))


def test_gaps_are_counted():
    gaps = np.zeros(6, np.int64)
    counting.count_gaps(WORDS, 0, 2**30, gaps)
    between = np.diff(np.flatnonzero(WORDS < 2**30)) - 1
    assert np.array_equal(gaps, np.bincount(np.minimum(between, 5), minlength=6))


def test_runs_are_counted():
    runs = np.zeros(4, np.int64)
    counting.count_runs(np.array([3, 5, 7, 1, 2, 0, 9, 9, 4, 6], np.uint32), runs)
    # 3 5 7, without the 1; 2, without the 0; 9 9, without the 4; 6 goes on beyond the end.
    assert runs.tolist() == [1, 1, 1, 0]


def test_changes_of_bits_are_counted():
    string = BITS.ravel()
    assert counting.count_changes(WORDS) == sum(int(one != other) for one, other in pairwise(string))


def test_weights_are_counted():
    cells = np.zeros(243, np.int64)
    counting.count_weights(WORDS, cells)
    kinds = 1 + np.sign(BITS.sum(1).astype(int) - 16)
    expected = np.bincount(kinds.reshape(-1, 5) @ (3 ** np.arange(5)[::-1]), minlength=243)
    assert np.array_equal(cells, expected)


def test_ranks_are_counted():
    ranks = np.zeros(33, np.int64)
    ones = np.ones(32, np.uint32)
    unit = np.uint32(1) << np.arange(32, dtype=np.uint32)
    counting.count_ranks(np.concatenate([ones, unit, unit | np.uint32(1), 0 * ones]), ranks)
    assert {rank: int(count) for rank, count in enumerate(ranks) if count} == {0: 1, 1: 1, 32: 2}


def test_agreements_of_bits_are_counted():
    within, across = np.zeros((32, 32), np.int64), np.zeros((32, 32), np.int64)
    counting.count_equal_bits(WORDS, within, across)
    groups = BITS.reshape(10, 64, 32)
    for i, j in ((1, 0), (31, 7), (16, 15)):
        assert within[i, j] == (groups[..., i] == groups[..., j]).sum()
    for i, j in ((0, 0), (3, 30), (31, 31)):
        assert across[i, j] == (groups[:, :-1, i] == groups[:, 1:, j]).sum()


def test_agreements_of_streams_are_counted():
    agreements = np.zeros((64, 64), np.int64)
    counting.count_equal_streams(WORDS, agreements)
    streams = BITS.reshape(10, 64, 32)
    for i, j in ((1, 0), (63, 62), (40, 3)):
        assert agreements[i, j] == (streams[:, i] == streams[:, j]).sum()


@pytest.mark.parametrize("chances", [
    batteries._gap_chances(), batteries._run_chances(), batteries._weight_chances(), batteries._rank_chances(),
])  # fmt: skip
def test_chances_are_chances(chances):
    assert chances.min() > 0
    assert chances.sum() == pytest.approx(1)


def test_the_chances_of_ranks_are_the_published_ones():
    # Marsaglia and Tsay, "Matrices and the structure of random number sequences", 1985.
    assert batteries._rank_chances() == pytest.approx(
        [0.0052854502, 0.1283502644, 0.5775761902, 0.2887880952]
    )


def test_an_unknown_reading_is_refused():
    with pytest.raises(ValueError, match=r"unknown reading 'diagonals'; choose one of \('columns', "):
        read_field("diagonals", 0, 0)
