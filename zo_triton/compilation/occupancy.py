"""How many warps a multiprocessor holds of a kernel, what says no to more, and whether a launch fills the chip."""

from __future__ import annotations

from typing import Any

from zo_triton.compilation.targets import Chip


def occupancy(chip: Chip, registers: int, shared: int, warps: int, tensor_memory: int = 0) -> dict[str, Any]:
    """The static bound.

    Args:
        chip: The multiprocessor.
        registers: Of a thread.
        shared: Bytes of a program.
        warps: Of a program.
        tensor_memory: Columns of a program.

    Returns:
        ``programs`` and ``warps`` resident at once, what binds (``limit``; several names where they agree) and the
        programs that each resource alone would admit (``by``). 0 where one program exceeds the chip.
    """
    rounded = -(-max(registers, 1) // chip.register_step) * chip.register_step
    by_registers = chip.registers // (rounded * chip.warp_size)
    by = {
        "threads": min(chip.schedulers * chip.max_warps // warps, chip.max_programs),
        "registers": chip.schedulers * min(by_registers, chip.max_warps) // warps,
    }
    held = -(-(shared + chip.shared_overhead) // 128) * 128
    if held:
        by["shared"] = chip.shared // held if shared <= chip.shared_per_program else 0
    if tensor_memory:
        by["tensor memory"] = chip.tensor_memory // tensor_memory
    programs = min(by.values())
    limit = " and ".join(resource for resource, admitted in by.items() if admitted == programs)
    return {"programs": programs, "warps": programs * warps, "limit": limit, "by": by}


def filled(chip: Chip, launched: int) -> float:
    """The share of the multiprocessors that a launch's programs keep busy, to the end of their last round."""
    rounds = -(-launched // chip.multiprocessors)
    return launched / (rounds * chip.multiprocessors)
