"""A static roofline of a loop body: clocks of the tensor cores against clocks of everything else.

For one iteration of one program of w warps on one multiprocessor,

* ``tensor`` = matrix operations / matrix operations a clock;
* ``issue`` = warp instructions outside the tensor cores · w / schedulers: each scheduler issues one a clock. On
  AMD, where a wave holds its SIMD's 16 lanes for several clocks and the scalar unit, the LDS and the branches are
  issued beside it, it is the clocks of the vector instructions;
* one figure a pipe: 32-bit integers with comparisons, integer multiplications, the float32 unit (which multiplies
  integers too), float64, special functions with conversions, memory by bytes: what is loaded and stored, and what
  the tensor cores of sm_90 and sm_100 read from shared memory by themselves;
* ``l2``: bytes from and to global memory against the multiprocessor's share of the L2 cache's rate, as if no two
  threads asked for the same;
* ``waits`` (sm_90): where a program has waited for all its products, the tensor cores are left to the others on its
  multiprocessor until its next one: (tensor + what is issued or moved in between) / programs.

``other_per_tensor`` = issue / tensor is the headline: below 1 everything else can hide behind the tensor cores. If
it does, ``overlapped`` = tensor / max(tensor, all of the above) of the peak is reached; if nothing hides,
``serial`` = tensor / (tensor + max(issue, pipes)). Latencies, bank conflicts and DRAM are not in it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from zo_triton.compilation.instructions import MatrixWork, classify, matrix_work, memory_bytes, reaches_l2
from zo_triton.compilation.machine_code import Block, Instruction, blocks, inner_loop
from zo_triton.compilation.targets import Chip
from zo_triton.compilation.waits import drains, overwritten, touched, under_way, unjoined


@dataclass(frozen=True)
class Work:
    """What an iteration of the source's inner loop is for.

    Attributes:
        values: Random values that the program draws or unpacks.
        multiply_adds: Of its products.
    """

    values: int
    multiply_adds: int


@dataclass(frozen=True)
class Gaps:
    """What is issued where no product is under way, though there are products that could be.

    Attributes:
        drains: Waits for all products.
        instructions: Warp instructions.
        bytes: Of the memory instructions, without copies that go on by themselves.
    """

    drains: int
    instructions: int
    bytes: int


@dataclass
class Body:
    """A loop body, or a whole kernel without a loop, in warp instructions a program.

    Attributes:
        region: ``"loop"`` or ``"kernel"``.
        counts: Warp instructions of each class, all warps together.
        matrix: Names of the matrix instructions and how often all warps issue them.
        flops: Of the matrix instructions, by format.
        names: Mnemonics outside the tensor cores and how often they stand in the text.
        bytes: Of the memory instructions, and of operands that the tensor cores read from shared memory.
        l2: Those of them that pass between the multiprocessor and the L2 cache.
        once: Instructions that one warp issues for the program.
        gaps: Between the products of sm_90's warp groups, or None where there are none.
        overwritten: Writes to registers that a product under way still reads.
        touched: Reads and writes of a product's sums before it is waited for, in the whole kernel.
        unjoined: Writes to shared memory that other warp groups' products may still read, in the whole kernel.
    """

    region: str
    counts: Counter[str] = field(default_factory=Counter)
    matrix: Counter[str] = field(default_factory=Counter)
    flops: Counter[str] = field(default_factory=Counter)
    names: Counter[str] = field(default_factory=Counter)
    bytes: int = 0
    l2: int = 0
    once: int = 0
    gaps: Gaps | None = None
    overwritten: int = 0
    touched: int = 0
    unjoined: int = 0

    @property
    def instructions(self) -> int:
        """Warp instructions outside the tensor cores."""
        return sum(number for kind, number in self.counts.items() if kind != "matrix")


def read_body(code: Sequence[Instruction], warps: int, warp_size: int) -> Body:
    """The inner loop of a disassembled kernel.

    Raises:
        ValueError: A matrix instruction's shape can't be read.
    """
    work = {id(code[index]): found for index, found in matrix_work(code).items()}
    flops = {place: found.flops for place, found in work.items()}
    loop = inner_loop(blocks(code), lambda instruction: flops.get(id(instruction), 0.0))
    body = Body("loop" if loop else "kernel")
    for block in loop or [Block(tuple(code), ())]:
        # The warp that starts a product for its program enters that block alone.
        alone = any(
            id(instruction) in work and work[id(instruction)].once for instruction in block.instructions
        )
        issuers = 1 if alone and loop else warps
        for instruction in block.instructions:
            kind = classify(instruction)
            body.counts[kind] += issuers
            body.once += alone
            if kind == "matrix":
                _add_matrix(body, instruction.name, work[id(instruction)], warps)
            else:
                body.names[instruction.name] += 1
            if kind == "memory":
                moved = memory_bytes(instruction) * issuers * warp_size
                body.bytes += moved
                body.l2 += moved if reaches_l2(instruction) else 0
    text = [instruction for block in loop for instruction in block.instructions] if loop else code
    body.gaps = _gaps(text, bool(loop), warps, warp_size)
    body.overwritten = len(overwritten(text, bool(loop)))
    # Sums are read behind the loop: in the order of the text, then again where the loop begins anew.
    body.touched = len(touched(code, loop=False)) + len(touched(text, bool(loop)))
    body.unjoined = len(unjoined(code, loop=False)) + len(unjoined(text, bool(loop)))
    return body


def _add_matrix(body: Body, name: str, work: MatrixWork, warps: int) -> None:
    issuers = 1 if work.once else warps
    body.matrix[name] += issuers
    body.flops[work.format] += int(work.flops * issuers)
    body.bytes += int(work.shared * issuers)


def _gaps(code: Sequence[Instruction], loop: bool, warps: int, warp_size: int) -> Gaps | None:
    if not any(instruction.name.startswith("HGMMA") for instruction in code):
        return None
    between = [
        instruction
        for instruction, products in under_way(code, loop)
        if not products and not instruction.name.startswith("HGMMA")
    ]
    moved = sum(
        memory_bytes(instruction)
        for instruction in between
        if classify(instruction) == "memory" and not instruction.name.startswith("LDGSTS")
    )
    waits = sum(drains(instruction) for instruction in code)
    return Gaps(waits, len(between) * warps, moved * warps * warp_size)


def pipes(body: Body, chip: Chip) -> dict[str, float]:
    """Clocks that each unit besides the tensor cores needs for one iteration of one program."""
    counts, lanes = body.counts, chip.lanes

    def clocks(*kinds: str, at: str) -> float:
        return sum(counts[kind] for kind in kinds) * chip.warp_size / lanes[at]

    memory = {
        "memory": body.bytes / chip.shared_bytes_per_clock,
        "l2": body.l2 * chip.multiprocessors / chip.l2_bytes_per_clock,
    }
    if chip.backend == "hip":
        vector = {kind: clocks(kind, at=kind) for kind in lanes}
        return {"issue": sum(vector.values()), "scalar": float(counts["uniform"]), **memory}
    return {
        "issue": body.instructions / chip.schedulers,
        "integer": clocks("integer", "compare", at="integer"),
        "multiply": clocks("multiply", at="multiply"),
        "float": clocks("float", "multiply", at="float"),
        "double": clocks("double", at="double"),
        "special": clocks("special", "convert", at="special"),
        **memory,
    }


def _waits(gaps: Gaps, tensor: float, chip: Chip, programs: int) -> float:
    """Clocks an iteration of a program takes at least, as its gaps and its products don't overlap."""
    between = max(gaps.instructions / chip.schedulers, gaps.bytes / chip.shared_bytes_per_clock)
    return (tensor + between) / max(programs, 1)


