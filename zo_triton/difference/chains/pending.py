"""Rules of elementwise functions and norms that wait, so that several run in one pass over memory."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch._C._functorch import peek_interpreter_stack

from zo_triton import ops
from zo_triton._memory import empty
from zo_triton.difference.chains.formulas import (
    Formula,
    base_value,
    difference_value,
    fits,
    formula_of,
    formula_of_one,
)
from zo_triton.difference.entries import Entry, Symbol
from zo_triton.difference.memories import kept
from zo_triton.difference.pending_layers import PendingActivation, PendingLayer, PendingLinear

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

LONGEST = 24
"""Formulas in one program: what is read again and again must be computed at some time."""

MOST_PROGRAMS = 1024
"""That are remembered."""


class PendingChain:
    """A rule's result that is not computed yet.

    Args:
        formula: Of the rule.
        shape: Of the base result.
        operands: Base results that the formula reads, as aliases, so that the tensors themselves may die.
        sources: The entries of the differences that it reads.
        dtype: Of the result, should it be written; within a program it is float32.
    """

    reads = owned = True
    __slots__ = ("dtype", "features", "formula", "operands", "shape", "size", "sources")

    def __init__(
        self,
        formula: Formula,
        shape: torch.Size,
        operands: tuple[Tensor, ...],
        sources: tuple[Entry, ...],
        dtype: torch.dtype,
    ) -> None:
        self.formula = formula
        self.shape = shape
        self.dtype = dtype
        self.operands = operands
        self.sources = sources
        self.size, self.features = 1, formula.features
        for source in sources:
            source.readers += 1
            if isinstance(source.lazy, PendingChain):
                self.size += source.lazy.size
                self.features = max(self.features, source.lazy.features)

    def bases(self) -> Iterator[Tensor]:
        """The base results that it reads, itself or on the way to its sources."""
        yield from self.operands
        for source in self.sources:
            yield from source.bases()

    def resolve(self, mode: DifferenceMode) -> Tensor:
        """The difference, [P, *shape]; what others will read on the way is computed with it."""
        linked = _Linked(mode, self)
        result = linked.run()
        self.release()
        return result

    def release(self) -> None:
        """Lets go of what the formula reads."""
        sources, self.sources, self.operands = self.sources, (), ()
        for source in sources:
            source.let_go()


def defer(mode: DifferenceMode, compute: Callable, base: Any, args: tuple, kwargs: dict) -> bool:
    """Enters a rule's result as pending, if the rule and its arguments are such that a program can run it."""
    if mode.complex or mode.plan.mends or not isinstance(base, Tensor):
        return False
    if mode.nodes is not None and base.dim() == 0:  # its rule must be run to see each sample's loss
        return False
    if not base.is_floating_point() or base.numel() == 0 or not fits(base):
        return False
    if not ops.offers_rows(base.device) or peek_interpreter_stack() is not None:
        return False
    if mode.memories and mode.memories.find(base) is not None:
        return False
    tensors: list[Tensor] = []
    formula = formula_of(mode, compute, base, args, kwargs, tensors)
    if formula is None:
        return False
    mode.reserve(base.numel())
    sources = tuple([_source(mode, tensors[slot], formula, base.shape) for slot in formula.differences])
    size = 1
    for source in sources:
        size += source.lazy.size if isinstance(source.lazy, PendingChain) else 0
    if size > LONGEST:
        for source in sources:
            mode.resolve(source)
    operands = tuple([kept(tensors[slot]) for slot in formula.bases])
    dtype = mode.compute_dtype
    if dtype is not torch.float32 and (formula.wide or any(map(_is_wide, sources))):
        dtype = torch.float32
    mode.put(base, Entry(None, PendingChain(formula, base.shape, operands, sources, dtype)))
    return True


