"""The default kernels compiled, most for sm_90, no GPU needed: they fit the registers and use the tensor cores.

In processes of their own: under the interpreter the kernels of this one are Python functions.
"""

import json
import os
import subprocess
import sys
from importlib.metadata import version

import pytest

NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
VARIANTS = [
    "linear bf16 staged",
    "linear bf16 staged gelu",
    "linear bf16 inline",
    "linear bf16 inline captured",
    "linear bf16 gaussian",
    "linear bf16 staged both sides ragged",
    "linear bf16 staged transposed",
    "linear fp32 staged gelu",
    "linear fp32 gaussian",
    "linear fp32 rank 4 both sides",
    "linear bf16 rank 4",
    "linear bf16 rank 4 one side",
    "linear bf16 rank 4 first launch",
    "conv bf16 staged",
    "conv bf16 staged 128 channels",
    "conv bf16 staged 40 channels gelu",
    "conv bf16 gaussian",
    "conv bf16 first layer of 3 channels",
    "conv bf16 inline both sides",
    "conv bf16 rank 4 128 channels both sides",
    "conv bf16 rank 4 first launch",
    "conv bf16 groups of 6 gelu",
    "conv fp32 staged",
    "conv fp32 staged both sides tf32",
    "conv fp32 gaussian both sides",
    "conv fp32 6 to 16 channels",
    "depthwise bf16 both sides",
    "mlp 64-32-10",
    "mlp parts",
    "mlp 784-128-128-10 both sides",
    "nodes linear bf16",
    "nodes linear bf16 gelu both sides",
    "nodes linear fp32",
    "nodes conv bf16",
    "nodes conv bf16 128 channels",
    "nodes conv bf16 128 channels gelu",
    "nodes conv fp32",
    "nodes mlp 784-128-128-10",
    "nodes mlp 784-128-128-10 bf16 gelu both sides",
    "nodes epilogue bf16",
    "nodes gradient 64 directions",
    "nodes gradient of tokens",
    "nodes gradient rademacher",
    "stage signs by taps",
    "accumulate rademacher",
    "accumulate rademacher of many",
    "accumulate rademacher of many vectors",
    "accumulate orthogonal of many",
    "gram rademacher",
    "gram rank 4",
    "activation gelu",
    "stochastic add bf16",
]
AT_NIGHT = [
    "linear bf16 gaussian gelu",
    "linear bf16 gaussian transposed",
    "linear fp32 rank 4 transposed",
    "linear bf16 inline both sides ragged",
    "linear fp32 inline both sides",
    "linear fp32 rank 4 first launch",
    "conv bf16 staged both sides",
    "conv fp32 staged both sides",
    "conv fp32 inline both sides",
    "conv fp32 rank 4 both sides",
    "conv fp32 rank 4 first launch",
    "mlp 784-128-128-10",
    "nodes linear bf16 tokens of 1000 features",
    "nodes linear bf16 captured",
    "nodes conv bf16 7x7 gelu",
    "nodes mlp 784-128-128-10 bf16",
]
"""Further pairs of what the others have one by one; a variant takes seconds."""
VARIANTS += AT_NIGHT if NIGHTLY else []

COMPILE = """
import json, sys
from zo_triton.compilation.compiler import Job, compile_row
from zo_triton.compilation.variants import VARIANTS
for name in sys.argv[2:]:
    print(json.dumps(compile_row(Job(name, VARIANTS[name], None, sys.argv[1]))))
"""


@pytest.fixture(scope="module")
def rows(environment) -> dict[str, dict]:
    return _compiled("sm_90", VARIANTS, environment)


def _compiled(chip: str, variants: list[str], environment: dict[str, str]) -> dict[str, dict]:
    command = [sys.executable, "-c", COMPILE, chip, *variants]
    lines = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return {row["variant"]: row for row in map(json.loads, lines.splitlines())}


@pytest.mark.parametrize("variant", VARIANTS)
def test_default_tiles_compile_and_neither_spill_nor_use_a_stack(variant, rows):
    row = rows[variant]
    assert row["error"] is None
    assert (row["spills"], row["stack"]) == (0, 0)
    assert row["unknown"] == []


@pytest.mark.skipif(not NIGHTLY, reason="a minute a chip: in the nightly run")
@pytest.mark.parametrize("chip", ["sm_80", "sm_100", "gfx942"])
def test_a_whole_network_fits_the_registers_of_each_chip(chip, environment):
    """A program holds a whole layer, so that the most samples without a spill are other ones on each."""
    (row,) = _compiled(chip, ["mlp 784-128-128-10"], environment).values()
    assert row["error"] is None
    assert (row["spills"], row["stack"]) == (0, 0)


