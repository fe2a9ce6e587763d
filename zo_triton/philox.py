"""The counter-based generator in NumPy: what the specification and the host draw with."""

from __future__ import annotations

import numpy as np

from zo_triton.directions import PHILOX_MULTIPLIERS, PHILOX_WEYL


def philox(counter: np.ndarray, key: tuple[int, int], rounds: int = 10) -> np.ndarray:
    """Philox4x32-R.

    Args:
        counter: uint32, shape [..., 4].
        key: The two 32-bit words of the key.
        rounds: R.

    Returns:
        The four output words, uint32, shape [..., 4].
    """
    c0, c1, c2, c3 = np.moveaxis(counter.astype(np.uint64), -1, 0)
    low, mask = np.uint64(32), np.uint64(0xFFFFFFFF)
    k0, k1 = key
    for _ in range(rounds):
        product0, product1 = np.uint64(PHILOX_MULTIPLIERS[0]) * c0, np.uint64(PHILOX_MULTIPLIERS[1]) * c2
        c0, c1, c2, c3 = (
            (product1 >> low) ^ c1 ^ np.uint64(k0),
            product1 & mask,
            (product0 >> low) ^ c3 ^ np.uint64(k1),
            product0 & mask,
        )
        k0, k1 = (k0 + PHILOX_WEYL[0]) & 0xFFFFFFFF, (k1 + PHILOX_WEYL[1]) & 0xFFFFFFFF
    return np.stack([c0, c1, c2, c3], axis=-1).astype(np.uint32)


def philox_block(counter: tuple[int, int, int, int], key: tuple[int, int], rounds: int = 10) -> list[int]:
    """The four words of one counter in Python's integers, for a single one several times quicker than NumPy."""
    (c0, c1, c2, c3), (k0, k1), mask = counter, key, 0xFFFFFFFF
    (multiplier0, multiplier1), (weyl0, weyl1) = PHILOX_MULTIPLIERS, PHILOX_WEYL
    for _ in range(rounds):
        product0, product1 = multiplier0 * c0, multiplier1 * c2
        c0, c1 = product1 >> 32 ^ c1 ^ k0, product1 & mask
        c2, c3 = product0 >> 32 ^ c3 ^ k1, product0 & mask
        k0, k1 = k0 + weyl0 & mask, k1 + weyl1 & mask
    return [c0, c1, c2, c3]
