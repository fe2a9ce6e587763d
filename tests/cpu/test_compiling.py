"""Where compiled kernels are kept if neither the package nor the home folder can be written to."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zo_triton

SOURCE = """
from zo_triton.cpu.compiling import device, kernel

@device
def doubled(x):
    return 2 * x

@kernel
def odd(x):
    return doubled(x) + 1
"""
PROGRAM = "from zo_triton.cpu.small import odd; print(odd(3))"


@pytest.fixture
def sealed(tmp_path):
    """A copy of the package in which Numba can keep nothing, read-only folders being no hindrance to root."""
    package = tmp_path / "installed" / "zo_triton"
    shutil.copytree(
        Path(zo_triton.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "data", "nzk")
    )
    (package / "cpu" / "small.py").write_text(SOURCE)
    (package / "cpu" / "__pycache__").write_text("not a folder")
    return package


def run(package, temporary):
    environment = {key: value for key, value in os.environ.items() if not key.startswith(("NUMBA_", "XDG_"))}
    environment |= {
        "HOME": "/dev/null", "TMPDIR": str(temporary), "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1",
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, cwd=package.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == "7\n"
    return [line for line in done.stderr.splitlines() if "can be written to" in line]


def test_results_go_to_a_temporary_folder_and_one_line_says_so(sealed, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    lines = run(sealed, temporary)
    (folder,) = temporary.glob("zo_triton-*")
    assert lines == [
        "zo_triton: neither the package nor the home folder can be written to, so CPU kernels are kept in "
        f"{folder}; NUMBA_CACHE_DIR names a better place."
    ]
    kept = sorted(folder.rglob("*.nbc"))
    assert kept
    times = [path.stat().st_mtime_ns for path in kept]
    assert run(sealed, temporary) == lines
    assert [path.stat().st_mtime_ns for path in kept] == times


def test_a_folder_that_others_can_write_to_is_not_used(sealed, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run(sealed, temporary)
    (folder,) = temporary.glob("zo_triton-*")
    shutil.rmtree(folder)
    folder.mkdir()
    folder.chmod(0o777)
    (line,) = run(sealed, temporary)
    assert "are compiled anew in each process" in line
    assert not list(folder.iterdir())
