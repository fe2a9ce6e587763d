"""From a formula's operations to a program of ``rows``: what is a number, a row or one value a row, and its place.

A value is an operand's index, counted through the leaves and then the operations in their order, or a Python float.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import prod
from typing import NamedTuple

import numpy as np

from zo_triton.cpu import rows
from zo_triton.cpu.activation import NAMES
from zo_triton.cpu.threads import together

BLOCK_ELEMENTS = 1024
"""Of a register: some twenty of them lie in the level-1 and level-2 cache."""

SIDE_BY_SIDE = 16
"""Rows of a block at least where a leaf's rows lie side by side: a cache line holds so many of them."""

SMALL_WORK = 1 << 18
"""Instructions times elements below which a second thread costs more than it gives."""

FEW_BLOCKS = 16
"""With fewer blocks of rows the evaluations are shared out as well."""

PIECES = 64
"""Into which the blocks fall: a thread makes its registers anew for each piece."""

_LINE = 16
_CODES = {name: code for code, name in enumerate(rows.OPERATIONS)}
_COMMUTING = {"add": "add_number", "mul": "mul_number", "maximum": "max_number", "minimum": "min_number"}


_GATHERED = {"float32": (rows.COPIED, 4), "bfloat16": (rows.BFLOAT16, 2), "bool": (rows.BYTES, 1)}
"""How what does not lie as a register does is read, and an element's bytes."""

OF_ROWS = frozenset(("row_sum", "turn_halves"))
"""Operations that need whole rows."""

_REWRITTEN: dict[str, Callable[[list], tuple[str, list]]] = {
    "neg": lambda given: ("mul", [*given, -1.0]),
    "lt": lambda given: ("gt", given[::-1]),
    "le": lambda given: ("ge", given[::-1]),
    "not": lambda given: ("sub", [1.0, *given]),
    "and": lambda given: ("mul", given),
    "or": lambda given: ("maximum", given),
}
"""Operations that are others in disguise."""


class Leaf(NamedTuple):
    """How an operand lies in memory.

    Attributes:
        per_evaluation: Elements from one evaluation to the next; -1 for a base, which has none.
        strides: In elements, one for each axis of the program's shape.
        narrow: It has one value a row.
        kind: float32, bfloat16, or bool: bytes that are 0 or 1.
    """

    per_evaluation: int
    strides: tuple[int, ...]
    narrow: bool
    kind: str


class Operation(NamedTuple):
    """One of ``rows.OPERATIONS`` on values, one of :data:`_REWRITTEN`, ne, or ``activation:`` and its name."""

    name: str
    values: tuple[int | float, ...]