LOW_RANK = [
    "linear bf16 rank 4",
    "linear bf16 rank 4 one side",
    "linear bf16 rank 4 first launch",
    "conv bf16 rank 4 128 channels both sides",
    "conv bf16 rank 4 first launch",
]
TIGHT = {
    "sm_80": LOW_RANK,
    "sm_100": [
        *LOW_RANK,
        "conv fp32 staged 128 channels both sides gelu",
        "conv fp32 staged both sides tf32",
        "conv fp32 inline tf32",
        "linear fp32 staged",
        "linear fp32 gaussian",
        "linear fp32 rank 4 both sides",
        "conv fp32 rank 4 both sides",
        "conv fp32 rank 4 first launch",
        "conv fp32 staged",
        "nodes linear fp32",
        "nodes conv fp32",
        "nodes mlp 784-128-128-10",
    ],
    "gfx942": [
        *LOW_RANK,
        "conv fp32 ieee",
        "conv fp32 staged both sides ieee",
        "conv fp32 inline both sides",
        "conv fp32 gaussian both sides",
    ],
}
"""By chip, variants whose tiles are as large as its registers or its shared memory allow."""


PUT_AWAY = {("3.7", "sm_100", "linear fp32 staged"): (2, 8)}
"""By Triton, chip and variant: one register, stored before the loop and loaded behind it, for one program more."""


@pytest.mark.skipif(not NIGHTLY, reason="a minute a chip: in the nightly run")
@pytest.mark.parametrize("chip", TIGHT)
def test_the_largest_tiles_fit_each_chip(chip, environment):
    triton = version("triton").rpartition(".")[0]
    for variant, row in _compiled(chip, TIGHT[chip], environment).items():
        assert row["error"] is None
        assert (row["spills"], row["stack"]) == PUT_AWAY.get((triton, chip, variant), (0, 0))


def test_exact_products_of_float32_are_no_tf32_on_blackwell(environment):
    """Triton 3.6 takes TF32 for "ieee" there, in tiles that launchers must not choose."""
    variants = [
        "conv fp32 ieee", "linear fp32 ieee", "nodes linear fp32 ieee", "nodes conv fp32 ieee",
        "nodes mlp 784-128-128-10 ieee", "linear fp32 gaussian ieee", "linear fp32 rank 4 both sides ieee",
        "linear fp32 rank 4 first launch ieee",
    ]  # fmt: skip
    for row in _compiled("sm_100", variants, environment).values():
        assert row["error"] is None
        assert not row["matrix"]


NO_PRODUCT = ("depthwise", "stochastic", "epilogue")


@pytest.mark.parametrize(
    "variant",
    [name for name in VARIANTS if "bf16" in name and not any(word in name for word in NO_PRODUCT)],
)
def test_bfloat16_products_run_on_warpgroup_tensor_cores(variant, rows):
    names = rows[variant]["matrix"]
    assert names
    assert all(name.startswith("HGMMA") for name in names)


@pytest.mark.parametrize(
    ("variant", "bound"),
    [
        ("linear bf16 staged", 0.45),
        ("linear bf16 inline", 0.65),
        ("linear bf16 gaussian", 1.2),
        ("linear bf16 rank 4", 0.25),
        ("linear bf16 rank 4 one side", 0.25),
        ("conv bf16 rank 4 128 channels both sides", 0.4),
        ("conv bf16 staged 128 channels", 0.55),
        ("conv bf16 staged", 0.6),
        ("conv bf16 gaussian", 1.3),
    ],
)
def test_the_generator_fits_beside_the_tensor_cores(variant, bound, rows):
    """Clocks in which the schedulers issue all else, for each clock of the tensor cores in the inner loop."""
    assert rows[variant]["roofline"]["other_per_tensor"] <= bound


def test_perturbed_outputs_leave_the_product_what_it_is(rows):
    """The inner loop is a plain product's: both factors pass shared memory once, and two warp groups read them."""
    lines, config = rows["nodes linear bf16"]["roofline"], rows["nodes linear bf16"]["config"]
    samples, features, terms = (config[name] for name in ("BLOCK_N", "BLOCK_F", "BLOCK_I"))
    groups = config["num_warps"] // 4
    assert lines["pipes"]["memory"] == 2 * terms * (2 * samples + (1 + groups) * features) / 128
    assert lines["bound"] == "l2"
    assert lines["other_per_tensor"] <= 0.35