def _source(mode: DifferenceMode, tensor: Tensor, formula: Formula, shape: torch.Size) -> Entry:
    """The entry of an operand; a chain that can run in the same program stays pending."""
    entry = mode.entry_of(tensor)
    if entry is None:
        mode.used = True
        return Entry(None, Symbol(tensor, mode.ids[id(tensor)], False))
    if isinstance(entry.lazy, PendingActivation):
        _join(mode, entry, entry.lazy, shape)
    lazy = entry.lazy
    if isinstance(lazy, PendingChain):
        lengths = {formula.features, lazy.features} - {1}
        if lazy.shape[:-1] != shape[:-1] or len(lazy.shape) != len(shape) or len(lengths) > 1:
            mode.resolve(entry)
    elif isinstance(lazy, (PendingLayer, PendingActivation)) or mode.compute_dtype is not torch.float32:
        mode.resolve(entry)  # what is neither a layer nor a chain says only then of which dtype it is
    return entry


def _join(mode: DifferenceMode, entry: Entry, pending: PendingActivation, shape: torch.Size) -> None:
    """Makes an activation that waits for its layer a chain, where one of this shape goes on from it.

    A gate, say: its program reads the layer's result anyway, and makes what the activation needs of the base once
    for all evaluations.
    """
    source, base, activation = pending.source, pending.base, pending.activation
    assert source is not None
    assert base is not None
    layer = source.lazy
    if isinstance(layer, PendingLayer) and (layer.node is not None or not isinstance(layer, PendingLinear)):
        return
    if base.shape != shape or not fits(base):
        return

    def rule(mode: DifferenceMode, result: Any, input: Any) -> Any:
        return ops.activation_difference(input, mode.needed(input), activation)

    formula = formula_of_one(mode.evaluations, rule, base, (activation,))
    if formula is not None:
        mode.resolve(source)
        entry.lazy = PendingChain(formula, shape, (base,) * len(formula.bases), (source,), mode.compute_dtype)
        pending.release()


def _is_wide(source: Entry) -> bool:
    """Whether a difference is wider than a narrow compute dtype, so that what is made of it is float32."""
    if isinstance(source.lazy, PendingChain):
        return source.lazy.dtype is torch.float32
    return source.difference is not None and source.difference.dtype is not torch.bfloat16


class _Linked:
    """A chain and those that it reads, as one program.

    Args:
        mode: Supplies the differences.
        chain: The last one.
    """

    def __init__(self, mode: DifferenceMode, chain: PendingChain) -> None:
        self._mode = mode
        self._shape = (*chain.shape[:-1], chain.features)
        self._leaves: list[Tensor] = []
        self._forms: list[tuple] = []
        self._places: dict[tuple, int] = {}
        self._parts: list[tuple[Formula, tuple[int, ...]]] = []
        self._of_chain: dict[int, int] = {}
        self._inner: list[tuple[Entry, PendingChain, int]] = []
        self._reads: dict[int, int] = {}
        self._moved: dict[int, Entry] = {}
        self._add(chain)
        self._chain = chain

    def run(self) -> Tensor:
        """Runs the program; enters what others will read, and returns the last chain's difference."""
        wanted = [
            (entry, chain, part)
            for entry, chain, part in self._inner
            if entry.lazy is chain and entry.readers > self._reads[id(entry)]
        ]
        parts = (*(part for _, _, part in wanted), len(self._parts) - 1)
        shapes = [*(chain.shape for _, chain, _ in wanted), self._chain.shape]
        narrow = tuple(not shape or shape[-1] != self._shape[-1] for shape in shapes)
        evaluations = self._mode.evaluations
        dtypes = [*(chain.dtype for _, chain, _ in wanted), self._chain.dtype]
        given = self._given()
        results = [
            empty((evaluations, *shape), dtype) for shape, dtype in zip(shapes[:-1], dtypes, strict=False)
        ]
        results.append(empty((evaluations, *shapes[-1]), dtypes[-1]) if given < 0 else self._leaves[given])
        program = _program(
            self._shape,
            tuple(self._forms),
            tuple(self._parts),
            tuple(zip(parts, narrow, (dtype is torch.bfloat16 for dtype in dtypes), strict=True)),
            evaluations,
            given,
        )
        program.run([tensor.data_ptr() for tensor in (*self._leaves, *results)])
        for (entry, chain, _), difference in zip(wanted, results, strict=False):
            entry.difference, entry.lazy, entry.exclusive = difference, None, True
            chain.release()
        return results[-1]

    def _given(self) -> int:
        """The leaf that nobody reads after this program, so that the result may take its memory; -1 for none.

        What was just read is written in half the time of other memory.
        """
        shape = (self._mode.evaluations, *self._chain.shape)
        for place, entry in self._moved.items():
            leaf = self._leaves[place]
            fitting = leaf.shape == shape and leaf.is_contiguous() and leaf.dtype == self._chain.dtype
            alone = entry.exclusive and entry.readers == self._reads[id(entry)]
            if fitting and alone and leaf.dtype is torch.float32:
                return place
        return -1

    def _add(self, chain: PendingChain) -> int:
        """Adds a chain behind those that it reads; returns its place among the parts."""
        references = [self._leaf(tensor, -1) for tensor in chain.operands]
        for entry in chain.sources:
            lazy = entry.lazy
            self._reads[id(entry)] = self._reads.get(id(entry), 0) + 1
            if isinstance(lazy, PendingChain):
                place = self._of_chain.get(id(lazy))
                if place is None:
                    place = self._add(lazy)
                    self._of_chain[id(lazy)] = place
                    self._inner.append((entry, lazy, place))
                references.append(-1 - place)
            else:
                difference = self._mode.resolve(entry)
                place = self._leaf(difference if fits(difference) else difference.float(), 0)
                self._moved[place] = entry
                references.append(place)
        self._parts.append((chain.formula, tuple(references)))
        return len(self._parts) - 1

    def _leaf(self, tensor: Tensor, varies: int) -> int:
        """The place of a tensor among the leaves."""
        shape, strides = tensor.shape, tensor.stride()
        key = (tensor.data_ptr(), shape, strides, varies, tensor.dtype)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = len(self._leaves)
            self._leaves.append(tensor)
            self._forms.append((shape, strides, varies, tensor.dtype))
        return place


