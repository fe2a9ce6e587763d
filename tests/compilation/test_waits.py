"""Products that run behind their warps' backs: which ones are under way, and who writes their registers."""

import pytest

from zo_triton.compilation.machine_code import Instruction, parse_sass
from zo_triton.compilation.waits import drains, overwritten, touched, under_way, unjoined


def product(left: str, last: bool = False) -> Instruction:
    return Instruction(
        "HGMMA.64x64x16.F32.BF16", f"R24, {left}, gdesc[UR8], R24" + (", gsb0" if last else "")
    )


def wait(groups: int) -> Instruction:
    return Instruction("WARPGROUP.DEPBAR.LE", f"gsb0, {groups:#x}")


NOTHING = Instruction("NOP")


@pytest.mark.parametrize(("groups", "left"), [(2, 3), (1, 1), (0, 0)])
def test_a_wait_leaves_the_last_groups(groups, left):
    """Two groups of two products and of one."""
    code = [product("R4"), product("R8", True), product("R12", True), wait(groups), NOTHING]
    *_, (last, products) = under_way(code, loop=False)
    assert last is NOTHING
    assert len(products) == left
    assert drains(code[3]) == (left == 0)


def test_a_loop_begins_with_what_it_ends_with():
    code = [NOTHING, wait(0), NOTHING, product("R4", True)]
    assert [len(products) for _, products in under_way(code, loop=True)] == [1, 1, 0, 0]
    assert [len(products) for _, products in under_way(code, loop=False)] == [0, 0, 0, 0]


@pytest.mark.parametrize(
    ("writer", "found"),
    [
        ("MOV R4, R9", True),
        ("MOV R8, R9", False),
        ("LDS.128 R1, [R9]", True),
        ("LDSM.16.M88.4 R7, [R9]", True),
        ("LDSM.16.M88.2 R2, [R9]", False),
        ("IMAD.WIDE.U32 R3, R9, R10, R12", True),
        ("STS.128 [R4], R4", False),
    ],
)
def test_a_left_factor_is_written_while_the_product_reads_it(writer, found):
    (instruction,) = parse_sass(f"        /*0000*/   {writer} ;\n")
    assert bool(overwritten([product("R4", True), instruction, wait(0)], loop=False)) == found
    assert not overwritten([product("R4", True), wait(0), instruction], loop=False)


def test_a_left_factor_is_written_before_a_product_of_the_loops_last_turn_is_done():
    code = [Instruction("MOV", "R4, R9"), wait(0), product("R4", True)]
    assert overwritten(code, loop=True) == [(code[2], code[0])]
    assert not overwritten(code, loop=False)


def test_a_left_factor_in_shared_memory_has_no_registers():
    shared = Instruction("HGMMA.64x64x16.F32.BF16", "R24, gdesc[UR8], R24, gsb0")
    assert not overwritten([shared, Instruction("MOV", "R8, R9")], loop=False)


@pytest.mark.parametrize(
    ("reader", "found"),
    [
        ("FADD R1, -R24, R9", True),
        ("FADD R1, R9, R55.reuse", True),
        ("STG.E desc[UR4][R2.64], R40", True),
        ("MOV R24, RZ", True),
        ("IMAD.WIDE.U32 R23, R9, R10, R12", True),
        ("FADD R1, R9, R56", False),
        ("R2UR UR24, R9", False),
    ],
)
def test_sums_are_touched_before_the_product_is_waited_for(reader, found):
    """64 columns of float32: the sums are in R24 to R55."""
    (instruction,) = parse_sass(f"        /*0000*/   {reader} ;\n")
    assert bool(touched([product("R4", True), instruction, wait(0)], loop=False)) == found
    assert not touched([product("R4", True), wait(0), instruction], loop=False)


def test_products_add_to_the_same_sums_without_a_wait():
    assert not touched([product("R4", True), product("R8", True), wait(0)], loop=False)


def test_sums_are_touched_where_a_loop_begins_anew():
    code = [Instruction("FADD", "R1, R24, R9"), wait(0), product("R4", True)]
    assert touched(code, loop=True) == [(code[2], code[0])]
    assert not touched(code, loop=False)


BARRIER = Instruction("BAR.SYNC.DEFER_BLOCKING", "0x0")
COPY = Instruction("LDGSTS.E.BYPASS.128", "[R1], desc[UR4][R2.64]")
BOTH_SHARED = Instruction("HGMMA.64x64x16.F32.BF16", "R24, gdesc[UR8], R24, gsb0")


@pytest.mark.parametrize(
    ("code", "found"),
    [
        ([BOTH_SHARED, BARRIER, wait(0), COPY], True),
        ([BOTH_SHARED, BARRIER, wait(0), Instruction("STS.128", "[R1], R4")], True),
        ([BOTH_SHARED, BARRIER, wait(0), BARRIER, COPY], False),
        ([BOTH_SHARED, wait(0), BARRIER, COPY], False),
        # No barrier was thought necessary: the copy goes elsewhere.
        ([BOTH_SHARED, wait(0), COPY], False),
        ([BOTH_SHARED, BARRIER, COPY, wait(0)], False),
        ([BOTH_SHARED, BARRIER, wait(0), Instruction("LDS.128", "R4, [R1]")], False),
    ],
    ids=["copied", "stored", "joined twice", "joined", "elsewhere", "another stage", "read"],
)
def test_a_barrier_before_a_wait_joins_nobody(code, found):
    assert bool(unjoined(code, loop=False)) == found


def test_a_barrier_at_a_loops_beginning_comes_before_the_wait_for_its_last_turn():
    code = [BARRIER, wait(0), COPY, BOTH_SHARED]
    assert unjoined(code, loop=True) == [COPY]
    assert not unjoined(code, loop=False)
