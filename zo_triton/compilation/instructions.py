"""What an instruction is: its class, the work of a matrix instruction, the bytes that it moves.

Classes: ``matrix`` (tensor cores), ``integer``, ``multiply`` (32-bit, on NVIDIA a half of the float32 unit),
``float`` (add, multiply, multiply-add), ``compare`` (of floats; on the integers' unit), ``double``, ``special``
(logarithm, sine, root and such), ``convert``, ``move``, ``uniform`` (one result a warp), ``memory``,
``control``, and ``unknown`` for a mnemonic that no list has.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from zo_triton.compilation.machine_code import Instruction

_NVIDIA = {
    "matrix": "HMMA IMMA DMMA QMMA BMMA HGMMA QGMMA IGMMA BGMMA UTCHMMA UTCQMMA UTCIMMA UTCOMMA",
    "integer": "IADD IADD3 LOP LOP3 SHF SHL SHR LEA ISETP IMNMX VIADD VIMNMX VIMNMX3 VIADDMNMX SEL PRMT SGXT BMSK"
    " IABS PLOP3 P2R R2P F2FP I2FP VOTE VABSDIFF ISCADD",
    "multiply": "IMAD IMUL IDP",
    "float": "FADD FMUL FFMA FADD2 FMUL2 FFMA2 FADD32I FMUL32I FFMA32I FSWZADD FHADD FHFMA"
    " HADD2 HMUL2 HFMA2 HADD2_32",
    "compare": "FSETP FSEL FMNMX FMNMX3 FCHK FSET HSETP2 HMNMX2 HSET2",
    "double": "DADD DMUL DFMA DSETP",
    "special": "MUFU FLO POPC BREV",
    "convert": "F2F F2I I2F FRND I2I",
    "move": "MOV CS2R S2R MOV32I MOVM S2UR R2UR LDC LDCU ULDC REDUX CREDUX UR2UP",
    "memory": "LDG STG LDS STS LDSM STSM LDGSTS LDL STL LD ST ATOM ATOMG ATOMS RED SHFL LDTM STTM UTCCP UBLKCP"
    " UTMALDG UTMASTG",
    "control": "BRA BRX JMX BAR BSSY BSYNC BREAK CALL RET EXIT NOP DEPBAR LDGDEPBAR WARPSYNC WARPGROUP MEMBAR FENCE"
    " SYNCS ELECT ERRBAR CCTL NANOSLEEP YIELD BPT UTCBAR UTCATOMSWS VOTEU ARRIVES WARPGROUPSET ACQBULK KILL"
    " ENDCOLLECTIVE UTMACMDFLUSH R2B B2R PREEXIT",
}
_CLASS_OF = {name: kind for kind, names in _NVIDIA.items() for name in names.split()}

_AMD_SPECIAL = ("v_exp_", "v_log_", "v_rcp_", "v_rsq_", "v_sqrt_", "v_sin_", "v_cos_")
_AMD_MULTIPLY = ("v_mul_lo_u32", "v_mul_hi_", "v_mad_u64_u32", "v_mad_i64_i32")
_AMD_CONTROL = (
    "s_branch", "s_cbranch", "s_waitcnt", "s_nop", "s_barrier", "s_endpgm", "s_sleep", "s_setprio", "s_sched",
)  # fmt: skip
_AMD_MEMORY = ("ds_", "global_", "buffer_", "flat_", "scratch_", "s_load_", "s_buffer_load")

_FORMATS = {"BF16": "half", "F16": "half", "TF32": "tf32", "E4M3": "fp8", "E5M2": "fp8", "F64": "fp64"}
_AMD_FORMATS = {
    "bf16": "half", "f16": "half", "xf32": "tf32", "f32": "fp32", "f64": "fp64", "i8": "int8", "fp8": "fp8",
}  # fmt: skip
_ELEMENT_BYTES = {"half": 2, "tf32": 4, "fp8": 1, "fp64": 8}

_GLOBAL = ("LDG", "STG", "LDGSTS", "LD", "ST", "ATOM", "ATOMG", "RED")
_AMD_GLOBAL = ("global_", "buffer_", "flat_")


@dataclass(frozen=True)
class MatrixWork:
    """What one warp instruction asks of the tensor cores.

    Attributes:
        format: Of the operands, a key of :attr:`zo_triton.compilation.targets.Chip.matrix_flops`.
        flops: Two a multiply-add; a share of 4 where four warps issue one multiplication together.
        shared: Bytes of its operands that lie in shared memory, which it reads by itself; the same share.
        once: Whether a single warp issues it for its whole program.
    """

    format: str
    flops: float
    shared: float = 0.0
    once: bool = False


def classify(instruction: Instruction) -> str:
    """The instruction's class."""
    name = instruction.name
    if name[0].islower():
        return _classify_amd(name)
    root = name.split(".")[0]
    if root in _CLASS_OF:
        return _CLASS_OF[root]
    return "uniform" if root.startswith("U") else "unknown"


