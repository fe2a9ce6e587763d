"""Which products of a warp group are still under way when an instruction is issued.

On sm_90 an HGMMA multiplies behind its warps' backs. Those up to one that carries ``gsb0`` are a group, and
``WARPGROUP.DEPBAR.LE gsb0, n`` waits until no more than the last n groups are under way. While there is none, the
tensor cores stand still, unless another program keeps them busy. A product that is under way reads the registers
that its left factor lies in: nobody may write them before the wait.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from zo_triton.compilation.machine_code import Instruction

_WAIT = re.compile(r"gsb0, (0x[0-9a-f]+)")
_PRODUCT = re.compile(r"R(\d+), (?:R(\d+), )?gdesc")


def drains(instruction: Instruction) -> bool:
    """Whether it waits until no product is under way."""
    return _groups_left(instruction) == 0


def _groups_left(instruction: Instruction) -> int | None:
    wait = _WAIT.match(instruction.operands) if instruction.name.startswith("WARPGROUP.DEPBAR") else None
    return int(wait[1], 16) if wait else None


def under_way(code: Sequence[Instruction], loop: bool) -> Iterator[tuple[Instruction, list[Instruction]]]:
    """Each instruction with the products that are under way when it is issued, oldest first.

    Args:
        code: In the order of the text.
        loop: Whether it runs again and again: what is under way at its end still is at its beginning.
    """
    groups: list[list[Instruction]] = [[]]
    for turn in range(1 + loop):
        for instruction in code:
            if turn == loop:
                yield instruction, [product for group in groups for product in group]
            left = _groups_left(instruction)
            if left is not None:
                # The last group, which is open, counts as one only if something is in it.
                finished = len(groups) - (not groups[-1]) - left
                groups = groups[max(0, finished) :] or [[]]
            if instruction.name.startswith("HGMMA"):
                groups[-1].append(instruction)
                if "gsb0" in instruction.operands:
                    groups.append([])


def overwritten(code: Sequence[Instruction], loop: bool) -> list[tuple[Instruction, Instruction]]:
    """Products whose left factor's registers are written before they are waited for, each with the writer."""
    found = []
    for instruction, products in under_way(code, loop):
        written = _written(instruction)
        found += [(product, instruction) for product in products if written & _left_factor(product)]
    return found


def _left_factor(product: Instruction) -> set[int]:
    """Registers: four for a warp's 16 rows × 32 bytes."""
    operands = _PRODUCT.match(product.operands)
    first = int(operands[2]) if operands and operands[2] else None
    return set() if first is None else set(range(first, first + 4))


def _written(instruction: Instruction) -> set[int]:
    """The registers of a result, which is named first."""
    parts = instruction.name.split(".")
    result = re.match(r"R(\d+)(?:,|$)", instruction.operands)
    if instruction.name.startswith("HGMMA") or result is None or instruction.idle:
        return set()
    wide = 4 if "128" in parts or (parts[0] == "LDSM" and "4" in parts) else 1
    wide = (
        2
        if wide == 1 and ("64" in parts or "WIDE" in parts or (parts[0] == "LDSM" and "2" in parts))
        else wide
    )
    return set(range(int(result[1]), int(result[1]) + wide))
