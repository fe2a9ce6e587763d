"""Disassembly as a list of instructions, and the loop in it that a kernel spends its time in.

Loops are the natural loops of the control-flow graph: a branch back to a block that lies on every way to it (Aho,
Lam, Sethi, Ullman, "Compilers", 2006, §9.6). Order in the text says nothing, as compilers move waiting loops
behind the end of a kernel and jump back from there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

_SASS = re.compile(r"\s*/\*[0-9a-f]+\*/\s+(?:@(!?U?P\w+)\s+)?([A-Z][\w.]*)\s*(.*?)\s*;?\s*$")
_SASS_TARGET = re.compile(r"`\((.+?)\)")
_GCN = re.compile(r"\s+([a-z]\w*)\s*(.*?)\s*(?:;.*|//.*)?$")
_LABEL = re.compile(r"(\.?[\w$]+):")
_GCN_KINDS = ("v_", "s_", "ds_", "global_", "buffer_", "flat_", "scratch_")


@dataclass(frozen=True)
class Instruction:
    """One instruction.

    Attributes:
        name: The mnemonic with its modifiers, without a predicate.
        operands: The rest of the line.
        target: The index of the instruction it may jump to, or None.
        ends: Whether the next instruction in the text is reached by jumps alone.
        idle: Whether its predicate is never true: it is issued, and does nothing.
    """

    name: str
    operands: str = ""
    target: int | None = None
    ends: bool = False
    idle: bool = False


@dataclass(frozen=True)
class Block:
    """Instructions that run one after another, and the indices of the blocks that may follow."""

    instructions: tuple[Instruction, ...]
    followers: tuple[int, ...]


def parse_sass(text: str) -> list[Instruction]:
    """What ``nvdisasm -c`` prints for one kernel.

    Raises:
        ValueError: There is no instruction in the text.
    """
    return _resolve(text, _sass_line)


def parse_gcn(text: str) -> list[Instruction]:
    """AMD assembly as Triton keeps it.

    Raises:
        ValueError: There is no instruction in the text.
    """
    return _resolve(text, _gcn_line)


_Line = tuple[str, str, str | None, bool, bool]
"""Name, operands, label of a jump, and the two flags."""


def _sass_line(line: str) -> _Line | None:
    found = _SASS.match(line)
    if not found:
        return None
    guard, name, operands = found.groups()
    label, root = _SASS_TARGET.search(operands), name.split(".")[0]
    # ptxas leaves a loop by a call to a label without a return; calls of routines come back.
    jumps = root in ("BRA", "CALL") and label is not None and label[1].startswith(".L")
    always = guard in (None, "PT") and (root != "BRA" or operands.startswith("`"))
    ends = always and (jumps or root in ("EXIT", "RET", "BRX", "JMX"))
    return name, operands, label[1] if jumps and label else None, ends, guard == "!PT"


def _gcn_line(line: str) -> _Line | None:
    found = _GCN.match(line)
    if not found or not found[1].startswith(_GCN_KINDS):
        return None
    name, operands = found.groups()
    label = operands if name == "s_branch" or name.startswith("s_cbranch") else None
    return name, operands, label, name in ("s_branch", "s_endpgm", "s_setpc_b64"), False


def _resolve(text: str, read: Callable[[str], _Line | None]) -> list[Instruction]:
    lines: list[_Line] = []
    labels: dict[str, int] = {}
    for line in text.splitlines():
        label = _LABEL.match(line)
        if label:
            labels[label[1]] = len(lines)
            continue
        entry = read(line)
        if entry:
            lines.append(entry)
    if not lines:
        raise ValueError("the disassembly holds no instruction; is it of another architecture?")
    # A label behind the last instruction is no place to jump to.
    places = {label: index for label, index in labels.items() if index < len(lines)}
    return [
        Instruction(name, operands, places.get(label) if label else None, ends, idle)
        for name, operands, label, ends, idle in lines
    ]


def blocks(instructions: Sequence[Instruction]) -> list[Block]:
    """The basic blocks in the order of the text; the first one is the entry."""
    starts = {0}
    for index, instruction in enumerate(instructions):
        if instruction.target is not None:
            starts.add(instruction.target)
        if (instruction.target is not None or instruction.ends) and index + 1 < len(instructions):
            starts.add(index + 1)
    order = sorted(starts)
    number = {start: place for place, start in enumerate(order)}
    found = []
    for place, start in enumerate(order):
        stop = order[place + 1] if place + 1 < len(order) else len(instructions)
        last = instructions[stop - 1]
        followers = [] if last.ends or stop == len(instructions) else [place + 1]
        if last.target is not None:
            followers.append(number[last.target])
        found.append(Block(tuple(instructions[start:stop]), tuple(followers)))
    return found


def loops(code: Sequence[Block]) -> list[frozenset[int]]:
    """Every natural loop that the entry reaches, as indices of blocks; loops with one header are one loop."""
    comers: list[list[int]] = [[] for _ in code]
    for place, block in enumerate(code):
        for follower in block.followers:
            comers[follower].append(place)
    dominators = _dominators(code, comers)
    bodies: dict[int, set[int]] = {}
    for place, block in enumerate(code):
        for header in block.followers:
            if not dominators[place] >> header & 1 or not dominators[place] >> place & 1:
                continue
            body, waiting = bodies.setdefault(header, {header}), [place]
            while waiting:
                member = waiting.pop()
                if member not in body:
                    body.add(member)
                    waiting += comers[member]
    return [frozenset(body) for body in bodies.values()]


def _dominators(code: Sequence[Block], comers: Sequence[Sequence[int]]) -> list[int]:
    """For each block the set of those on every way to it, as bits; 0 for a block that nothing reaches."""
    reached, waiting = {0}, [0]
    while waiting:
        for follower in code[waiting.pop()].followers:
            if follower not in reached:
                reached.add(follower)
                waiting.append(follower)
    everything = (1 << len(code)) - 1
    sets = [everything if place in reached else 0 for place in range(len(code))]
    sets[0], changed = 1, True
    while changed:
        changed = False
        for place in sorted(reached - {0}):
            common = everything
            for comer in comers[place]:
                if comer in reached:
                    common &= sets[comer]
            common |= 1 << place
            changed |= common != sets[place]
            sets[place] = common
    return sets


def inner_loop(code: Sequence[Block], weigh: Callable[[Instruction], float]) -> list[Block] | None:
    """The blocks of the loop that matters, or None where there is no loop.

    Args:
        code: A kernel's blocks.
        weigh: What the tensor cores have to do for an instruction, 0 for all others.

    Returns:
        Among the innermost loops with matrix instructions the one with the most work for the tensor cores (loops
        inside it that only wait are part of it); without any, the innermost loop with the most instructions.
    """
    found = loops(code)
    holding = [body for body in found if _total(code, weigh, body)]
    candidates = holding or found
    innermost = [body for body in candidates if not any(other < body for other in candidates)]
    if not innermost:
        return None
    size = partial(_total, code, weigh if holding else lambda instruction: 1.0)
    return [code[place] for place in sorted(max(innermost, key=size))]


def _total(code: Sequence[Block], weigh: Callable[[Instruction], float], body: frozenset[int]) -> float:
    return sum(weigh(instruction) for place in body for instruction in code[place].instructions)
