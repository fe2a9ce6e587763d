"""Clocks, occupancy and work against figures that a reader can add up."""

import pytest

from zo_triton.compilation.machine_code import Instruction, parse_sass
from zo_triton.compilation.occupancy import filled, occupancy
from zo_triton.compilation.roofline import Work, pipes, read_body, roofline
from zo_triton.compilation.targets import TARGETS
from zo_triton.compilation.work import work_of


def sass(*lines: str):
    """A loop of these instructions."""
    body = "".join(f"        /*{16 * place:04x}*/   {line} ;\n" for place, line in enumerate(lines))
    return parse_sass(f".L_x_0:\n{body}        /*ffe0*/ @P0 BRA `(.L_x_0) ;\n        /*fff0*/ EXIT ;\n")


PRODUCT = "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24"


def test_the_headline_is_issue_clocks_a_tensor_clock():
    # Two warp groups, 8 warps: 2 products of 64 × 128 × 16 = 262144 operations each, at 4096 a clock 128 clocks;
    # 31 integer instructions and the branch of 8 warps on 4 schedulers: 64 clocks.
    body = read_body(sass(PRODUCT, *["LOP3.LUT R1, R1, R2, RZ"] * 31), 8, 32)
    found = roofline(body, TARGETS["sm_90"], Work(2048, 64 * 128 * 16 * 2))
    assert found["tensor"] == 2 * 2 * 64 * 128 * 16 / 4096
    assert found["issue"] == 32 * 8 / 4
    assert found["other_per_tensor"] == found["issue"] / found["tensor"]
    # 64 lanes take an integer instruction of a warp in half a clock, so this is the busiest unit: 124 clocks.
    assert found["pipes"]["integer"] == 31 * 8 * 32 / 64
    assert found["pipes"]["memory"] == 2 * (64 + 128) * 16 * 2 / 128
    # All of it follows a product that nobody waits for.
    assert found["pipes"]["waits"] == 128
    assert found["bound"] == "tensor"
    assert found["overlapped"] == 1.0
    assert found["serial"] == pytest.approx(128 / (128 + 124))
    assert found["per_value"]["integer"] == 31 * 8 * 32 / 2048
    assert found["per_matrix"]["all"] == 32


ONE = "HGMMA.64x128x16.F32.BF16 R24, gdesc[UR8], R24, gsb0"
DRAINED = "WARPGROUP.DEPBAR.LE gsb0, 0x0"


@pytest.mark.parametrize(
    ("product", "left"),
    [(PRODUCT, 64), ("HGMMA.64x128x16.F32.BF16 R24, R4, gdesc[UR8], R24", 0)],
    ids=["both in shared memory", "left in registers"],
)
def test_the_tensor_cores_read_shared_memory_too(product, left):
    # Beside 16 bytes a thread that are stored, and 16 that are copied there from the L2 cache.
    body = read_body(sass(product, "STS.128 [R1], R4", "LDGSTS.E.BYPASS.128 [R1], desc[UR4][R2.64]"), 4, 32)
    units = pipes(body, TARGETS["sm_90"])
    assert units["memory"] == ((left + 128) * 16 * 2 + 2 * 16 * 128) / 128
    assert units["l2"] == pytest.approx(16 * 128 * 132 / 5120)


def test_what_never_runs_moves_nothing():
    assert read_body(sass("@!PT LDS RZ, [RZ]"), 4, 32).bytes == 0


@pytest.mark.parametrize(("programs", "clocks"), [(1, 64 + 40), (2, (64 + 40) / 2)])
def test_between_a_wait_and_the_next_product_the_tensor_cores_are_idle(programs, clocks):
    # 40 instructions of 4 warps on 4 schedulers; the branch and the wait follow the product.
    work = ["LOP3.LUT R1, R1, R2, RZ"] * 40
    found = roofline(read_body(sass(DRAINED, *work, ONE), 4, 32), TARGETS["sm_90"], None, programs)
    assert found["pipes"]["waits"] == clocks
    assert found["bound"] == ("waits" if programs == 1 else "integer")


def test_copies_that_go_on_by_themselves_fill_no_gap():
    body = read_body(sass(DRAINED, "LDGSTS.E [R1], desc[UR4][R2.64]", "STS [R1], R4", ONE), 4, 32)
    assert (body.gaps.drains, body.gaps.instructions, body.gaps.bytes) == (1, 4 * 2, 4 * 128)


def test_multiplications_take_half_of_the_float_unit():
    body = read_body(sass("IMAD R1, R1, R2, RZ", "FFMA R1, R1, R2, R3", "MUFU.LG2 R1, R1"), 4, 32)
    units = pipes(body, TARGETS["sm_90"])
    assert units["multiply"] == 4 * 32 / 64
    assert units["float"] == 2 * 4 * 32 / 128
    assert units["special"] == 4 * 32 / 16
    assert roofline(body, TARGETS["sm_90"], None)["bound"] == "special"


def test_one_warp_issues_a_tcgen05_product_for_all():
    code = sass(
        "UMOV UR45, 0x8200490", "BRA.U UP1, `(.L_x_1)", "UTCHMMA gdesc[UR2], idesc[UR45], UPT\n.L_x_1:", "NOP"
    )
    body = read_body(code, 8, 32)
    assert body.flops["half"] == 2 * 128 * 128 * 16
    assert body.matrix == {"UTCHMMA": 1}
    assert body.counts["control"] == 8 * 3


