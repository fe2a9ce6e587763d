"""Short disassemblies, as the tools print them: which loop is found, and what its instructions are."""

from types import SimpleNamespace

import pytest

from zo_triton.compilation.compiler import _read_amd, less_exact
from zo_triton.compilation.instructions import classify, matrix_work, memory_bytes
from zo_triton.compilation.machine_code import Instruction, blocks, inner_loop, loops, parse_gcn, parse_sass

HOPPER = """
        .global         _kernel
_kernel:
.text._kernel:
        /*0000*/                   LDC R1, c[0x0][0x28] ;
        /*0010*/              @!P5 BRA `(.L_x_0) ;
.L_x_1:
        /*0020*/                   LOP3.LUT R4, R4, 0x1, RZ, 0xc0, !PT ;
        /*0030*/                   HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0 ;
        /*0040*/              @!P0 BRA `(.L_x_1) ;
        /*0050*/                   BRA `(.L_x_2) ;
.L_x_0:
        /*0060*/                   CS2R R24, SRZ ;
.L_x_2:
        /*0070*/                   STG.E.128 desc[UR4][R2.64], R24 ;
        /*0080*/                   EXIT ;
.L_x_3:
        /*0090*/                   BRA `(.L_x_3);
        /*00a0*/                   NOP;
.L_x_4:
"""
"""A loop, a way around it, and the trap behind the end that every kernel has."""

AMPERE = """
.L_x_2:
        /*0010*/                   HMMA.16816.F32.BF16 R4, R8, R12, R4 ;
        /*0020*/               @P1 CALL.REL.NOINC `(.L_x_1) ;
        /*0030*/                   BRA `(.L_x_2) ;
.L_x_1:
        /*0040*/                   CALL.REL.NOINC `($__internal_0_$__cuda_sm20_div_u64) ;
        /*0050*/                   EXIT ;
"""
"""How ptxas writes a loop whose exit is far away: a call without a return."""

BLACKWELL = """
        /*0000*/                   UMOV UR45, 0x8200490 ;
.L_x_13:
        /*0010*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR20], R90 ;
        /*0020*/              @!P0 BRA `(.L_x_9) ;
.L_x_20:
        /*0030*/                   FADD2 R2, R2.F32x2.HI_LO, R4.F32x2.HI_LO ;
        /*0040*/                   BRA.U UP1, `(.L_x_10) ;
        /*0050*/                   UTCHMMA gdesc[UR26], gdesc[UR28], tmem[UR13], tmem[UR44], idesc[UR45], UPT ;
.L_x_10:
        /*0060*/              @!P0 BRA `(.L_x_13) ;
        /*0070*/                   EXIT ;
.L_x_9:
        /*0080*/                   SYNCS.PHASECHK.TRANS64.TRYWAIT P0, [UR20], R90 ;
        /*0090*/              @!P0 BRA `(.L_x_9) ;
        /*00a0*/                   BRA `(.L_x_20) ;
"""
"""A loop that waits in a smaller one, which the compiler has put behind the end."""

CDNA = """
_kernel:
; %bb.0:
	s_load_dwordx8 s[4:11], s[0:1], 0x0
.LBB0_1:                                ; =>This Inner Loop Header: Depth=1
	v_mul_hi_u32 v1, v2, s5
	v_mfma_f32_32x32x8_bf16 v[2:17], v[74:75], v[62:63], v[2:17]
	ds_read2st64_b64 v[2:5], v1 offset0:4
	.loc	1 55 12                         ; comment
	s_cbranch_scc1 .LBB0_1
	s_endpgm
"""

