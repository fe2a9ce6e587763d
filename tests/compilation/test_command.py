"""``zo-triton compile`` from its jobs to its files, and what it says of kernels that cannot be compiled."""

import json
import subprocess
import sys

import pytest
import triton
from triton import knobs

BROKEN = """
import triton
import triton.language as tl

import torch

from zo_triton.compilation import run
from zo_triton.compilation.variants import Variant
from zo_triton.kernels.launch import launch


@triton.jit
def broken_kernel(out_ptr, SIZE: tl.constexpr):
    tl.store(out_ptr + tl.arange(0, SIZE), nothing_is_called_so)


def call(config):
    launch(broken_kernel, 1, torch.empty(8), out_ptr=torch.empty(8), SIZE=8)


def silent(config):
    pass


if __name__ == "__main__":
    import json

    variants = {"broken one": Variant("broken", call), "silent one": Variant("broken", silent)}
    jobs = run.choose(variants, ["sm_90", "gfx942"])
    record = run.compile_all(jobs, {}, lambda done, total: None)
    print(json.dumps([record["rows"], len(run.failures(record))]))
"""


def test_a_kernel_that_fails_is_a_row_with_its_reason(environment, tmp_path):
    (tmp_path / "broken.py").write_text(BROKEN)
    done = subprocess.run(
        [sys.executable, "broken.py"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    rows, failures = json.loads(done.stdout)
    assert [row["target"] for row in rows] == ["sm_90", "sm_90", "gfx942", "gfx942"]
    assert failures == 4
    assert "nothing_is_called_so is not defined" in rows[0]["error"]
    assert "launches no kernel" in rows[1]["error"]
    assert "\n" not in rows[0]["error"]


def test_the_command_prints_a_table_and_writes_everything(environment, tmp_path):
    arguments = [
        "compile",
        "--target",
        "sm_90",
        "--kernel",
        "accumulate rank 4",
        "--out",
        str(tmp_path / "out"),
    ]
    script = "import sys; from zo_triton.cli import main; sys.exit(main())"
    command = [sys.executable, "-c", script, *arguments, "--json", str(tmp_path / "own.json")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=True)
    assert "HMMA" in done.stdout
    title = f"Kernels compiled by Triton {triton.__version__}\n"
    assert title in done.stdout
    assert (tmp_path / "out" / "compile.md").read_text().startswith(f"# {title}")
    assert {file.name for file in (tmp_path / "out").iterdir()} == {
        "compile.json",
        "compile.md",
        "compile.svg",
    }
    record = json.loads((tmp_path / "own.json").read_text())
    assert record == json.loads((tmp_path / "out" / "compile.json").read_text())
    assert (record["format"], record["schema"]) == ("zo_triton compile", 1)
    assert record["rows"][0]["occupancy"]["warps"] > 0


@pytest.mark.skipif(not knobs.runtime.interpret, reason="only the interpreter refuses")
def test_the_interpreter_refuses_to_compile(capsys):
    from zo_triton import cli

    assert cli.main(["compile", "--kernel", "cross entropy"]) == 2
    message = capsys.readouterr().err
    assert "can't be compiled under TRITON_INTERPRET=1; unset it" in message
    assert message.count("\n") == 1
