"""The default kernels compiled for sm_90, no GPU needed: they fit the registers and use the tensor cores."""

import json
import os
import subprocess
import sys

import pytest
from triton import knobs

# In a process of its own: under the interpreter the kernels of this one are Python functions.
VARIANTS = [
    "linear bf16 staged",
    "linear bf16 staged both sides ragged",
    "linear bf16 inline both sides ragged",
    "linear fp32 inline both sides",
    "linear fp32 rank 4 both sides",
    "conv bf16 staged",
    "conv bf16 inline both sides",
    "conv bf16 groups of 6 gelu",
    "conv fp32 staged both sides",
    "conv fp32 6 to 16 channels",
    "depthwise bf16 both sides",
    "mlp 64-32-10",
    "mlp 784-128-128-10 both sides",
    "accumulate rademacher",
    "gram rademacher",
    "activation gelu",
]


@pytest.fixture(scope="module")
def figures(tmp_path_factory) -> dict[str, dict[str, int]]:
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    environment["TRITON_CACHE_DIR"] = str(tmp_path_factory.mktemp("cache"))
    command = [sys.executable, "-m", "zo_triton.kernels.compile", *VARIANTS]
    lines = subprocess.run(command, env=environment, check=True, capture_output=True, text=True).stdout
    return {record["variant"]: record for record in map(json.loads, lines.splitlines())}


@pytest.mark.parametrize("variant", VARIANTS)
def test_default_tiles_neither_spill_nor_use_a_stack(variant, figures):
    assert figures[variant]["spills"] == 0
    assert figures[variant]["stack"] == 0


@pytest.mark.parametrize("variant", [name for name in VARIANTS if "bf16" in name and "depthwise" not in name])
def test_bfloat16_products_run_on_warpgroup_tensor_cores(variant, figures):
    assert figures[variant]["wgmma"] > 0


def test_every_variant_fits_an_h100s_shared_memory(figures):
    assert max(record["shared"] for record in figures.values()) <= 227 * 1024


@pytest.mark.skipif(not knobs.runtime.interpret, reason="only the interpreter refuses")
def test_interpreter_refuses_to_compile():
    from zo_triton.kernels.compile import figures as compile_variant

    with pytest.raises(RuntimeError, match=r"can't be compiled under TRITON_INTERPRET=1; unset it"):
        compile_variant("gram rademacher")
