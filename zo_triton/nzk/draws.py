"""Random vectors by index, from the field, from scipy, or from one's own samples."""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

import numpy as np
import torch

from zo_triton import ops
from zo_triton.directions import Directions, matrix_shape
from zo_triton.nzk.arrays import check_count, check_shapes
from zo_triton.nzk.coordinate_moments import Moments, check_samples, moments

BLOCK_VECTORS, BLOCK_VALUES = 64, 2**18
"""How many vectors, and about how many values, one seeded generator of NumPy's makes.

Starting a generator and calling scipy cost about as much as a thousand values; drawing vectors that are not
asked for costs more. The block's size must depend on the vector's size only, or chunks would change values.
"""


def draw(
    distribution: Any,
    num: int,
    size: int,
    seed: int,
    first: int = 0,
    shapes: Sequence[Sequence[int]] | None = None,
    rank: int | None = None,
) -> np.ndarray:
    """Random vectors number ``first … first + num - 1`` of a seed; each is the same however they are cut.

    Args:
        distribution: A name of the field's, which gives exactly the z that the fused kernels walk at step 0
            (in float32); a frozen ``scipy.stats`` distribution; or samples [count], drawn with replacement.
        num: How many vectors.
        size: d, the coordinates of one.
        seed: As :class:`zo_triton.Directions` takes it.
        first: Index of the first vector.
        shapes: The tensors that the coordinates belong to, in order; None for one vector. They decide which
            of the field's values a coordinate is, and which tensors have factors.
        rank: If given, a tensor of two or more dimensions is A·Bᵀ/√rank, with the entries of A and B drawn
            from ``distribution``.

    Returns:
        float64 [num, size].

    Raises:
        TypeError: The distribution, or a count, is of the wrong kind.
        ValueError: A value is out of range, the name unknown, the shapes don't hold ``size`` elements, or
            the distribution is given by moments alone, from which nothing can be drawn.

    Example:
        >>> from zo_triton.nzk import draw
        >>> draw("rademacher", num=2, size=5, seed=0)
        array([[ 1., -1.,  1., -1.,  1.],
               [ 1., -1., -1., -1., -1.]])
    """
    num, size, first = check_count(num, "num"), check_count(size, "size"), check_count(first, "first", 0)
    tensors = check_shapes(shapes, rank, size)
    if isinstance(distribution, str):
        if distribution == "hadamard":
            raise ValueError(
                "'hadamard' directions belong to one step together, and these are drawn apart; use 'rademacher', "
                "or zo.sample with a step's directions."
            )
        if distribution != "sphere":
            moments(distribution)
        return _field(Directions(seed, 0, num, distribution, rank=rank, first=first), tensors)
    if isinstance(distribution, Moments):
        raise ValueError(
            f"nothing can be drawn from moments alone, {distribution}; pass a name, a frozen scipy.stats "
            "distribution or samples."
        )
    source = distribution if hasattr(distribution, "rvs") else check_samples(distribution)
    # Its checks of seed and indices are those of the field.
    Directions(seed, 0, num, first=first)
    length = max(1, min(BLOCK_VECTORS, BLOCK_VALUES // size))
    out = np.empty((num, size))
    for block in range(first // length, (first + num - 1) // length + 1):
        start = max(first, block * length)
        stop = min(first + num, (block + 1) * length)
        vectors = _block(source, seed, block, length, tensors, rank)
        out[start - first : stop - first] = vectors[start - block * length : stop - block * length]
    return out


def _field(directions: Directions, tensors: Sequence[tuple[int, ...]]) -> np.ndarray:
    # Drawn element by element: the sphere's length is that of all tensors together.
    elements = Directions(
        directions.seed,
        0,
        directions.num,
        directions.elementwise,
        rank=directions.rank,
        first=directions.first,
    )
    parts = [
        ops.sample(elements, position, shape, torch.float64).reshape(directions.num, -1).numpy()
        for position, shape in enumerate(tensors)
    ]
    vectors = parts[0] if len(parts) == 1 else np.concatenate(parts, axis=1)
    if directions.distribution == "sphere":
        vectors *= vectors.shape[1] ** 0.5 / np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors


def _block(
    source: Any, seed: int, block: int, length: int, tensors: Sequence[tuple[int, ...]], rank: int | None
) -> np.ndarray:
    """All the vectors of one block, [length, size]."""
    # A spawn key, unlike a second word of the seed, can't make two pairs (seed, block) the same.
    generator = np.random.default_rng(np.random.SeedSequence(seed, spawn_key=(block,)))

    def values(*shape: int) -> np.ndarray:
        if isinstance(source, np.ndarray):
            return source[generator.integers(0, len(source), size=shape)]
        return np.asarray(source.rvs(size=shape, random_state=generator), dtype=np.float64)

    parts = []
    for shape in tensors:
        if rank is None or len(shape) < 2:
            parts.append(values(length, prod(shape)))
            continue
        rows, cols = matrix_shape(shape)
        left, right = values(length, rows, rank), values(length, rank, cols)
        parts.append((left @ right / rank**0.5).reshape(length, -1))
    return np.concatenate(parts, axis=1)
