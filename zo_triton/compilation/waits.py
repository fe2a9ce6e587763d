"""Which products of a warp group are still under way when an instruction is issued.

On sm_90 an HGMMA multiplies behind its warps' backs. Those up to one that carries ``gsb0`` are a group, and
``WARPGROUP.DEPBAR.LE gsb0, n`` waits until no more than the last n groups are under way. While there is none, the
tensor cores stand still, unless another program keeps them busy. A product that is under way reads the registers
that its left factor lies in, and writes those of its sums: nobody may touch them before the wait.

A wait is one warp group's own. Where a program has several, another one's products may still read the shared memory
that this one thinks is free: a barrier behind the wait joins the groups before anything is written there.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from zo_triton.compilation.machine_code import Instruction

_WAIT = re.compile(r"gsb0, (0x[0-9a-f]+)")
_PRODUCT = re.compile(r"R(\d+), (?:R(\d+), )?gdesc")
_COLUMNS = re.compile(r"HGMMA\.64x(\d+)x")
_REGISTER = re.compile(r"(?<![A-Za-z])R(\d+)")
_TO_SHARED = ("STS", "STSM", "LDGSTS", "UTMALDG", "UBLKCP")


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


def touched(code: Sequence[Instruction], loop: bool) -> list[tuple[Instruction, Instruction]]:
    """Products whose sums are read or written before they are waited for, each with who does it.

    Products that add to the same sums take turns by themselves.
    """
    found = []
    for instruction, products in under_way(code, loop):
        if products and not instruction.name.startswith("HGMMA") and not instruction.idle:
            named = {int(number) for number in _REGISTER.findall(instruction.operands)}
            named |= _written(instruction)
            found += [(product, instruction) for product in products if named & _sums(product)]
    return found


def unjoined(code: Sequence[Instruction], loop: bool) -> list[Instruction]:
    """Writes to shared memory that other warp groups' products may still read.

    Such a product has been waited for by the writer's own group, and the only barrier since it began came before
    that wait. Where there was none, the compiler has found that the write and the product don't meet.
    """
    found: list[Instruction] = []
    before: list[Instruction] = []
    passed: set[int] = set()
    alone = False
    for instruction, products in under_way([*code, *code] if loop else code, False):
        left = {id(product) for product in products}
        alone |= any(id(product) in passed - left for product in before)
        if instruction.name.startswith("BAR."):
            alone, passed = False, left
        if alone and instruction.name.split(".")[0] in _TO_SHARED and not instruction.idle:
            found.append(instruction)
        before = products
    return list({id(instruction): instruction for instruction in found}.values())


def _sums(product: Instruction) -> set[int]:
    """Registers: a thread holds a half of one row's columns, in float32."""
    operands, columns = _PRODUCT.match(product.operands), _COLUMNS.match(product.name)
    if not operands or not columns:
        return set()
    return set(range(int(operands[1]), int(operands[1]) + int(columns[1]) // 2))


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
