"""The value that names K random directions, and the constants of the field they are drawn from.

A direction z_k is a pure function of (seed, step, direction, tensor, element): a counter-based generator is
evaluated where the value is needed, so nothing is stored and no global generator is touched.

Philox4x32-R (Salmon, Moraes, Dror, Shaw: "Parallel random numbers: as easy as 1, 2, 3", SC 2011) maps a
128-bit counter to four 32-bit words. Its counter here is (block, tensor, direction, step), its key the two
halves of the seed. Every tensor is seen as a matrix [rows, cols]; a block covers 4 rows: with Rademacher
signs 32 columns of them (word w is row 4·(row//4)+w, bit b is column 32·(col//32)+b), otherwise one column.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from itertools import accumulate
from math import ceil, prod
from typing import Any

from zo_triton.distributions import DISTRIBUTIONS, name_of

SEEDS = 2**64
"""How many seeds there are: the generator's key has 64 bits."""

PHILOX_MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
PHILOX_WEYL = (0x9E3779B9, 0xBB67AE85)

PART_WHOLE, PART_LEFT, PART_RIGHT, PART_ROUNDING = 0, 1, 2, 3
"""What of a tensor is drawn: itself, the factors A and B of a low-rank A·Bᵀ/√r, or the words that round it."""

PART_NODES = PART_LEFT
"""Of an application of a layer, its outputs: these are never perturbed together with low-rank weights."""

PART_SHIFT = 30
"""The part stands in the two highest bits of the tensor's counter word: no two share a block."""

ROWS_PER_BLOCK = 4
SIGN_COLUMNS_PER_BLOCK = 32
MAX_BLOCKS = 2**32
MAX_TENSORS = 2**PART_SHIFT
MAX_ORDER = 2**31

MANTISSA_BITS = {"float16": 10, "bfloat16": 7}
SMALLEST_EXPONENT = {"float16": -14, "bfloat16": -126}
LARGEST_PATTERN = {"float16": 0x7BFF, "bfloat16": 0x7F7F}
"""The formats that stochastic rounding rounds to; the last are the bits of the largest finite value."""