@lru_cache(maxsize=MOST_PROGRAMS)
def _program(
    shape: tuple[int, ...],
    forms: tuple[tuple, ...],
    parts: tuple[tuple[Formula, tuple[int, ...]], ...],
    outputs: tuple[tuple[int, bool, bool], ...],
    evaluations: int,
    given: int,
) -> Any:
    """The program of formulas one behind the other.

    Args:
        shape: Of the rows' axes and the features.
        forms: Of each leaf its shape, strides, 0 if it has the P axis or −1 if not, and dtype.
        parts: Each formula with what it reads: leaves, or other parts p as −1 − p.
        outputs: The parts whose results are wanted, whether they have one value a row, and are bfloat16.
        evaluations: P.
        given: The leaf whose memory the last result takes; -1 for none.
    """
    leaves = []
    for its_shape, its_strides, varies, dtype in forms:
        own, strides = its_shape, its_strides
        if varies == 0:
            own, strides = own[1:], strides[1:]
        narrow = not own or (own[-1] == 1 and shape[-1] != 1)
        missing = len(shape) - len(own)
        spread = [0] * missing + [
            0 if size == 1 else stride for size, stride in zip(own, strides, strict=True)
        ]
        per_evaluation = its_strides[0] if varies == 0 else -1
        kind = str(dtype).removeprefix("torch.")
        leaves.append((per_evaluation, tuple(spread), narrow and shape[-1] != 1, kind))
    operations: list[tuple[str, tuple[int | float, ...]]] = []
    results: list[int | float] = []
    for formula, references in parts:
        names = [base_value(slot) for slot in formula.bases]
        names += [difference_value(slot) for slot in formula.differences]
        known = {
            name: reference if reference >= 0 else results[-1 - reference]
            for name, reference in zip(names, references, strict=True)
        }
        first = len(leaves) + len(operations)

        def of(value: int | float, known: dict = known, first: int = first) -> int | float:
            return value if type(value) is float else first + value if value >= 0 else known[value]

        operations += [(name, tuple(of(value) for value in values)) for name, values in formula.operations]
        results.append(of(formula.result))
    wanted = [(results[part], narrow, rounded) for part, narrow, rounded in outputs]
    return ops.row_program(shape, leaves, operations, wanted, evaluations, given)