class RowProgram:
    """A program and where its registers lie; run it as often as there are tensors of this form.

    Args:
        shape: Of the rows' axes, and the features as the last one.
        leaves: The operands.
        operations: In an order in which they can be run.
        outputs: For each result its value, whether it has one value a row, and whether it is bfloat16.
        evaluations: P.
        given: The leaf, contiguous float32 [P, *shape], in whose memory the last result is written; -1 for none.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        leaves: Sequence[Leaf],
        operations: Sequence[Operation],
        outputs: Sequence[tuple[int | float, bool, bool]],
        evaluations: int,
        given: int = -1,
    ) -> None:
        of_rows = any(each.name in OF_ROWS for each in operations)
        by_rows = of_rows or any(leaf.narrow for leaf in leaves)
        sizes, strides = _collapsed(shape, [leaf.strides for leaf in leaves], whole=not by_rows)
        features, count = sizes[-1], prod(sizes[:-1])
        block = max(1, min(count, BLOCK_ELEMENTS // features))
        segment = features if of_rows else min(features, BLOCK_ELEMENTS)
        if features <= segment and any(len(its) > 1 and its[-1] > 1 and its[-2] == 1 for its in strides):
            block = min(count, max(block, SIDE_BY_SIDE))
        code = _Code(leaves, operations, outputs, features)
        blocks = -(-count // block) * -(-features // segment)
        groups = 1 if blocks >= FEW_BLOCKS else min(evaluations, -(-FEW_BLOCKS // max(1, blocks)))
        table = np.zeros((len(leaves), rows.STRIDES + len(sizes) - 1), np.int64)
        direct = []
        for place, (row, leaf, its) in enumerate(zip(table, leaves, strides, strict=True)):
            lying = its[-1] == 1 or (leaf.narrow and len(sizes) == 2 and its[0] == 1)
            in_order = len(sizes) == 1 or block == 1 or (len(sizes) == 2 and its[0] == features)
            in_order = in_order or (leaf.narrow and features > 1)
            # A block of what is overwritten is copied first: it may be read after the result's first element.
            direct.append(lying and in_order and leaf.kind == "float32" and place != given)
            way, size = (rows.DIRECT, 4) if direct[-1] else _GATHERED[leaf.kind]
            row[: rows.STRIDES] = (
                max(-1, leaf.per_evaluation * size), its[-1], way, leaf.narrow and features > 1, size,
            )  # fmt: skip
            row[rows.STRIDES :] = its[:-1]
        placed, scratch = code.allocate(direct, block, segment)
        geometry = [
            count,
            features,
            block,
            segment,
            evaluations,
            groups,
            len(placed),
            scratch,
            *code.sections,
        ]
        self._items = blocks * groups
        self._alone = len(code.made) * count * features * evaluations < SMALL_WORK
        self._arguments = (
            np.array(code.made, np.int64).reshape(-1, rows.WIDE + 1), np.array(code.numbers, np.float32),
            np.array(geometry, np.int64), table, np.array(sizes[:-1], np.int64), np.array(placed, np.int64),
        )  # fmt: skip
        self._outputs = np.array(code.outputs, np.int64).reshape(-1, 3)

    def run(self, addresses: Sequence[int]) -> None:
        """Fills the outputs.

        Args:
            addresses: Of the leaves' first elements, then of the outputs: contiguous [P, *shape], its last axis of
                size 1 where there is one value a row.
        """
        together(
            rows.run_rows,
            (*self._arguments, np.array(addresses, np.int64), self._outputs),
            self._items,
            grain=max(1, self._items // PIECES),
            alone=self._alone,
        )


def _collapsed(
    shape: tuple[int, ...], strides: list[tuple[int, ...]], whole: bool
) -> tuple[list[int], list[list[int]]]:
    """As few axes as the strides allow: neighbours that all leaves walk through in order are one.

    Args:
        shape: The rows' axes and the features.
        strides: Each leaf's.
        whole: The features' axis may be joined with others too.
    """
    sizes: list[int] = []
    kept: list[list[int]] = [[] for _ in strides]
    last = len(shape) - 1
    for axis, size in enumerate(shape):
        if size == 1 and (axis < last or (whole and sizes)):
            continue
        joined = bool(sizes) and (axis < last or whole)
        if joined and all(mine[-1] == its[axis] * size for mine, its in zip(kept, strides, strict=True)):
            sizes[-1] *= size
            for mine, its in zip(kept, strides, strict=True):
                mine[-1] = its[axis]
            continue
        sizes.append(size)
        for mine, its in zip(kept, strides, strict=True):
            mine.append(its[axis])
    return sizes, kept


class _Code:
    """The instructions of a program, in three sections: constants, what hangs on the base alone, and the rest."""

    def __init__(
        self,
        leaves: Sequence[Leaf],
        operations: Sequence[Operation],
        outputs: Sequence[tuple[int | float, bool, bool]],
        features: int,
    ) -> None:
        self._features = features
        self._count = len(leaves)
        self._varies = [leaf.per_evaluation >= 0 for leaf in leaves]
        self._wide = [features == 1 or not leaf.narrow for leaf in leaves]
        self._steps: list[tuple[str, tuple[int, ...], float]] = []
        self._known: dict[tuple, int] = {}
        values: list[int | float] = list(range(len(leaves)))
        for each in operations:
            given = [value if type(value) is float else values[value] for value in each.values]  # type: ignore[index]
            values.append(self._operation(each.name, given))
        found: list[tuple[int, bool, bool]] = []
        for value, narrow, rounded in outputs:
            result = self._register(value if type(value) is float else values[value])  # type: ignore[index]
            if not narrow:
                result = self._widened(result)
            assert self._wide[result] == (not narrow or features == 1), "a row where one value is wanted"
            if result < self._count or not self._varies[result] or result in (each for each, *_ in found):
                result = self._step("copy", (result,), 0.0, True, self._wide[result])
            found.append((result, narrow and features > 1, rounded))
        self.outputs = found
        self._fuse()
        self._arrange()

    def _operation(self, name: str, given: list[int | float]) -> int | float:
        """Adds an operation; returns its value."""
        if name == "row_sum" and self._features == 1:
            return given[0]
        if name in _COMMUTING and type(given[0]) is float:
            given.reverse()
        if name in _REWRITTEN:
            name, given = _REWRITTEN[name](given)
        if name == "sub" and type(given[1]) is float:
            name, given = "add", [given[0], -given[1]]
        number = given[1] if len(given) == 2 and type(given[1]) is float else None
        if number is not None:
            if (name == "add" and number == 0) or (name in ("mul", "div") and number == 1):
                return given[0]
            chosen = "div_number" if name == "div" else _COMMUTING.get(name)
            if chosen is not None:
                return self._add(chosen, (self._register(given[0]),), number)
        if name in ("sub", "div") and type(given[0]) is float:
            chosen = "from_number" if name == "sub" else "number_over"
            return self._add(chosen, (self._register(given[1]),), given[0])
        if name == "ne":
            return self._operation("not", [self._operation("eq", given)])
        sources = tuple(self._register(value) for value in given)
        if name in ("add", "mul", "sub") and self._wide[sources[0]] != self._wide[sources[1]]:
            if not self._wide[sources[0]] and name != "sub":
                sources = sources[::-1]
            if self._wide[sources[0]]:
                if name == "sub":
                    sources = (sources[0], self._add("mul_number", (sources[1],), -1.0))
                return self._add("mul_column" if name == "mul" else "add_column", sources)
        if name.startswith("activation:"):
            return self._add("activation", sources, float(NAMES.index(name[len("activation:") :])))
        return self._add(name, sources)

    def _register(self, value: int | float) -> int:
        return value if type(value) is not float else self._constant(value, False)  # type: ignore[return-value]

    def _constant(self, number: float, wide: bool) -> int:
        wide = wide or self._features == 1
        key = ("constant", number, wide)
        if key not in self._known:
            self._known[key] = self._step("constant", (), number, False, wide)
        return self._known[key]

    def _widened(self, register: int) -> int:
        """The register, or one with its values repeated along the rows."""
        if self._wide[register]:
            return register
        name, _, number = self._steps[register - self._count] if register >= self._count else ("", (), 0.0)
        return self._constant(number, True) if name == "constant" else self._add("spread", (register,))

    def _add(self, name: str, sources: tuple[int, ...], number: float = 0.0) -> int:
        """The register of a step, which may be there already; one-value sources of a wide step are spread."""
        wide = name == "spread" or (name != "row_sum" and any(self._wide[s] for s in sources))
        if name == "row_sum" and not self._wide[sources[0]]:
            sources = (self._widened(sources[0]),)
        if wide and name not in ("spread", "add_column", "mul_column"):
            sources = tuple(map(self._widened, sources))
        key = (name, sources, number)
        if key not in self._known:
            varies = any(self._varies[source] for source in sources)
            self._known[key] = self._step(name, sources, number, varies, wide)
        return self._known[key]

    def _step(self, name: str, sources: tuple[int, ...], number: float, varies: bool, wide: bool) -> int:
        self._steps.append((name, sources, number))
        self._varies.append(varies)
        self._wide.append(wide)
        return len(self._varies) - 1

    def _uses(self) -> dict[int, int]:
        uses: dict[int, int] = {}
        for register, *_ in self.outputs:
            uses[register] = uses.get(register, 0) + 1
        for place in range(len(self._steps) - 1, -1, -1):
            if self._count + place in uses:
                for source in self._steps[place][1]:
                    uses[source] = uses.get(source, 0) + 1
        return uses

    def _fuse(self) -> None:
        """A product that is only added to something becomes a multiply-add."""
        uses = self._uses()
        for place, (name, sources, _) in enumerate(self._steps):
            if name != "add":
                continue
            for product, other in (sources, sources[::-1]):
                at = product - self._count
                if at >= 0 and self._steps[at][0] == "mul" and uses.get(product) == 1:
                    if not self._varies[product] and self._varies[self._count + place]:
                        continue  # a base's product is made once
                    if self._wide[product] == self._wide[self._count + place] == self._wide[other]:
                        self._steps[place] = ("fma", (*self._steps[at][1], other), 0.0)
                        break

    def _arrange(self) -> None:
        """Puts the steps that are needed into their sections."""
        uses, sections = self._uses(), ([], [], [])  # type: ignore[var-annotated]
        for place, (name, _, _) in enumerate(self._steps):
            register = self._count + place
            if register in uses:
                part = 0 if name == "constant" else 2 if self._varies[register] else 1
                sections[part].append(register)
        self._order = [register for part in sections for register in part]
        ends = np.cumsum([len(part) for part in sections])
        self.sections = [int(end) for end in ends]

    def allocate(self, direct: Sequence[bool], block: int, segment: int) -> tuple[list[int], int]:
        """Where each register lies in the scratch memory, and how much of that there is; makes the code."""
        wide = -(-block * segment // _LINE) * _LINE + _LINE
        sizes = [wide if is_wide else -(-block // _LINE) * _LINE for is_wide in self._wide]
        placed = [-1] * len(sizes)
        free: dict[int, list[int]] = {}
        total = 0

        def take(register: int) -> None:
            nonlocal total
            ready = free.get(sizes[register])
            if ready:
                placed[register] = ready.pop()
            else:
                placed[register] = total
                total += sizes[register]

        last: dict[int, int] = {}
        for place, register in enumerate(self._order):
            for source in self._steps[register - self._count][1]:
                last[source] = place
        results = {register: rounded for register, _, rounded in self.outputs}
        base_end, constants = self.sections[1], set(self._order[: self.sections[0]])
        for leaf in range(self._count):
            if not direct[leaf] and not self._varies[leaf]:
                take(leaf)
        self.made, self.numbers = [], []
        for place, register in enumerate(self._order):
            if place == base_end:
                self._take_moved(direct, take)
            name, sources, number = self._steps[register - self._count]
            if results.get(register, True):  # what is rounded at the end is made in a register
                take(register)
            padded = [*sources, *[0 if not sources else sources[0]] * (4 - len(sources))]
            self.made.append(
                [_CODES[name], register, *padded, self._wide[register if name != "row_sum" else sources[0]]]
            )
            self.numbers.append(number)
            for source in set(sources):
                # A base is read again for the next evaluation, a constant for the next block.
                kept = not self._varies[source] and (place >= base_end or source in constants)
                if last[source] == place and not kept and placed[source] >= 0 and source not in results:
                    free.setdefault(sizes[source], []).append(placed[source])
        return placed, total

    def _take_moved(self, direct: Sequence[bool], take: Callable[[int], None]) -> None:
        for leaf in range(self._count):
            if not direct[leaf] and self._varies[leaf]:
                take(leaf)
