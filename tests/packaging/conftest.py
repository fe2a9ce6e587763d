"""The built distributions, and the environments that they are tried in.

For each of ``ZO_TRITON_PYTHONS="3.10 3.13"`` (``make test-wheel``) there is an empty one with its own dependencies.
"""

import os
import shutil
import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import environments

ROOT = Path(__file__).resolve().parents[2]
LEFT_BEHIND = shutil.ignore_patterns(
    ".*", "__pycache__", "*.egg-info", "build", "dist", "site", "reports", "shared"
)


@pytest.fixture(scope="session")
def built(tmp_path_factory):
    """The sdist, the wheel that was built of it, and the wheel that was built of the checkout."""
    source, out = tmp_path_factory.mktemp("source") / "project", tmp_path_factory.mktemp("dist")
    shutil.copytree(ROOT, source, ignore=LEFT_BEHIND)
    build = (sys.executable, "-m", "build", "--no-isolation")
    environments.run(*build, "--outdir", out, source)
    environments.run(*build, "--wheel", "--outdir", out / "direct", source)
    (sdist,), (wheel,), (direct,) = out.glob("*.tar.gz"), out.glob("*.whl"), out.glob("direct/*.whl")
    return {"sdist": sdist, "wheel": wheel, "direct": direct}


@pytest.fixture(scope="session", params=["borrowing", *os.environ.get("ZO_TRITON_PYTHONS", "").split()])
def installed(request, built, tmp_path_factory):
    """An environment with the wheel in it; removed afterwards, as one has gigabytes."""
    folder = tmp_path_factory.mktemp("environment") / "env"
    if request.param == "borrowing":
        yield environments.with_borrowed_dependencies(built["wheel"], folder)
    else:
        yield environments.with_own_dependencies(built["wheel"], folder, request.param)
    shutil.rmtree(folder)
