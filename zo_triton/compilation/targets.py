"""The chips that kernels are compiled for: what one multiprocessor does in a clock, from the vendors' figures.

Sources, by the letters in the comments:

* G: NVIDIA, "CUDA C++ Programming Guide", "Arithmetic Instructions", the table of throughputs in results a clock
  and multiprocessor, and "Compute Capabilities", the table of technical specifications.
* A: NVIDIA, "A100 Tensor Core GPU Architecture", 2020: 312 TFLOP/s of bfloat16 on 108 multiprocessors at
  1.41 GHz, 156 of TF32; 128 bytes a clock from shared memory, 5120 a clock from the L2 cache to all of them.
* H: NVIDIA, "H100 Tensor Core GPU Architecture", 2022: 989.4 TFLOP/s of dense bfloat16 on 132 multiprocessors at
  1.83 GHz, 494.7 of TF32. It names no rate of the L2 cache; A100's is taken.
* B: NVIDIA, "Blackwell Architecture Technical Brief", 2024: 2.25 PFLOP/s of dense bfloat16 and 1.1 of TF32 a GPU of
  148 multiprocessors at 1.85 GHz; PTX ISA, "Tensor Memory": 512 columns a multiprocessor. The L2 cache is taken to
  give each of them as much as H100's does.
* M: AMD, "CDNA 3 Architecture", 2023: operations a clock and compute unit, for the vector units 256 of FP32 and 128
  of FP64, for the matrix units 2048 of bfloat16, 1024 of TF32, 256 of FP32 and FP64; 64 KiB of LDS, 128 bytes a
  clock; 2 KiB a clock from the L2 cache of each of 8 dies.
* I: AMD, "Instinct MI300 Instruction Set Architecture", 2023, registers and LDS; and the scheduling model of LLVM's
  AMDGPU backend (SISchedule.td), which has 32-bit multiplications and transcendentals at a quarter of the rate.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Chip:
    """One multiprocessor (compute unit) and how many of them there are.

    Attributes:
        name: As on the command line.
        backend: Triton's name of the backend.
        arch: Triton's name of the architecture.
        model: The product that the figures are of.
        warp_size: Threads of a warp (wave).
        schedulers: Each issues one warp instruction a clock.
        matrix_flops: Operations a clock of the tensor cores, two a multiply-add, by operand format.
        lanes: Results a clock by class of instruction; 32-bit unless the class says otherwise.
        shared_bytes_per_clock: To and from shared memory.
        multiprocessors: Of the product.
        l2_bytes_per_clock: From the L2 cache to all multiprocessors together.
        registers: 32-bit registers of one scheduler's warps.
        register_step: A thread's registers are rounded up to a multiple of this.
        max_warps: Of one scheduler.
        max_programs: Resident at once.
        shared: Bytes of shared memory.
        shared_per_program: The most that one program may have.
        shared_overhead: Bytes that the system adds to each program's.
        tensor_memory: Columns of tensor memory, 0 where there is none.
    """

    name: str
    backend: str
    arch: int | str
    model: str
    warp_size: int
    matrix_flops: Mapping[str, int]
    lanes: Mapping[str, int]
    multiprocessors: int
    l2_bytes_per_clock: int
    registers: int
    max_warps: int
    max_programs: int
    shared: int
    shared_per_program: int
    shared_overhead: int
    schedulers: int = 4
    register_step: int = 8
    shared_bytes_per_clock: int = 128
    tensor_memory: int = 0


# G: 32-bit integer add, logic, shift, compare, minimum and maximum 64; multiplication 64; logarithm, exponential,
# sine, reciprocal and root 16; type conversions 16. Only float32 and float64 arithmetic differs between the chips.
_INTEGER = {"integer": 64, "compare": 64, "multiply": 64, "special": 16, "convert": 16}

TARGETS: dict[str, Chip] = {
    chip.name: chip
    for chip in (
        Chip(
            name="sm_80", backend="cuda", arch=80, model="A100", warp_size=32,
            matrix_flops={"half": 2048, "tf32": 1024, "fp64": 128},  # A
            lanes={**_INTEGER, "float": 64, "double": 32},  # G
            multiprocessors=108, l2_bytes_per_clock=5120,  # A
            registers=16384, max_warps=16, max_programs=32,  # G, from here on
            shared=164 * 1024, shared_per_program=163 * 1024, shared_overhead=1024,
        ),
        Chip(
            name="sm_90", backend="cuda", arch=90, model="H100 SXM", warp_size=32,
            matrix_flops={"half": 4096, "tf32": 2048, "fp64": 256},  # H
            lanes={**_INTEGER, "float": 128, "double": 64},  # G
            multiprocessors=132, l2_bytes_per_clock=5120,  # H
            registers=16384, max_warps=16, max_programs=32,
            shared=228 * 1024, shared_per_program=227 * 1024, shared_overhead=1024,
        ),
        Chip(
            name="sm_100", backend="cuda", arch=100, model="B200", warp_size=32,
            matrix_flops={"half": 8192, "tf32": 4096, "fp64": 128},  # B
            lanes={**_INTEGER, "float": 128, "double": 64},  # G
            multiprocessors=148, l2_bytes_per_clock=148 * 5120 // 132,  # B
            registers=16384, max_warps=16, max_programs=32,
            shared=228 * 1024, shared_per_program=227 * 1024, shared_overhead=1024, tensor_memory=512,
        ),
        Chip(
            name="gfx942", backend="hip", arch="gfx942", model="MI300X", warp_size=64,
            matrix_flops={"half": 2048, "tf32": 1024, "fp32": 256, "fp64": 256},  # M
            # A wave of 64 takes a SIMD's 16 lanes four clocks; packed FP32 does two operations a lane in them. I
            lanes={
                "integer": 64, "compare": 64, "move": 64, "float": 64, "convert": 64, "double": 64,
                "multiply": 16, "special": 16,
            },
            multiprocessors=304, l2_bytes_per_clock=8 * 2048,  # M
            # I: a thread of one of 8 waves has 64 of the 512 registers, arithmetic and accumulation together.
            registers=512 * 64, max_warps=8, max_programs=32,
            shared=64 * 1024, shared_per_program=64 * 1024, shared_overhead=0,
        ),
    )
}  # fmt: skip
