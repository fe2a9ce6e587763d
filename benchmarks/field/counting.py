"""Counts over a chunk of words, compiled: what the batteries make p-values of.

Every function adds to an int64 array that the caller keeps from chunk to chunk.
"""

from __future__ import annotations

import numpy as np
from numba import njit, uint32, uint64

compiled = njit(cache=True, nogil=True)


@compiled
def popcount(word):
    """Set bits of a uint64."""
    word = word - ((word >> uint64(1)) & uint64(0x5555555555555555))
    word = (word & uint64(0x3333333333333333)) + ((word >> uint64(2)) & uint64(0x3333333333333333))
    word = (word + (word >> uint64(4))) & uint64(0x0F0F0F0F0F0F0F0F)
    return np.int64((word * uint64(0x0101010101010101)) >> uint64(56))


@compiled
def count_bytes(words, single, pairs):
    """Bytes by their place, single [4, 256], and pairs of successive words' top bytes, pairs [65536]."""
    for i in range(words.size // 2):
        first, second = words[2 * i], words[2 * i + 1]
        for place in range(4):
            single[place, (first >> uint32(8 * place)) & uint32(255)] += 1
            single[place, (second >> uint32(8 * place)) & uint32(255)] += 1
        pairs[((first >> uint32(24)) << uint32(8)) | (second >> uint32(24))] += 1


@compiled
def count_gaps(words, low, high, gaps):
    """Words between two whose value lies in [low, high): gaps [longest + 1], the last for all longer ones."""
    gap = -1
    for word in words:
        if low <= word < high:
            if gap >= 0:
                gaps[min(gap, gaps.size - 1)] += 1
            gap = 0
        elif gap >= 0:
            gap += 1


@compiled
def count_runs(words, runs):
    """Lengths of ascending runs, the word that ends one left out: runs [longest], the last for all longer ones.

    Knuth, The Art of Computer Programming 2, 3.3.2 G and exercise 14: runs are independent then.
    """
    length, i = 1, 1
    while i < words.size:
        if words[i] >= words[i - 1]:
            length += 1
            i += 1
        else:
            runs[min(length, runs.size) - 1] += 1
            length = 1
            i += 2


@compiled
def count_changes(words):
    """Bits that differ from the bit before, over the chunk as one string of bits, lowest bit first."""
    changes = np.int64(0)
    for i in range(words.size):
        word = uint64(words[i])
        if i + 1 < words.size:
            word |= uint64(words[i + 1] & uint32(1)) << uint64(32)
            changes += popcount((word ^ (word >> uint64(1))) & uint64(0xFFFFFFFF))
        else:
            changes += popcount((word ^ (word >> uint64(1))) & uint64(0x7FFFFFFF))
    return changes


@compiled
def count_weights(words, cells):
    """Classes of Hamming weight (below 16, 16, above) of five successive words: cells [243]."""
    for i in range(words.size // 5):
        cell = 0
        for j in range(5):
            weight = popcount(uint64(words[5 * i + j]))
            cell = 3 * cell + (0 if weight < 16 else 1 if weight == 16 else 2)
        cells[cell] += 1


@compiled
def count_ranks(words, ranks):
    """Ranks of 32 × 32 matrices over two elements, 32 words each: ranks [33]."""
    rows = np.empty(32, np.uint32)
    for matrix in range(words.size // 32):
        for i in range(32):
            rows[i] = words[32 * matrix + i]
        rank = 0
        for column in range(32):
            bit = uint32(1) << uint32(column)
            pivot = rank
            while pivot < 32 and not rows[pivot] & bit:
                pivot += 1
            if pivot == 32:
                continue
            taken = rows[pivot]
            rows[pivot] = rows[rank]
            for i in range(rank + 1, 32):
                if rows[i] & bit:
                    rows[i] ^= taken
            rank += 1
        ranks[rank] += 1


@compiled
def count_equal_bits(words, within, across):
    """Agreements of bits i and j: of one word, within [32, 32], and of a word and the next, across [32, 32].

    ``words.size`` must be a multiple of 64. Bits are sliced: 64 words' bits i make one word of plane i.
    """
    planes, following = np.empty(32, np.uint64), np.empty(32, np.uint64)
    for group in range(words.size // 64):
        for bit in range(32):
            plane = uint64(0)
            for i in range(64):
                plane |= uint64((words[64 * group + i] >> uint32(bit)) & uint32(1)) << uint64(i)
            planes[bit] = plane
        for bit in range(32):
            following[bit] = planes[bit] >> uint64(1)
        for i in range(32):
            for j in range(i):
                within[i, j] += 64 - popcount(planes[i] ^ planes[j])
            for j in range(32):
                # 63 words of a group have a next one in it.
                difference = (planes[i] ^ following[j]) & uint64(0x7FFFFFFFFFFFFFFF)
                across[i, j] += 63 - popcount(difference)


@compiled
def count_equal_streams(words, agreements):
    """Agreeing bits of streams i and j of an interleaved chunk: agreements [64, 64], of which i > j is filled."""
    streams = agreements.shape[0]
    for start in range(0, words.size - streams + 1, streams):
        for i in range(streams):
            for j in range(i):
                agreements[i, j] += 32 - popcount(uint64(words[start + i] ^ words[start + j]))