NESTED = """
.L_x_0:
        /*0000*/                   MOV R1, R2 ;
.L_x_1:
        /*0010*/                   FFMA R1, R2, R3, R1 ;
        /*0020*/                   FFMA R1, R2, R3, R1 ;
        /*0030*/               @P0 BRA `(.L_x_1) ;
        /*0040*/                   IADD3 R5, R5, 0x1, RZ ;
        /*0050*/                   IADD3 R5, R5, 0x1, RZ ;
        /*0060*/               @P1 BRA `(.L_x_0) ;
.L_x_2:
        /*0070*/                   NOP ;
        /*0080*/               @P2 BRA `(.L_x_2) ;
        /*0090*/                   EXIT ;
"""


def loop_of(code):
    work = {id(code[index]): found.flops for index, found in matrix_work(code).items()}
    found = inner_loop(blocks(code), lambda instruction: work.get(id(instruction), 0.0))
    return [instruction.name for block in found for instruction in block.instructions]


def test_the_loop_with_the_matrix_instruction_is_found():
    assert loop_of(parse_sass(HOPPER)) == ["LOP3.LUT", "HGMMA.64x128x16.F32.BF16", "BRA"]


def test_code_that_nothing_reaches_is_no_loop():
    assert len(loops(blocks(parse_sass(HOPPER)))) == 1


def test_a_call_to_a_label_is_a_jump_and_a_call_of_a_routine_is_not():
    code = parse_sass(AMPERE)
    assert loop_of(code) == ["HMMA.16816.F32.BF16", "CALL.REL.NOINC", "BRA"]
    assert not code[3].ends


def test_a_waiting_loop_behind_the_end_belongs_to_the_loop_that_waits():
    names = loop_of(parse_sass(BLACKWELL))
    assert names.count("UTCHMMA") == 1
    assert names.count("SYNCS.PHASECHK.TRANS64.TRYWAIT") == 2
    assert "EXIT" not in names


def test_without_matrix_instructions_the_longest_innermost_loop_is_taken():
    assert loop_of(parse_sass(NESTED)) == ["FFMA", "FFMA", "BRA"]


def test_straight_code_has_no_loop():
    assert inner_loop(blocks(parse_sass("        /*0000*/   EXIT ;")), lambda instruction: 0.0) is None


def test_amd_assembly_is_read_without_its_directives():
    names = [instruction.name for instruction in parse_gcn(CDNA)]
    assert ".loc" not in names
    assert len(names) == 6
    assert len(loop_of(parse_gcn(CDNA))) == 4


def test_scalar_registers_that_lie_in_lanes_of_vector_registers_are_not_spilled():
    notes = " .private_segment_fixed_size: 0\n .sgpr_spill_count: 2\n .vgpr_count: 96\n .vgpr_spill_count: "
    for spilled in (0, 3):
        asm = {"amdgcn": f"{CDNA}{notes}{spilled}\n"}
        read = _read_amd(SimpleNamespace(asm=asm, metadata=SimpleNamespace(shared=64)))
        assert (read.registers, read.spills, read.stack) == (96, spilled, 0)


@pytest.mark.parametrize("read", [parse_sass, parse_gcn])
def test_text_without_instructions_is_refused(read):
    with pytest.raises(ValueError, match="holds no instruction"):
        read("Fatal error\n")


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("IMAD.HI.U32", "multiply"), ("LOP3.LUT", "integer"), ("F2FP.BF16.F32.PACK_AB", "integer"),
        ("FFMA2", "float"), ("FSETP.NAN.AND", "compare"), ("MUFU.LG2", "special"), ("I2F.S16", "convert"),
        ("HFMA2.MMA", "float"), ("FHADD.BF16", "float"), ("UIADD3.X", "uniform"), ("R2UR", "move"),
        ("LDGSTS.E.BYPASS.128", "memory"),
        ("WARPGROUP.DEPBAR.LE", "control"), ("DFMA", "double"), ("UTCHMMA", "matrix"), ("XYZZY", "unknown"),
        ("v_mul_lo_u32", "multiply"), ("v_pk_fma_f32", "float"), ("v_fmaak_f32", "float"),
        ("v_cmp_o_f32_e64", "compare"), ("v_log_f32_e32", "special"), ("v_add_f64", "double"),
        ("v_cvt_f32_i32_e32", "convert"), ("v_xor_b32_e32", "integer"), ("s_add_i32", "uniform"),
        ("s_waitcnt", "control"), ("s_load_dword", "memory"), ("v_mfma_f32_16x16x4_f32", "matrix"),
        ("v_mov_b32_e32", "move"), ("v_cndmask_b32_e64", "integer"),
    ],
)  # fmt: skip
def test_classes(name, kind):
    assert classify(Instruction(name)) == kind