def _classify_amd(name: str) -> str:
    if name.startswith(("v_mfma", "v_smfmac")):
        return "matrix"
    if name.startswith(_AMD_MEMORY):
        return "memory"
    if name.startswith(_AMD_CONTROL):
        return "control"
    if name.startswith("s_"):
        return "uniform"
    if name.startswith(_AMD_SPECIAL):
        return "special"
    if name.startswith(_AMD_MULTIPLY):
        return "multiply"
    if name.startswith("v_cvt"):
        return "convert"
    if name.startswith(("v_mov", "v_accvgpr", "v_readlane", "v_readfirstlane", "v_writelane", "v_swap")):
        return "move"
    if "_f64" in name:
        return "double"
    if name.startswith(("v_cmp", "v_max", "v_min", "v_med")) and re.search(r"_f(16|32)", name):
        return "compare"
    return (
        "float"
        if re.search(r"_f(16|32)|ak_|mk_", name)
        else "integer"
        if name.startswith("v_")
        else "unknown"
    )


def matrix_work(code: Sequence[Instruction]) -> dict[int, MatrixWork]:
    """The work of each matrix instruction, by its index in the code.

    Raises:
        ValueError: A matrix instruction's shape can't be read.
    """
    found, words = {}, {}
    for index, instruction in enumerate(code):
        if instruction.name == "UMOV":
            register, _, value = instruction.operands.partition(", ")
            words[register] = value
        if classify(instruction) == "matrix":
            found[index] = _work(instruction, words)
    return found


def _work(instruction: Instruction, words: dict[str, str]) -> MatrixWork:
    name = instruction.name
    parts = name.split(".")
    if name.startswith("v_"):
        # The small shapes multiply several blocks at once: 4x4x1_16b is sixteen of 4 × 4 × 1.
        shape = re.search(r"_(\d+)x(\d+)x(\d+)_?(?:(\d+)b_)?(\w+?)(?:_1k|_e64)?$", name)
        if shape and (form := _amd_format(shape[5])):
            rows, columns, depth, count = (int(shape[place] or 1) for place in (1, 2, 3, 4))
            return MatrixWork(form, 2.0 * rows * columns * depth * count)
    elif parts[0].startswith("UTC"):
        return _tcgen05_work(instruction, words)
    else:
        form = next((_FORMATS[part] for part in reversed(parts) if part in _FORMATS), None)
        grouped = re.fullmatch(r"(\d+)x(\d+)x(\d+)", parts[1]) if len(parts) > 1 else None
        if grouped and form:
            rows, columns, depth = map(int, grouped.groups())
            # The right factor always lies in shared memory; the left one may come from registers.
            lines = columns + (0 if re.match(r"R\d+, R\d+, gdesc", instruction.operands) else rows)
            return MatrixWork(
                form, 2.0 * rows * columns * depth / 4, lines * depth * _ELEMENT_BYTES[form] / 4
            )
        # HMMA.16816 is 16 × 8 × 16: the last number is the depth.
        single = re.fullmatch(r"(16|8)(8)(4|8|16|32)", parts[1]) if len(parts) > 1 else None
        if single and form:
            rows, columns, depth = map(int, single.groups())
            return MatrixWork(form, 2.0 * rows * columns * depth)
    raise ValueError(f"the shape of {name} {instruction.operands} is unknown to this reader.")


def _amd_format(text: str) -> str | None:
    return _AMD_FORMATS.get(text.split("_")[0])


def _tcgen05_work(instruction: Instruction, words: dict[str, str]) -> MatrixWork:
    """Shape and format from the instruction descriptor (PTX ISA, "Instruction descriptor" of tcgen05.mma)."""
    register = re.search(r"idesc\[(\w+)\]", instruction.operands)
    value = words.get(register[1]) if register else None
    if value is None or not value.startswith("0x"):
        raise ValueError(f"the descriptor of {instruction.name} {instruction.operands} is no constant.")
    word = int(value, 16)
    rows, columns, operand = 16 * (word >> 24 & 31), 8 * (word >> 17 & 63), word >> 7 & 7
    if instruction.name.startswith("UTCHMMA"):
        form, depth = ("tf32", 8) if operand == 2 else ("half", 16)
    else:
        form, depth = "fp8", 32
    lines = columns + (0 if instruction.operands.startswith("tmem") else rows)
    shared = float(lines * depth * _ELEMENT_BYTES[form])
    return MatrixWork(form, 2.0 * rows * columns * depth, shared, once=True)


def memory_bytes(instruction: Instruction) -> int:
    """Bytes a thread moves; at least 4, as narrower accesses take as long, and 0 if it never runs."""
    name = instruction.name
    if instruction.idle:
        return 0
    if name[0].islower():
        words, bits = re.search(r"_dword(?:x(\d+))?$", name), re.search(r"_b(\d+)$", name)
        size = 4 * int(words[1] or 1) if words else int(bits[1]) // 8 if bits else 4
        return max(4, size) * (2 if name.startswith(("ds_read2", "ds_write2")) else 1)
    parts = name.split(".")
    if parts[0] in ("LDSM", "STSM"):
        return 4 * int(parts[-1]) if parts[-1].isdigit() else 4
    return next((int(part) for part in parts if part in ("64", "128", "256")), 32) // 8


def reaches_l2(instruction: Instruction) -> bool:
    """Whether a memory instruction's bytes come from beyond the multiprocessor, or go there."""
    name = instruction.name
    return name.startswith(_AMD_GLOBAL) if name[0].islower() else name.split(".")[0] in _GLOBAL
