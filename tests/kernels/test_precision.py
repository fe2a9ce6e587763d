"""How float32 operands are multiplied: who decides, and that tensor cores lose nothing."""

import pytest
import torch

from zo_triton import kernels
from zo_triton.directions import Directions
from zo_triton.kernels.launch import launching_for, recording
from zo_triton.kernels.perturbed_linear import SMALL_TENSOR_CORES, TENSOR_CORES, default_config
from zo_triton.kernels.precision import PRECISIONS, precision_for
from zo_triton.opcases import (
    BlankOperands,
    ConvolutionCase,
    LinearCase,
    NodeConvolutionCase,
    NodeLinearCase,
    NodeNetworkCase,
    RandomOperands,
)

SINGLE = torch.empty(1)


@pytest.fixture
def torchs_own():
    """Whatever a test asks of torch is forgotten."""
    yield
    torch.set_float32_matmul_precision("highest")


@pytest.mark.parametrize(
    ("chip", "of_torch", "expected"),
    [
        ("sm_80", "highest", "bf16x6"), ("sm_90", "highest", "bf16x6"), ("sm_100", "high", "tf32"),
        ("sm_90", "medium", "tf32"), ("gfx942", "highest", "ieee"), ("gfx942", "medium", "ieee"),
    ],
)  # fmt: skip
def test_torchs_switch_decides_where_tensor_cores_need_parts(chip, of_torch, expected, torchs_own):
    torch.set_float32_matmul_precision(of_torch)
    with launching_for(chip):
        assert precision_for(SINGLE, None) == expected
        assert precision_for(SINGLE.bfloat16(), None) == "ieee"
        assert [precision_for(SINGLE, name) for name in PRECISIONS] == list(PRECISIONS)


@pytest.mark.parametrize("chip", ["sm_100", "sm_103"])
def test_chips_without_room_for_parts_multiply_float32_numbers_themselves(chip, monkeypatch, torchs_own):
    """An old Triton's on Blackwell, whichever Triton runs this."""
    for without, expected in (((), "bf16x6"), (("sm_100",), "ieee")):
        monkeypatch.setattr("zo_triton.kernels.precision.WITHOUT_PARTS", without)
        torch.set_float32_matmul_precision("highest")
        with launching_for(chip):
            assert precision_for(SINGLE, None) == expected
            torch.set_float32_matmul_precision("high")
            assert precision_for(SINGLE, None) == "tf32"


def test_without_a_chip_nothing_is_taken_apart():
    assert precision_for(SINGLE, None) == "ieee"


SIGNS, NODES = Directions(7, 3, 2), Directions(7, 3, 2, "hadamard")
SHAPE = {"samples": 9, "inputs": 40, "outputs": 37}
IMAGE = {"samples": 6, "size": (5, 4), "kernel": (3, 2), "padding": (1, 1)}
TAPS, FEW = {**IMAGE, "channels": (34, 14)}, {**IMAGE, "channels": (6, 14)}
CASES = {
    "perturbed_linear": LinearCase(directions=SIGNS, **SHAPE),
    "perturbed_linear, low rank": LinearCase(directions=Directions(7, 3, 2, rank=3), **SHAPE),
    "perturbed_conv2d, by taps": ConvolutionCase(directions=SIGNS, sides=2, **TAPS),
    "perturbed_conv2d, real by taps": ConvolutionCase(directions=Directions(7, 3, 2, "gaussian"), **TAPS),
    "perturbed_conv2d, by terms": ConvolutionCase(directions=SIGNS, sides=2, **FEW),
    "node_conv2d, by taps": NodeConvolutionCase(directions=NODES, **TAPS),
    "node_conv2d, by terms": NodeConvolutionCase(directions=NODES, **FEW),
    "node_linear": NodeLinearCase(directions=NODES, **SHAPE),
    "node_mlp_differences": NodeNetworkCase(directions=NODES, widths=(40, 33, 10), samples=9),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_launcher_asks_the_same_question(case):
    """Compiled for a chip whose tensor cores need parts, and for one whose matrix units do not."""
    for chip, precision in (("sm_90", "bf16x6"), ("gfx942", "ieee")):
        with recording() as launches, launching_for(chip):
            getattr(kernels, case.op)(*case.arguments(BlankOperands()))
        assert launches[-1].arguments["PRECISION"] == precision


@pytest.mark.parametrize("directions", [Directions(7, 3, 2, "gaussian"), Directions(7, 3, 2, rank=3)])
def test_term_by_term_real_values_are_not_taken_apart(directions):
    """In parts they don't fit the registers; TF32 has no parts."""
    case = ConvolutionCase(directions=directions, **FEW)
    for asked, taken in ((None, "ieee"), ("bf16x6", "ieee"), ("tf32", "tf32")):
        with recording() as launches, launching_for("sm_90"):
            kernels.perturbed_conv2d(*case.arguments(BlankOperands()), precision=asked)
        assert launches[-1].arguments["PRECISION"] == taken


@pytest.mark.parametrize("samples", [1, 256])
@pytest.mark.parametrize(("chip", "table"), [("sm_90", TENSOR_CORES), ("sm_80", SMALL_TENSOR_CORES)])
def test_each_kind_of_values_keeps_its_own_tile(chip, table, samples, monkeypatch):
    """Signs' tiles spill where real values are taken apart, however few the samples."""
    monkeypatch.setitem(default_config.__globals__, "INTERPRETED", False)
    for (sides, dtype, source), tile in table.items():
        assert default_config(sides, dtype, source, samples, chip, precision="bf16x6") == tile


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_three_parts_are_as_exact_as_float32(case, device):
    arguments, errors = case.arguments(RandomOperands(device, 5)), {}
    exact = case.exact(arguments).double()
    for precision in ("ieee", "bf16x6"):
        arguments[0].fill_(torch.nan)
        getattr(kernels, case.op)(*arguments, precision=precision)
        errors[precision] = (case.result(arguments).cpu().double() - exact.cpu()).square().mean().sqrt()
    assert errors["bf16x6"] <= 2 * errors["ieee"]


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_an_unknown_way_is_named_before_anything_is_launched(case):
    with (
        recording() as launches,
        pytest.raises(
            ValueError, match=r"unknown precision 'tf32x3'; choose one of \('bf16x6', 'tf32', 'ieee'\)"
        ),
    ):
        getattr(kernels, case.op)(*case.arguments(BlankOperands()), precision="tf32x3")
    assert not launches
