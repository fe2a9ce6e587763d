"""The wheel and the sdist: they build, install into empty environments, and their commands run.

Nothing is downloaded: the Python that runs the tests lends its dependencies, and on others the package does without
them what it promises to. With ZO_TRITON_NIGHTLY=1 they are installed there as a user installs them.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
ENVIRONMENT = {
    name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "TRITON_INTERPRET")
}

LOG = """
import torch, zo_triton as zo
from zo_triton.runlog import save_weights
weights = torch.zeros(3, 4)
save_weights({"weights": weights}, "initial.safetensors")
opt = zo.ZOSGD([("weights", weights)], lr=0.1, directions=4, eps=1e-3, seed=0)
with zo.use_engine("reference"), zo.ReplayLog.start("log.zo", opt):
    for _ in range(3):
        opt.step(lambda: (weights - 1.0).square().mean())
save_weights({"weights": weights}, "final.safetensors")
"""


def ask(*command, cwd=None):
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=ENVIRONMENT, capture_output=True, text=True, check=False
    )


def run(*command, cwd=None):
    done = ask(*command, cwd=cwd)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def replays(programs, folder):
    """Trains, replays the log by the command, and compares."""
    run(programs / "python", "-c", LOG, cwd=folder)
    # The reference engine has nothing to compile first.
    files = ("log.zo", "--from", "initial.safetensors", "--out", "again.safetensors", "--engine", "reference")
    run(programs / "zo-triton", "replay", *files, cwd=folder)
    return (folder / "again.safetensors").read_bytes() == (folder / "final.safetensors").read_bytes()


def interpreter(version):
    """A Python of that version on this machine, on the path or among pyenv's; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    found = [shutil.which(f"python{version}"), *sorted(pyenv.glob(f"{version}.*/bin/python"))]
    for path in filter(None, found):
        asked = ask(path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])")
        if asked.stdout.strip() == version:
            return path
    return None


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that was built of it."""
    source, out = tmp_path_factory.mktemp("source") / "project", tmp_path_factory.mktemp("dist")
    source.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    shutil.copytree(ROOT / "zo_triton", source / "zo_triton", ignore=shutil.ignore_patterns("__pycache__"))
    run(sys.executable, "-m", "build", "--no-isolation", "--outdir", out, source)
    (sdist,), (wheel,) = out.glob("*.tar.gz"), out.glob("*.whl")
    return {"sdist": sdist, "wheel": wheel}


def install(package, python, folder, *options):
    """An environment of its own with the package; returns its folder of programs."""
    run(python, "-m", "pip", "install", "--quiet", *options, package)
    return folder / "bin"


def empty(folder, python, *options):
    """An empty environment's Python."""
    run(python, "-m", "venv", *options, folder)
    return folder / "bin" / "python"


def lending(folder):
    """The Python of an environment that sees this one's packages, but not this checkout."""
    python = empty(folder, sys.executable, "--without-pip")
    (site,) = folder.glob("lib/python*/site-packages")
    # Of a folder named like this Python reads no further .pth files, such as an editable checkout's.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def test_the_wheel_holds_the_library_and_nothing_of_the_suite(built):
    names = zipfile.ZipFile(built["wheel"]).namelist()
    assert "zo_triton/py.typed" in names
    assert {name.split("/")[0] for name in names} == {
        "zo_triton",
        built["wheel"].name.rsplit("-", 3)[0] + ".dist-info",
    }


@pytest.mark.parametrize("kind", ["wheel", "sdist"])
def test_the_commands_of_an_installed_package_run(built, kind, tmp_path):
    python = lending(tmp_path / "env")
    # Dependencies, and what builds an sdist, are here already.
    programs = install(built[kind], python, tmp_path / "env", "--no-deps", "--no-build-isolation")
    where = run(programs / "python", "-c", "import zo_triton; print(zo_triton.__file__)", cwd=tmp_path)
    assert where.startswith(str(tmp_path / "env"))
    assert replays(programs, tmp_path)
    command = programs / "zo-triton"
    assert "intact: 3 steps" in run(command, "replay", "log.zo", "--verify", cwd=tmp_path)
    table = run(command, "compile", "--target", "sm_90", "--kernel", "stage", "--defaults", cwd=tmp_path)
    assert "stage signs" in table
    assert "finds no GPU" in run(command, "tune", cwd=tmp_path) or shutil.which("nvidia-smi")


@pytest.mark.parametrize("version", ["3.10", "3.13"])
def test_the_oldest_and_the_newest_python_install_it(built, version, tmp_path):
    python = interpreter(version)
    if python is None:
        pytest.skip(f"there is no Python {version} here")
    options = () if NIGHTLY else ("--no-deps",)
    programs = install(built["wheel"], empty(tmp_path / "env", python), tmp_path / "env", *options)
    command = programs / "zo-triton"
    assert "replay" in run(command, "--help", cwd=tmp_path)
    assert "--intact-prefix" in run(command, "replay", "--help", cwd=tmp_path)
    code = "import zo_triton as zo; print(zo.__version__, len(dir(zo)) > 20, zo.Directions(0, 0, 8)[2:4].num)"
    assert run(programs / "python", "-c", code, cwd=tmp_path) == "0.1.0 True 2\n"
    # Every file must be Python of that version.
    (package,) = (tmp_path / "env").glob("lib/*/site-packages/zo_triton")
    run(programs / "python", "-m", "compileall", "-q", package)
    if NIGHTLY:
        assert replays(programs, tmp_path)


def test_a_suite_command_says_where_the_suite_is(built, tmp_path):
    python = empty(tmp_path / "env", sys.executable)
    programs = install(built["wheel"], python, tmp_path / "env", "--no-deps")
    done = ask(programs / "zo-triton", "report", cwd=tmp_path)
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "from a checkout of the project run: python -m benchmarks report" in done.stderr