def roofline(body: Body, chip: Chip, work: Work | None, programs: int = 1) -> dict[str, Any]:
    """The figures of one iteration; what has no meaning for a kernel is None.

    Args:
        body: From :func:`read_body`.
        chip: The multiprocessor.
        work: Of one iteration of the source, or None where nobody has said.
        programs: That a multiprocessor holds at once.

    Returns:
        ``tensor`` and ``issue`` clocks, ``pipes``, what takes longest (``bound``), ``other_per_tensor``,
        ``overlapped`` and ``serial`` (see the module), ``iterations`` of the source in the body, instructions a
        value and a matrix instruction, and ``values_per_clock`` if everything overlaps. Without tensor cores but
        with products the two fractions are of the float32 multiply-adds' peak.
    """
    units = pipes(body, chip)
    tensor = sum(flops / chip.matrix_flops[kind] for kind, flops in body.flops.items())
    other = max(units.values())
    if body.gaps:
        units["waits"] = _waits(body.gaps, tensor, chip, programs)
    useful, iterations = tensor, 1
    if work and work.multiply_adds:
        if tensor:
            iterations = max(1, round(sum(body.flops.values()) / (2 * work.multiply_adds)))
        else:
            done = body.counts["float"] * chip.warp_size
            iterations = max(1, round(done / work.multiply_adds)) if done else 1
            useful = iterations * work.multiply_adds / chip.lanes["float"]
    slowest = max(tensor, *units.values())
    values = work.values * iterations if work else 0
    # Float32 products are part of everything else: there is nothing for them to hide behind.
    serial = tensor / (tensor + other) if tensor else useful / other if other else 0.0
    return {
        "tensor": tensor,
        "issue": units["issue"],
        "pipes": units,
        "bound": "tensor" if tensor >= slowest else max(units, key=lambda unit: units[unit]),
        "other_per_tensor": units["issue"] / tensor if tensor else None,
        "overlapped": useful / slowest if useful else None,
        "serial": serial if useful else None,
        "iterations": iterations,
        "values_per_clock": values / slowest if values and slowest else None,
        "per_value": _per(body, values / chip.warp_size) if values else None,
        "per_matrix": _per(body, body.counts["matrix"]) if body.counts["matrix"] else None,
    }


def _per(body: Body, unit: float) -> dict[str, float]:
    """Integer, float and special-function instructions a unit."""
    counts = body.counts
    return {
        "integer": (counts["integer"] + counts["multiply"]) / unit,
        "float": (counts["float"] + counts["compare"]) / unit,
        "special": counts["special"] / unit,
        "all": body.instructions / unit,
    }
