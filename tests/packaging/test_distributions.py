"""The wheel and the sdist: what is in them, and that every supported Python installs them."""

import ast
import re
import sys
import tarfile
import zipfile
from email import message_from_bytes

import pytest
from environments import Environment, ask, empty, install, interpreter, run, with_borrowed_dependencies

OPTIONAL = {
    "PIL": "pillow", "sklearn": "scikit-learn", "matplotlib": "matplotlib", "pytest": "pytest", "rich": "rich",
    "accelerate": "accelerate", "transformers": "transformers", "argcomplete": "argcomplete",
    "triton": "triton",
}  # fmt: skip
"""What only some functions need, which say so: the name under which it is imported, and the one that pip knows."""

COMPANIONS = {"llvmlite": "numba"}
"""What another dependency brings and pins."""


def contents(wheel):
    with zipfile.ZipFile(wheel) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def test_the_wheel_holds_the_library_and_nothing_of_the_suite(built):
    names = contents(built["wheel"])
    assert "zo_triton/py.typed" in names
    assert {name.split("/")[0] for name in names} == {
        "zo_triton",
        built["wheel"].name.rsplit("-", 3)[0] + ".dist-info",
    }


def test_the_sdist_holds_what_the_wheel_is_built_of_and_no_part_of_the_tests(built):
    with tarfile.open(built["sdist"]) as archive:
        names = {name.split("/", 2)[1] for name in archive.getnames() if "/" in name}
    assert {"pyproject.toml", "README.md", "LICENSE", "zo_triton"} <= names
    assert not {"tests", "benchmarks"} & names


def test_the_wheel_of_the_sdist_is_the_wheel_of_the_checkout(built):
    assert contents(built["wheel"]) == contents(built["direct"])


def imported(source):
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module.partition(".")[0]


def test_the_wheel_declares_what_it_imports(built):
    files = contents(built["wheel"])
    (metadata,) = (message_from_bytes(text) for name, text in files.items() if name.endswith("/METADATA"))
    declared, extras = set(), set()
    for requirement in metadata.get_all("Requires-Dist"):
        (extras if "extra ==" in requirement else declared).add(re.match(r"[\w-]+", requirement)[0])
    known = declared | OPTIONAL.keys() | COMPANIONS.keys() | sys.stdlib_module_names | {"zo_triton"}
    used = {name: set(imported(text)) - known for name, text in files.items() if name.endswith(".py")}
    assert {name: names for name, names in used.items() if names} == {}
    assert set(OPTIONAL.values()) <= extras
    assert set(COMPANIONS.values()) <= declared


def test_an_sdist_is_built_and_installed_in_one_go(built, tmp_path):
    installed = with_borrowed_dependencies(built["sdist"], tmp_path / "env", "--no-build-isolation")
    assert "--intact-prefix" in run(installed.program("zo-triton"), "replay", "--help", cwd=tmp_path)


@pytest.mark.parametrize("version", ["3.10", "3.13", "3.14"])
def test_the_oldest_and_the_newest_pythons_install_it_and_read_its_files(built, version, tmp_path):
    """Without dependencies: the package does without them what it promises to."""
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    installed = Environment(tmp_path / "env", version)
    install(built["wheel"], empty(installed.folder, python), "--no-deps")
    command = installed.program("zo-triton")
    assert "replay" in run(command, "--help", cwd=tmp_path)
    assert "--intact-prefix" in run(command, "replay", "--help", cwd=tmp_path)
    code = "import zo_triton as zo; print(zo.__version__, len(dir(zo)) > 20, zo.Directions(0, 0, 8)[2:4].num)"
    assert installed.run(code, cwd=tmp_path) == "0.1.0 True 2\n"
    # Every file must be Python of that version, without a warning.
    (package,) = installed.folder.glob("lib/*/site-packages/zo_triton")
    run(installed.program("python"), "-W", "error", "-m", "compileall", "-q", "-f", package)


def test_a_suite_command_says_where_the_suite_is(installed, tmp_path):
    done = ask(installed.program("zo-triton"), "report", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "from a checkout of the project run: python -m benchmarks report" in done.stderr
