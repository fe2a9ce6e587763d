"""Where compiled kernels are kept, when they are found there, and what a user is told."""

import ast
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import zo_triton
from zo_triton.cpu import kept
from zo_triton.cpu.field import sign_words

SOURCE = """
from zo_triton.cpu.compiling import device, kernel, routine

@device
def doubled(x):
    return 2 * x

@routine
def doubled_twice(x):
    return doubled(doubled(x))

@kernel
def odd(x):
    return doubled_twice(x) + 1
"""
PROGRAM = "import sys; from zo_triton.cpu.small import odd; print(odd(3)); assert 'torch' not in sys.modules"
COMPILING = "zo_triton: compiling CPU kernels, once; later runs load them from the cache …"


def copy(folder, source=SOURCE):
    """A copy of the package with a small kernel of its own, which starts without torch."""
    package = folder / "zo_triton"
    shutil.copytree(
        Path(zo_triton.__file__).parent, package, ignore=shutil.ignore_patterns("__pycache__", "data", "nzk")
    )
    (package / "cpu" / "__init__.py").write_text("")
    (package / "cpu" / "small.py").write_text(source)
    return package


@pytest.fixture
def package(tmp_path):
    return copy(tmp_path / "installed")


def run(package, temporary, printed="13", **variables):
    """The lines on stderr of a process that calls the small kernel; without a home folder unless told."""
    strange = ("NUMBA_", "XDG_", "ZO_TRITON_")
    environment = {key: value for key, value in os.environ.items() if not key.startswith(strange)}
    environment |= {
        "HOME": "/dev/null", "TMPDIR": str(temporary), "PYTHONPATH": str(package.parent),
        "PYTHONDONTWRITEBYTECODE": "1", **variables,
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], env=environment, capture_output=True, text=True, cwd=package.parent
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout == f"{printed}\n"
    return done.stderr.splitlines()


def test_kernels_are_kept_in_the_users_cache_and_the_compiler_is_announced_once(package, tmp_path):
    home = str(tmp_path)
    assert run(package, tmp_path, HOME=home) == [COMPILING]
    (folder,) = (tmp_path / ".cache" / "zo_triton").glob("kernels-*")
    assert list(folder.glob("small.odd-*.nbc"))
    assert run(package, tmp_path, HOME=home) == []


@pytest.mark.parametrize("name", ["ZO_TRITON_CACHE", "NUMBA_CACHE_DIR"])
def test_a_variable_names_another_place(package, tmp_path, name):
    place = tmp_path / "place"
    assert run(package, tmp_path, **{name: str(place)}) == [COMPILING]
    assert [path.name.split("-")[0] for path in place.iterdir()] == ["kernels"]
    assert run(package, tmp_path, **{name: str(place)}) == []


def test_what_the_sources_say_counts_and_neither_their_times_nor_their_place(package, tmp_path):
    home = str(tmp_path)
    run(package, tmp_path, HOME=home)
    for source in (package / "cpu").glob("*.py"):
        os.utime(source)
    assert run(package, tmp_path, HOME=home) == []
    assert run(copy(tmp_path / "second"), tmp_path, HOME=home) == []
    changed = SOURCE.replace("2 * x", "3 * x")
    assert run(copy(tmp_path / "third", changed), tmp_path, "28", HOME=home) == [COMPILING]
    assert run(package, tmp_path, HOME=home) == []


def test_constants_from_outside_the_engine_count_too(package, tmp_path):
    home = str(tmp_path)
    run(package, tmp_path, HOME=home)
    with (package / "hadamard.py").open("a") as file:
        file.write("\nANOTHER = 1\n")
    assert run(package, tmp_path, HOME=home) == [COMPILING]


def test_folders_of_other_versions_do_not_pile_up(tmp_path):
    ours = tmp_path / "kernels-ours"
    for age in range(kept.MOST_FOLDERS + 3):
        other = tmp_path / f"kernels-{age}"
        other.mkdir()
        os.utime(other, (1e9 - age, 1e9 - age))
    (tmp_path / "choices.json").write_text("{}")
    ours.mkdir()
    os.utime(ours, (1e8, 1e8))
    kept._forget_others(ours)
    left = {path.name for path in tmp_path.iterdir()}
    assert left == {"choices.json", "kernels-ours", *(f"kernels-{age}" for age in range(kept.MOST_FOLDERS))}


def test_without_a_place_results_go_to_a_temporary_folder_and_one_line_says_so(package, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    line, compiling = run(package, temporary)
    (folder,) = temporary.glob("zo_triton-*")
    assert line == (
        "zo_triton: /dev/null/.cache/zo_triton can't be written to, so CPU kernels are kept in "
        f"{folder}; ZO_TRITON_CACHE names a better place."
    )
    assert compiling == COMPILING
    assert list(folder.glob("*.nbc"))
    assert run(package, temporary) == [line]


def test_a_folder_that_others_can_write_to_is_not_used(package, tmp_path):
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    run(package, temporary)
    (folder,) = temporary.glob("zo_triton-*")
    shutil.rmtree(folder)
    folder.mkdir()
    folder.chmod(0o777)
    (line,) = run(package, temporary)
    assert "are compiled anew in each process" in line
    assert not list(folder.iterdir())


def test_what_only_kernels_call_says_so():
    with pytest.raises(TypeError, match="sign_words is compiled into kernels only; call it from one"):
        sign_words(None, 0, 0, 0, None)


def test_every_constant_that_a_kernel_may_hold_is_in_the_digest():
    """A kernel has the values of constants compiled in: kept under another's name it would be silently wrong."""
    root = Path(kept.__file__).parents[1]
    sources = set(kept._SOURCES)
    for source in sources:
        for node in ast.walk(ast.parse(source.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("zo_triton."):
                continue
            if any(alias.name.isupper() for alias in node.names):
                home = root.joinpath(*node.module.split(".")[1:]).with_suffix(".py")
                assert home in sources, f"{source.name} takes a constant from {node.module}"