@dataclass(frozen=True)
class Directions:
    """Names the directions ``first … first + num - 1`` of one optimizer step.

    Slicing selects directions without changing any of their values: ``Directions(0, 0, 64)[32:]`` names the
    upper half, which is how chunks and ranks share a step.

    Args:
        seed: 64-bit key of the generator, as :func:`check_seed` takes it.
        step: The optimizer step, ``0 <= step < 2**32``.
        num: How many directions, at least 1.
        distribution: A name in :data:`zo_triton.distributions.DISTRIBUTIONS`.
        rounds: Philox rounds, 10 (the published default) or 7 (the fewest that pass BigCrush).
        rank: If given, a tensor of two or more dimensions is perturbed by A·Bᵀ/√rank with A [rows, rank]
            and B [cols, rank] drawn from ``distribution``; vectors stay full.
        first: Index of the first direction.
        order: With ``hadamard`` only: M, the order of the matrix that the directions are rows of, a power of two
            with at least ``first + num`` rows. None for the smallest. Slices keep it. All elements' signs are
            orthogonal where M is no less than their columns: each row of a tensor takes a multiple of 32.
        offsets: With ``hadamard`` only: column index of the first element of each tensor in the order of the ids,
            from :meth:`over`. A tensor 0 without any begins at 0, as if it were the whole parameter.

    Raises:
        TypeError: A number is not an integer.
        ValueError: A number is out of range, the distribution is unknown, or there are more directions than rows.

    Example:
        >>> from zo_triton.directions import Directions
        >>> Directions(seed=0, step=3, num=8)[2:4]
        Directions(seed=0, step=3, num=2, distribution='rademacher', rounds=10, rank=None, first=2, order=None)
    """

    seed: int
    step: int
    num: int
    distribution: str = "rademacher"
    rounds: int = 10
    rank: int | None = None
    first: int = 0
    order: int | None = None
    offsets: tuple[int, ...] = field(default=(), repr=False)

    def __post_init__(self) -> None:
        check_seed(self.seed)
        for name in ("step", "num", "rounds", "first"):
            _check_integer(name, getattr(self, name))
        if not 0 <= self.step < 2**32:
            raise ValueError(
                f"step must be in [0, 2**32), got {self.step}; start a new seed after 2**32 steps."
            )
        if self.num < 1:
            raise ValueError(f"directions must be at least 1, got {self.num}.")
        if self.first < 0 or self.first + self.num > 2**32:
            raise ValueError(f"directions {self.first}…{self.first + self.num - 1} leave [0, 2**32).")
        if self.distribution not in DISTRIBUTIONS:
            raise ValueError(
                f"unknown distribution {self.distribution!r}; choose one of {tuple(DISTRIBUTIONS)}."
            )
        if self.rounds not in (7, 10):
            raise ValueError(f"rounds must be 7 or 10, got {self.rounds}.")
        if self.rank is not None:
            _check_integer("rank", self.rank)
            if self.rank < 1:
                raise ValueError(f"rank must be at least 1 or None for full rank, got {self.rank}.")
        if DISTRIBUTIONS[self.distribution].orthogonal:
            self._check_order()
        elif self.order is not None or self.offsets:
            raise ValueError(
                f"order and offsets belong to 'hadamard' directions, got order={self.order} and "
                f"{len(self.offsets)} offsets with {self.distribution!r}; leave them out."
            )

    def _check_order(self) -> None:
        if self.rank is not None:
            raise ValueError(
                f"rank {self.rank} can't be had with 'hadamard': products of two factors are not orthogonal; "
                "choose 'rademacher', or rank=None."
            )
        needed = self.first + self.num
        if self.order is None:
            object.__setattr__(self, "order", 1 << max(0, needed - 1).bit_length())
        assert self.order is not None
        _check_integer("order", self.order)
        if self.order < 1 or self.order & (self.order - 1) or self.order > MAX_ORDER:
            raise ValueError(
                f"order must be a power of two up to 2**31, got {self.order} for {needed} directions."
            )
        if needed > self.order:
            raise ValueError(
                f"{needed} directions are more than the {self.order} rows of a Hadamard matrix of that order; take "
                "fewer directions, or leave order out."
            )

    def __len__(self) -> int:
        return self.num

    def __getitem__(self, item: slice) -> Directions:
        start, stop, stride = item.indices(self.num)
        if stride != 1 or stop <= start:
            raise ValueError(f"directions are sliced in runs of at least one, got {item} of {self.num}.")
        return self._with(num=stop - start, first=self.first + start)

    @property
    def elementwise(self) -> str:
        """The distribution of a single element before any per-direction scale."""
        return DISTRIBUTIONS[self.distribution].elements or self.distribution

    @property
    def signs(self) -> bool:
        """Whether a single element, before any scale, is 1 or -1."""
        return DISTRIBUTIONS[self.distribution].signs

    def one(self, index: int) -> Directions:
        """The single direction with this absolute index."""
        return replace(self, num=1, first=index)

    def _with(self, **changes: Any) -> Directions:
        """A copy with changes that need no check: small steps would feel all the others made again."""
        copy = object.__new__(Directions)
        vars(copy).update(vars(self), **changes)
        return copy

    def offset(self, tensor_id: int) -> int:
        """Column index of a tensor's first element.

        Raises:
            ValueError: It is not known, and without it no two functions would draw the same.
        """
        self.check_bound([tensor_id])
        return self.offsets[tensor_id] if tensor_id < len(self.offsets) else 0

    def check_bound(self, tensor_ids: Iterable[int]) -> None:
        """Refuses tensors for whose columns there are no offsets; those of an id below 0 are not drawn.

        Raises:
            ValueError: With ``hadamard``, a tensor other than number 0 has no offset.
        """
        if self.order is None:
            return
        for tensor_id in tensor_ids:
            if tensor_id > 0 and tensor_id >= len(self.offsets):
                raise ValueError(
                    f"'hadamard' directions need the column index of tensor {tensor_id}, got offsets of "
                    f"{len(self.offsets)} tensors; take directions.over([p.shape for p in params])."
                )

    def over(self, shapes: Iterable[Sequence[int]]) -> Directions:
        """These directions with the columns of tensors of these shapes one after the other; others as they are.

        A step's forward pass, Gram matrix and update must have the same: what is given the trained tensors sees to
        it itself, so this is for calls of single operations.

        Args:
            shapes: Of all trained tensors in the order of their ids.

        Raises:
            ValueError: They have other offsets already.
        """
        if self.order is None:
            return self
        offsets = _offsets(tuple(map(tuple, shapes)))
        if self.offsets == offsets:
            return self
        if self.offsets:
            raise ValueError(
                f"these 'hadamard' directions have the columns of {len(self.offsets)} other tensors than these "
                f"{len(offsets)}; name the directions anew, without offsets."
            )
        return self._with(offsets=offsets)

    def with_offsets(self, offsets: tuple[int, ...]) -> Directions:
        """These directions with column indices that :meth:`over` has found before; others as they are."""
        return self if self.order is None or self.offsets == offsets else self._with(offsets=offsets)

    def encode(self) -> list[int]:
        """The integers that cross the boundary of a torch custom op; the seed as a signed 64-bit one."""
        signed = self.seed - SEEDS if self.seed >= SEEDS // 2 else self.seed
        code = DISTRIBUTIONS[self.distribution].code
        whole = [signed, self.step, self.num, code, self.rounds, self.rank or 0, self.first]
        return whole if self.order is None else [*whole, self.order, *self.offsets]

    @staticmethod
    def decode(integers: Sequence[int]) -> Directions:
        """Inverse of :meth:`encode`.

        Raises:
            ValueError: No distribution has this code, or a number is out of range.
        """
        seed, step, num, code, rounds, rank, first, *orthogonal = integers
        order, offsets = (orthogonal[0], tuple(orthogonal[1:])) if orthogonal else (None, ())
        return Directions(seed % SEEDS, step, num, name_of(code), rounds, rank or None, first, order, offsets)

    def is_low_rank(self, shape: Sequence[int]) -> bool:
        """Whether a tensor of this shape is perturbed by factors: ``rank`` is set and it is no vector."""
        return self.rank is not None and len(shape) >= 2

    def check_shape(self, name: str, shape: Sequence[int]) -> None:
        """Refuses a tensor that the field can't address.

        Raises:
            ValueError: More than 2**32 blocks, a rank above min(rows, cols), or a negative size.
        """
        if min(shape, default=0) < 0:
            raise ValueError(f"{name} has the shape {tuple(shape)}; no size may be negative.")
        rows, cols = matrix_shape(shape)
        if self.rank is not None and len(shape) >= 2 and self.rank > min(rows, cols):
            raise ValueError(
                f"rank {self.rank} exceeds min(rows, cols) = {min(rows, cols)} of {name} with shape "
                f"{tuple(shape)}; lower the rank or leave that tensor out."
            )
        blocks = num_blocks(rows, cols, self.elementwise)
        if blocks > MAX_BLOCKS:
            raise ValueError(
                f"{name} with shape {tuple(shape)} needs {blocks} blocks of the field, more than 2**32; "
                "split it into several parameters."
            )