@pytest.mark.parametrize(
    ("name", "operands", "form", "flops"),
    [
        # One of the four warps that issue a 64 × 128 × 16 product together.
        ("HGMMA.64x128x16.F32.BF16", "", "half", 2 * 64 * 128 * 16 / 4),
        ("HGMMA.64x64x8.F32.TF32", "", "tf32", 2 * 64 * 64 * 8 / 4),
        ("HMMA.16816.F32.BF16", "", "half", 2 * 16 * 8 * 16),
        ("HMMA.1688.F32.TF32", "", "tf32", 2 * 16 * 8 * 8),
        ("DMMA.884", "", None, 0),
        ("v_mfma_f32_32x32x8_bf16", "", "half", 2 * 32 * 32 * 8),
        ("v_mfma_f32_32x32x8bf16_1k", "", "half", 2 * 32 * 32 * 8),
        ("v_mfma_f32_16x16x4_f32", "", "fp32", 2 * 16 * 16 * 4),
    ],
)
def test_the_work_of_a_matrix_instruction(name, operands, form, flops):
    code = [Instruction(name, operands)]
    if form is None:
        with pytest.raises(ValueError, match=r"the shape of DMMA.884 .* is unknown"):
            matrix_work(code)
        return
    (work,) = matrix_work(code).values()
    assert (work.format, work.flops, work.once) == (form, flops, False)


def test_tcgen05_has_its_shape_in_a_descriptor():
    (work,) = matrix_work(parse_sass(BLACKWELL)).values()
    assert (work.format, work.flops, work.once) == ("half", 2 * 128 * 128 * 16, True)


def test_a_descriptor_that_is_no_constant_is_refused():
    with pytest.raises(ValueError, match=r"descriptor of UTCHMMA .* is no constant"):
        matrix_work([Instruction("UTCHMMA", "gdesc[UR4], idesc[UR45], UPT")])


@pytest.mark.parametrize(
    ("name", "size"),
    [
        ("LDS", 4), ("STS.U16", 4), ("LDS.128", 16), ("LDSM.16.M88.4", 16), ("LDG.E.64", 8),
        ("ds_read2st64_b64", 16), ("ds_write_b16", 4), ("global_load_dwordx4", 16), ("global_load_dword", 4),
    ],
)  # fmt: skip
def test_bytes_of_memory_instructions(name, size):
    assert memory_bytes(Instruction(name)) == size


@pytest.mark.parametrize(
    ("asked", "name", "expected"),
    [
        ({"PRECISION": "ieee"}, "HMMA.1688.F32.TF32", "multiplies in TF32, asked for 'ieee'"),
        ({"PRECISION": "bf16x6"}, "HMMA.1688.F32.TF32", "multiplies in TF32, asked for 'bf16x6'"),
        ({}, "HGMMA.64x64x8.F32.TF32", "multiplies in TF32, asked for 'ieee'"),
        ({"PRECISION": "tf32"}, "HMMA.1688.F32.TF32", None),
        ({"PRECISION": "bf16x6"}, "HMMA.16816.F32.BF16", None),
        ({"PRECISION": "ieee"}, "FFMA", None),
    ],
)
def test_products_less_exact_than_asked_are_found(asked, name, expected):
    assert less_exact(asked, [Instruction("MOV"), Instruction(name)]) == expected
