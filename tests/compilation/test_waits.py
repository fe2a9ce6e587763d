"""Products that run behind their warps' backs: which ones are under way, and who writes their registers."""

import pytest

from zo_triton.compilation.machine_code import Instruction, parse_sass
from zo_triton.compilation.waits import drains, overwritten, under_way


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