def matrix_shape(shape: Sequence[int]) -> tuple[int, int]:
    """How the field sees a tensor: ``shape[0]`` × the rest; a vector or a number is one row."""
    if len(shape) < 2:
        return 1, prod(shape)
    return int(shape[0]), prod(shape[1:])


@lru_cache(maxsize=32)
def _offsets(shapes: tuple[tuple[int, ...], ...]) -> tuple[int, ...]:
    return tuple(accumulate(map(num_columns, shapes[:-1]), initial=0)) if shapes else ()


def padded_columns(cols: int) -> int:
    """How many column indices a row of a matrix takes with ``hadamard``: whole words of signs."""
    return ceil(cols / SIGN_COLUMNS_PER_BLOCK) * SIGN_COLUMNS_PER_BLOCK


def num_columns(shape: Sequence[int]) -> int:
    """How many column indices a tensor takes with ``hadamard``."""
    rows, cols = matrix_shape(shape)
    return rows * padded_columns(cols)


def check_seed(seed: int) -> int:
    """The seed itself, if it is one: of the field, of a run, of a benchmark, all have one range.

    NumPy's and torch's generators take every such seed; what takes fewer bits takes the seed's lowest.

    Args:
        seed: In [0, 2**64). Zero is a seed like any other.

    Raises:
        TypeError: It is no integer.
        ValueError: It is out of range.
    """
    _check_integer("seed", seed)
    if not 0 <= seed < SEEDS:
        raise ValueError(f"seed must be in [0, 2**64), got {seed}; take it modulo 2**64.")
    return seed


def seed_after(seed: int, count: int) -> int:
    """The seed ``count`` places further on; the first follows the last."""
    return (seed + count) % SEEDS


def num_blocks(rows: int, cols: int, distribution: str) -> int:
    """How many Philox blocks a [rows, cols] matrix takes."""
    width = SIGN_COLUMNS_PER_BLOCK if DISTRIBUTIONS[distribution].signs else 1
    return ceil(rows / ROWS_PER_BLOCK) * ceil(cols / width)


def tensor_word(tensor_id: int, part: int = PART_WHOLE) -> int:
    """The tensor's counter word: its id, with the part in the two highest bits."""
    if not 0 <= tensor_id < MAX_TENSORS:
        raise ValueError(f"tensor ids lie in [0, 2**{PART_SHIFT}), got {tensor_id}.")
    return tensor_id | part << PART_SHIFT


def _check_integer(name: str, value: object) -> None:
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}.")
