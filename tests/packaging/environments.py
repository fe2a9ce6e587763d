"""Python environments with the package in them, none of which sees this checkout."""

import os
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path
from typing import NamedTuple

VARIABLES = (
    "PYTHONPATH",
    "TRITON_INTERPRET",
    "ZO_TRITON_DATA",
    "PYTEST_XDIST_WORKER",
    "PYTEST_XDIST_WORKER_COUNT",
)
"""What a user has not set."""

PREPARED = {name: value for name, value in os.environ.items() if name not in VARIABLES}


class Environment(NamedTuple):
    """An environment with the package.

    Attributes:
        folder: Where it is.
        name: What tests are told by.
    """

    folder: Path
    name: str

    def program(self, name):
        """The path of a program that was installed into it."""
        return self.folder / "bin" / name

    def run(self, code, *arguments, **options):
        """What Python prints of a program."""
        return run(self.program("python"), "-c", code, *arguments, **options)


def ask(*command, cwd=None, variables=PREPARED):
    """The ended process of a command."""
    return subprocess.run(
        list(map(str, command)), cwd=cwd, env=variables, capture_output=True, text=True, check=False
    )


def run(*command, cwd=None, variables=PREPARED):
    """What a command prints; it must succeed."""
    done = ask(*command, cwd=cwd, variables=variables)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def interpreter(name):
    """A Python by its path or its version, on the path or among pyenv's; None if there is none."""
    pyenv = Path(os.environ.get("PYENV_ROOT", Path.home() / ".pyenv")) / "versions"
    for path in filter(None, [shutil.which(f"python{name}"), *sorted(pyenv.glob(f"{name}.*/bin/python"))]):
        # A shim of pyenv's is there for versions that are not chosen, too.
        if ask(path, "-c", "import sys; print('%d.%d' % sys.version_info[:2])").stdout.strip() == name:
            return path
    return None


def empty(folder, python, *options):
    """A new environment's Python."""
    run(python, "-m", "venv", *options, folder)
    return folder / "bin" / "python"


def lending(folder):
    """The Python of an environment that sees this one's packages, but not this checkout."""
    python = empty(folder, sys.executable, "--without-pip")
    (site,) = folder.glob("lib/python*/site-packages")
    # Of a folder named like this Python reads no further .pth files, such as an editable checkout's.
    (site / "lent.pth").write_text(sysconfig.get_path("purelib") + "\n")
    return python


def install(package, python, *options):
    """Has pip install a package."""
    run(python, "-m", "pip", "install", "--quiet", *options, package)


def with_borrowed_dependencies(package, folder, *options):
    """An environment in seconds, without the network: its dependencies are those of the Python that runs this."""
    install(package, lending(folder), "--no-deps", *options)
    return Environment(folder, "borrowing")


def with_own_dependencies(package, folder, version):
    """An environment as a user makes it: everything comes from the package index, gigabytes of it.

    With Triton, which torch brings along for GPUs only.
    """
    python = interpreter(version)
    assert python is not None, f"there is no Python {version} on the path or among pyenv's versions"
    install(f"{package}[triton]", empty(folder, python))
    return Environment(folder, version)
