"""What carries out the matrix unit's instructions where there is none, and the engine on it."""

import ctypes
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from emulation.matrix_unit import compiled, reason_against

pytestmark = pytest.mark.skipif(bool(reason_against()), reason=str(reason_against()))

ROOT = Path(__file__).resolve().parents[2]
STRIDE = 80
"""Bytes from a tile's line to the next in these tests; a line has 64 at most."""


@pytest.fixture(scope="module")
def libraries(tmp_path_factory):
    """Of the emulator, and of the instructions to call."""
    folder = tmp_path_factory.mktemp("libraries")
    return compiled("matrix_unit", folder), compiled("instructions", folder)


@pytest.fixture
def unit(libraries):
    """Instructions to call, while they are carried out."""
    emulator, instructions = map(ctypes.CDLL, libraries)
    assert emulator.install() == 0
    yield instructions
    assert emulator.remove_again() == 0


def address(array):
    return array.ctypes.data_as(ctypes.c_void_p)


def halves(rng, lines, pairs, spread):
    """Random bfloat16 [16, 40] in lines of 80 bytes, NaN outside of what is the tile's."""
    tile = np.full((16, STRIDE // 2), np.nan, np.float32)
    size = lines, 2 * pairs
    tile[:lines, : 2 * pairs] = rng.standard_normal(size) * 2.0 ** rng.integers(-spread, spread + 1, size)
    return (tile.view(np.uint32) >> 16).astype(np.uint16)


def widened(tile):
    return (tile.astype(np.uint32) << 16).view(np.float32)


def small_is_zero(numbers):
    return np.where(np.abs(numbers) < 2.0**-126, np.float32(0), numbers).astype(np.float32)


def as_the_manual_says(sums, left, right):
    """sums + left @ right: [rows, columns], [rows, 2·depth], [2·depth, columns], float32, rounded as there.

    A sum of float32 and a product is exact in float64 for numbers that are not too far apart, and rounded once.
    """
    sums, left, right = map(small_is_zero, (sums, left, right))
    each = []
    for start in range(2):
        total = np.zeros_like(sums)
        for k in range(start, left.shape[1], 2):
            product = left[:, k, None].astype(np.float64) * right[None, k].astype(np.float64)
            total = small_is_zero(total.astype(np.float64) + product)
        each.append(total)
    return small_is_zero(sums + small_is_zero(each[0] + each[1]))


SHAPES = {
    "whole": (16, 16, 16),
    "flat": (1, 16, 16),
    "shallow": (16, 1, 16),
    "narrow": (16, 16, 1),
    "odd": (7, 11, 5),
}


@pytest.mark.parametrize("spread", [0, 4])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_a_product_is_the_manuals_to_the_bit(unit, shape, spread):
    rows, depth, columns = shape
    rng = np.random.default_rng(0)
    left, right = halves(rng, rows, depth, spread), halves(rng, depth, columns, spread)
    out = np.full((16, STRIDE // 4), np.nan, np.float32)
    out[:rows, :columns] = rng.standard_normal((rows, columns))
    before = out.copy()
    unit.add_product(address(out), address(left), address(right), rows, depth, columns, depth, STRIDE)
    x = widened(left)[:rows, : 2 * depth]
    pairs = widened(right)[:depth, : 2 * columns].reshape(depth, columns, 2)
    w = pairs.transpose(0, 2, 1).reshape(2 * depth, columns)
    found = out[:rows, :columns].copy()
    assert np.array_equal(found, as_the_manual_says(before[:rows, :columns], x, w))
    terms = np.abs(before[:rows, :columns]) + np.abs(x).astype(float) @ np.abs(w)
    exact = before[:rows, :columns] + x.astype(float) @ w
    assert (np.abs(found - exact) <= 2.0**-20 * terms).all()
    out[:rows, :columns] = before[:rows, :columns]
    assert np.array_equal(out, before, equal_nan=True)


def test_numbers_too_small_are_zero_coming_and_going(unit):
    left, right = np.zeros((2, 16, STRIDE // 2), np.uint16)
    out = np.zeros((16, STRIDE // 4), np.float32)
    one, half, smallest, tiny = 0x3F80, 0x3F00, 0x0080, 0x0040  # 1, 1/2, 2⁻¹²⁶ and 2⁻¹²⁷
    left[0, 0], right[0, 0] = one, tiny  # comes as zero
    left[1, 2], right[1, 0] = half, smallest  # goes as zero
    left[2, 2] = one  # stays
    out[3, 0] = 2.0**-127  # is zero before anything is added
    unit.add_product(address(out), address(left), address(right), 16, 16, 16, 16, STRIDE)
    assert out[:4, 0].tolist() == [0.0, 0.0, 2.0**-126, 0.0]


def test_addresses_of_all_kinds_are_understood(unit):
    rng = np.random.default_rng(1)
    tile = rng.integers(0, 256, (16, 64), np.uint8)
    out = np.zeros((7, 16, 64), np.uint8)
    assert unit.copy_by_each_address(address(out), address(tile)) == 7
    for copy in out[:4]:
        assert np.array_equal(copy, tile)
    assert np.array_equal(out[4], tile[::-1])
    assert np.array_equal(out[5], tile[:1].repeat(16, 0))
    assert not out[6].any()


def test_shapes_are_told(unit):
    written, released = np.ones(64, np.uint8), np.ones(64, np.uint8)
    unit.write_shapes(address(written), address(released))
    assert written[0] == 1
    assert written[16:32].view(np.uint16).tolist() == [64] * 8
    assert written[48:56].tolist() == [16] * 8
    assert not released.any()


REFUSED = {
    "shapes-that-do-not-fit": "call.add_product(*[at] * 3, 16, 8, 16, 9, 64)",
    "a-line-too-long": "call.add_product(*[at] * 3, 16, 16, 17, 16, 64)",
    "no-shape": "call.use_without_a_shape()",
}


@pytest.mark.parametrize("refused", ["pass", *REFUSED.values()], ids=["nothing", *REFUSED])
def test_what_the_unit_refuses_ends_the_program(refused, libraries):
    program = f"""
import ctypes
unit, call = map(ctypes.CDLL, {libraries})
unit.install()
at = ctypes.create_string_buffer(4096)
call.add_product(*[at] * 3, 16, 16, 16, 16, 64)
{refused}
"""
    done = subprocess.run([sys.executable, "-c", program], timeout=300)
    assert done.returncode == (0 if refused == "pass" else -signal.SIGILL)


def test_the_engines_squares_are_right_in_an_emulated_unit():
    names = "parts", "attention_tiles", "batched_product", "rounded_factors"
    files = [f"tests/cpu/test_{name}.py" for name in names]
    path = os.pathsep.join(filter(None, (str(ROOT / "tests"), os.environ.get("PYTHONPATH"))))
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:benchmark", "-p", "emulation.matrix_unit", *files],
        cwd=ROOT, env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    (products,) = re.findall(r"(\d+) products of tiles were emulated", done.stdout)
    assert int(products) > 1_000_000