def test_the_vector_unit_of_a_compute_unit():
    code = [Instruction("v_mul_lo_u32"), Instruction("v_xor_b32_e32"), Instruction("s_add_i32")]
    units = pipes(read_body(code, 4, 64), TARGETS["gfx942"])
    assert units["issue"] == 4 * (4 + 1)
    assert units["scalar"] == 4


def test_a_kernel_without_a_loop_is_taken_whole():
    body = read_body(parse_sass("        /*0000*/ MOV R1, R2 ;\n        /*0010*/ EXIT ;\n"), 4, 32)
    assert body.region == "kernel"
    found = roofline(body, TARGETS["sm_90"], Work(128, 0))
    assert found["other_per_tensor"] is None
    assert found["overlapped"] is None
    assert found["values_per_clock"] == 128 / 2


def test_float32_products_are_weighed_against_their_own_peak():
    # Half of the instructions are useful: 2 · 4 warps · 32 lanes at 128 a clock against 5 · 4 / 4 issue clocks.
    body = read_body(sass("FFMA R1, R1, R2, R3", "FFMA R1, R1, R2, R3", "NOP", "NOP"), 4, 32)
    found = roofline(body, TARGETS["sm_90"], Work(0, 2 * 4 * 32))
    assert found["overlapped"] == pytest.approx(2 / 5)


@pytest.mark.parametrize(
    ("chip", "registers", "shared", "warps", "tensor_memory", "programs", "limit"),
    [
        # 65536 registers: 220, rounded up to 224, times 256 threads leave no room for a second program.
        ("sm_90", 220, 0, 8, 0, 1, "registers"),
        ("sm_90", 32, 0, 4, 0, 16, "threads and registers"),
        ("sm_90", 32, 100 * 1024, 4, 0, 2, "shared"),
        ("sm_90", 32, 228 * 1024, 4, 0, 0, "shared"),
        ("sm_90", 16, 0, 1, 0, 32, "threads"),
        ("sm_100", 64, 0, 4, 256, 2, "tensor memory"),
        # 512 registers of 64 lanes a SIMD: 129 round up to 136, three waves.
        ("gfx942", 129, 0, 4, 0, 3, "registers"),
        ("gfx942", 32, 65536, 4, 0, 1, "shared"),
    ],
)
def test_occupancy(chip, registers, shared, warps, tensor_memory, programs, limit):
    found = occupancy(TARGETS[chip], registers, shared, warps, tensor_memory)
    assert (found["programs"], found["warps"], found["limit"]) == (programs, programs * warps, limit)


def test_every_chip_reaches_its_published_peak():
    # Clocks (GHz) of the products, dense bfloat16 in TFLOP/s.
    published = {
        "sm_80": (1.41, 312),
        "sm_90": (1.83, 989.4),
        "sm_100": (1.85, 2250),
        "gfx942": (2.1, 1307.4),
    }
    for name, (clock, peak) in published.items():
        chip = TARGETS[name]
        reached = chip.matrix_flops["half"] * chip.multiprocessors * clock / 1000
        assert reached == pytest.approx(peak, rel=0.01)


@pytest.mark.parametrize(("launched", "share"), [(66, 0.5), (132, 1.0), (133, 133 / 264), (1320, 1.0)])
def test_a_launch_fills_the_chip_in_whole_rounds(launched, share):
    assert filled(TARGETS["sm_90"], launched) == share


def test_the_work_of_a_layer():
    arguments = {
        "BLOCK_N": 128, "BLOCK_F": 64, "BLOCK_I": 32, "SIDES": 2, "HAS_DIFFERENCE": True, "RANK": 0,
        "PRECISION": "ieee",
    }  # fmt: skip
    # Two products a side, one tile of U for both.
    assert work_of("_perturbed_linear_kernel", arguments) == Work(64 * 32, 4 * 128 * 64 * 32)
    first = {**arguments, "HAS_DIFFERENCE": False}
    assert work_of("_perturbed_linear_kernel", first).multiply_adds == 128 * 64 * 32
    assert work_of("_mlp_kernel", arguments) is None


@pytest.mark.parametrize(("distribution", "of_u"), [("rademacher", 3), ("gaussian", 6)])
def test_the_work_of_float32_in_parts(distribution, of_u):
    arguments = {
        "BLOCK_N": 64, "BLOCK_F": 128, "BLOCK_I": 32, "SIDES": 1, "HAS_DIFFERENCE": True, "RANK": 0,
        "PRECISION": "bf16x6", "DISTRIBUTION": distribution,
    }  # fmt: skip
    assert work_of("_perturbed_linear_kernel", arguments).multiply_adds == (6 + of_u) * 64 * 128 * 32
    of_rank = {**arguments, "RANK": 4, "RANK_BLOCK": 16}
    assert work_of("_perturbed_linear_kernel", of_rank) == Work(0, 6 * 64 * 128 * 32)
    # Of the inputs and of their differences, in a launch of its own.
    assert work_of("_projection_kernel", of_rank) == Work(32 * 4, 2 * of_u * 64 * 16 * 32)
    assert work_of("_window_projection_kernel", of_rank) == Work(32 * 4, 2 * of_u * 64 * 16 * 32)
    by_taps = {**of_rank, "DEPTHWISE": False, "BY_TAPS": True}
    assert work_of("_perturbed_conv2d_kernel", by_taps) == Work(0, 6 * 64 * 128 * 32)
    assert work_of("_node_linear_kernel", arguments).multiply_adds == 6 * 64 * 128 * 32
