"""One variant compiled for one chip without that chip: Triton, its assembler and its disassemblers do it all."""

from __future__ import annotations

import re
import subprocess
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

from zo_triton.compilation.instructions import classify, matrix_work
from zo_triton.compilation.machine_code import Instruction, parse_gcn, parse_sass
from zo_triton.compilation.occupancy import filled, occupancy
from zo_triton.compilation.roofline import read_body, roofline
from zo_triton.compilation.targets import TARGETS, Chip
from zo_triton.compilation.variants import Variant
from zo_triton.compilation.work import work_of
from zo_triton.kernels import numeric, philox
from zo_triton.kernels.choices import Config
from zo_triton.kernels.launch import Launch, launching_for

POINTERS = {
    torch.bfloat16: "*bf16",
    torch.float16: "*fp16",
    torch.float32: "*fp32",
    torch.float64: "*fp64",
    torch.int32: "*i32",
    torch.int64: "*i64",
}
SIZES = ("ROWS", "COLS", "WORDS", "num_warps", "num_stages")
"""Arguments that belong to a config, beside all that start with BLOCK."""


@dataclass(frozen=True)
class Job:
    """A variant by name, the config (None: the launcher's own) and the chip's name."""

    name: str
    variant: Variant
    config: Config | None
    target: str


@dataclass(frozen=True)
class _Machine:
    """What the compiler made: the instructions, and what a program of them holds."""

    code: list[Instruction]
    registers: int
    spills: int
    stack: int
    shared: int
    tensor_memory: int


def interpreted() -> bool:
    """Whether this process runs Triton's interpreter, whose kernels are Python functions."""
    return bool(knobs.runtime.interpret)


def options_of(arguments: Mapping[str, object]) -> dict[str, int]:
    """The tile sizes and launch options among a launch's arguments."""
    return {
        name: value
        for name, value in arguments.items()
        if (name in SIZES or name.startswith("BLOCK")) and isinstance(value, int)
    }


def compile_row(job: Job) -> dict[str, Any]:
    """Compiles and reads one variant.

    Returns:
        A row of the record (see :mod:`zo_triton.compilation.run`). What the compiler refuses, or what the chip has
        no room for, is a row with ``error``, the first line of the reason.
    """
    chip, start = TARGETS[job.target], time.perf_counter()
    row: dict[str, Any] = {
        "kernel": job.variant.kernel,
        "variant": job.name,
        "default": job.config is None,
        "target": chip.name,
        "config": dict(job.config or {}),
        "error": None,
    }
    try:
        row |= _figures(job, chip)
    # The compilers raise whatever they please, and every reason is worth a row.
    except Exception as error:
        row["error"] = _reason(error)
    row["seconds"] = round(time.perf_counter() - start, 2)
    return row


def _figures(job: Job, chip: Chip) -> dict[str, Any]:
    with launching_for(chip.name):
        launch = job.variant.launch(job.config)
    return figures(launch, chip)


def figures(launch: Launch, chip: Chip) -> dict[str, Any]:
    """What one launch compiles to: a row's figures.

    ``error`` is among them if the chip has no room for it, or if its products are less exact than asked.

    Args:
        launch: As recorded.
        chip: Compiled for.

    Raises:
        Exception: Whatever the compiler raises.
    """
    # What the launchers' own processes find out from torch's build: whose instructions a kernel may hold.
    modules: tuple[Any, ...] = (numeric, philox)
    for module in modules:
        module.NVIDIA = tl.constexpr(chip.backend == "cuda")
    kernel, arguments, programs = launch
    source, options = _source(kernel, arguments)
    compiled = triton.compile(source, GPUTarget(chip.backend, chip.arch, chip.warp_size), options)
    machine = _read_amd(compiled) if chip.backend == "hip" else _read_nvidia(compiled)
    warps = int(compiled.metadata.num_warps)
    body = read_body(machine.code, warps, chip.warp_size)
    held = occupancy(chip, machine.registers, machine.shared, warps, machine.tensor_memory)
    room = {
        "shared": (machine.shared, chip.shared_per_program),
        "registers": (machine.registers * warps, chip.registers),
        "tensor memory": (machine.tensor_memory, chip.tensor_memory),
    }
    short = [
        f"{need} of {room} for {name}" for name, (need, room) in room.items() if not held["by"].get(name, 1)
    ]
    return {
        "function": kernel.__name__,
        "config": options_of(arguments),
        "error": f"does not fit: needs {short[0]}" if short else less_exact(arguments, machine.code),
        "registers": machine.registers,
        "spills": machine.spills,
        "stack": machine.stack,
        "shared": machine.shared,
        "tensor_memory": machine.tensor_memory,
        "occupancy": held,
        "programs": programs,
        "filled": filled(chip, programs),
        "matrix": dict(body.matrix),
        "region": body.region,
        "instructions": dict(body.counts),
        "busiest": dict(body.names.most_common(12)),
        "unknown": sorted({item.name for item in machine.code if classify(item) == "unknown"}),
        "overwritten": body.overwritten,
        "touched": body.touched,
        "unjoined": body.unjoined,
        "narrow_stores": sum(body.names[name] for name in ("STS.U16", "STS.U8")),
        "drains": body.gaps.drains if body.gaps else None,
        "roofline": roofline(body, chip, work_of(kernel.__name__, arguments), held["programs"]),
    }