@pytest.mark.parametrize(
    "variant",
    [
        "linear bf16 staged",
        "linear bf16 staged both sides ragged",
        "linear bf16 rank 4",
        "linear bf16 rank 4 one side",
        "conv bf16 staged 128 channels",
        "conv bf16 rank 4 128 channels both sides",
        "nodes conv bf16 128 channels",
    ],
)
def test_a_middle_layer_may_reach_six_tenths_of_the_peak(variant, rows):
    """By every bound that is in the model, shared memory, L2 cache and waits among them."""
    assert rows[variant]["roofline"]["overlapped"] >= 0.6


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("conv bf16 staged")])
def test_a_tap_is_loaded_in_vectors_and_signs_stay_in_registers(variant, rows):
    """Straight into shared memory, 16 bytes a thread."""
    assert any(name.startswith("LDGSTS") and name.endswith(".128") for name in rows[variant]["busiest"])
    assert rows[variant]["narrow_stores"] == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_register_is_written_that_a_product_still_reads(variant, rows):
    assert rows[variant]["overwritten"] == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_no_sum_is_touched_before_its_product_is_done(variant, rows):
    assert rows[variant]["touched"] == 0


@pytest.mark.parametrize("variant", VARIANTS)
def test_warp_groups_are_joined_before_shared_memory_is_written(variant, rows):
    """A product's wait is its own group's: another group may still read what is written next."""
    assert rows[variant]["unjoined"] == 0


HALVES = {
    "linear bf16 staged": 32, "linear bf16 staged transposed": 32, "linear bf16 gaussian transposed": 16,
    "linear bf16 rank 4 first launch": 16, "linear fp32 inline both sides": 32, "linear fp32 staged gelu": 32,
    "linear fp32 rank 4 first launch": 8, "conv bf16 inline both sides": 72, "conv bf16 groups of 6 gelu": 68,
    "conv fp32 inline both sides": 28, "conv fp32 6 to 16 channels": 26, "mlp 64-32-10": 8,
    "conv bf16 rank 4 first launch": 4, "conv fp32 rank 4 first launch": 4,
    "nodes mlp 784-128-128-10 bf16": 1, "nodes mlp 784-128-128-10 bf16 gelu both sides": 1,
    "nodes gradient 64 directions": 32, "nodes gradient of tokens": 32, "gram rademacher": 128, "gram rank 4": 32,
}  # fmt: skip
"""Where bfloat16 numbers go into shared memory one by one, and how many a thread and iteration at most: in tiles of
one word of signs a row, of images that are summed term by term, and of factors."""


@pytest.mark.parametrize("variant", VARIANTS)
def test_nothing_else_is_stored_by_halves(variant, rows):
    assert rows[variant]["narrow_stores"] <= HALVES.get(variant, 0)


@pytest.mark.parametrize(
    "variant",
    [
        *(
            [
                "mlp 784-128-128-10",
                "linear fp32 inline both sides",
                "conv fp32 staged both sides",
                "conv fp32 rank 4 both sides",
            ]
            if NIGHTLY
            else []
        ),
        "mlp 784-128-128-10 both sides",
        "linear fp32 staged gelu",
        "linear fp32 gaussian",
        "linear fp32 rank 4 both sides",
        "conv fp32 staged",
        "conv fp32 gaussian both sides",
        "nodes linear fp32",
        "nodes conv fp32",
        "nodes mlp 784-128-128-10",
        "nodes gradient 64 directions",
    ],
)
def test_float32_on_warpgroup_tensor_cores_where_they_are_promised(variant, rows):
    assert any("GMMA" in name for name in rows[variant]["matrix"])


@pytest.mark.parametrize("variant", [name for name in VARIANTS if name.startswith("accumulate")])
def test_four_programs_of_an_update_run_at_once(variant, rows):
    """As many as its parts are counted for (``ENOUGH_PROGRAMS``)."""
    assert rows[variant]["occupancy"]["programs"] >= 4


def test_the_tensor_cores_do_what_the_source_says(rows):
    # Two products of 128 × 128 × 64 at 4096 operations a clock.
    lines = rows["linear bf16 staged"]["roofline"]
    config = rows["linear bf16 staged"]["config"]
    size = config["BLOCK_N"] * config["BLOCK_F"] * config["BLOCK_I"]
    assert lines["tensor"] == 2 * 2 * size / 4096
    assert lines["iterations"] == 1