def less_exact(arguments: Mapping[str, object], code: Sequence[Instruction]) -> str | None:
    """What is wrong with a kernel that multiplies in TF32 though its launch did not ask for it, if it does.

    Triton 3.6 makes such products of float32 operands for sm_100, in some tiles, whatever precision it is told.
    """
    asked = arguments.get("PRECISION", "ieee")
    formats = {work.format for work in matrix_work(code).values()}
    return f"multiplies in TF32, asked for {asked!r}" if "tf32" in formats and asked != "tf32" else None


def _reason(error: BaseException) -> str:
    """The first line of what went wrong: Triton wraps it, once a call, in listings of the source."""
    while error.__cause__ is not None:
        error = error.__cause__
    message = getattr(error, "error_message", None) or str(error)
    lines = message.strip().splitlines()
    return f"{type(error).__name__}: {lines[0] if lines else 'no message'}"


def _source(kernel: Callable, arguments: Mapping[str, object]) -> tuple[ASTSource, dict[str, object]]:
    """What Triton's own launcher would compile for these arguments: ones and constants are built in."""
    signature: dict[str, object] = {}
    constants: dict[tuple[int, ...], object] = {}
    attributes: dict[tuple[int, ...], list[list[object]]] = {}
    for parameter in kernel.params:  # type: ignore[attr-defined]
        value, position = arguments[parameter.name], (parameter.num,)
        if isinstance(value, tuple) and not parameter.is_constexpr:
            signature[parameter.name] = tuple(POINTERS[tensor.dtype] for tensor in value)
            for index in range(len(value)):
                attributes[(*position, index)] = [["tt.divisibility", 16]]
        elif isinstance(value, Tensor):
            signature[parameter.name] = POINTERS[value.dtype]
            attributes[position] = [["tt.divisibility", 16]]
        elif parameter.is_constexpr or (value == 1 and not parameter.do_not_specialize):
            signature[parameter.name] = "constexpr"
            constants[position] = value
        else:
            wide = isinstance(value, int) and not -(2**31) <= value < 2**31
            signature[parameter.name] = "fp32" if isinstance(value, float) else "i64" if wide else "i32"
            if isinstance(value, int) and value % 16 == 0 and not parameter.do_not_specialize:
                attributes[position] = [["tt.divisibility", 16]]
    options = {name: value for name, value in arguments.items() if name not in signature}
    return ASTSource(kernel, signature, constants, attributes), options


def _read_nvidia(compiled: Any) -> _Machine:
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "kernel.cubin"
        file.write_bytes(compiled.asm["cubin"])
        usage = _run(knobs.nvidia.cuobjdump.path, "--dump-resource-usage", str(file))
        code = parse_sass(_run(knobs.nvidia.nvdisasm.path, "-c", str(file)))
    return _Machine(
        code=code,
        registers=_number(r"REG:(\d+)", usage),
        spills=sum(instruction.name.startswith(("LDL", "STL")) for instruction in code),
        stack=_number(r"STACK:(\d+)", usage),
        shared=compiled.metadata.shared,
        tensor_memory=int(getattr(compiled.metadata, "tmem_size", 0) or 0),
    )


def _read_amd(compiled: Any) -> _Machine:
    text = compiled.asm["amdgcn"]
    # The accumulation registers are counted in .vgpr_count since they share one file.
    return _Machine(
        code=parse_gcn(text),
        registers=_number(r"\.vgpr_count:\s*(\d+)", text),
        # Scalar registers without room lie in lanes of vector registers, whose own want of room is what counts.
        spills=_number(r"\.vgpr_spill_count:\s*(\d+)", text),
        stack=_number(r"\.private_segment_fixed_size:\s*(\d+)", text),
        shared=compiled.metadata.shared,
        tensor_memory=0,
    )


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if not found:
        raise ValueError(f"the compiler's output lacks {pattern}; is this Triton newer than 3.9?")
    return int(found[1])


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
