"""Where numbers come from: commit, versions, processor, threads, seed, date."""

from __future__ import annotations

import datetime
import platform
import subprocess
from importlib import metadata
from pathlib import Path
from typing import Any

import torch

PACKAGES = ("zo_triton", "torch", "triton", "numba", "numpy", "scikit-learn", "matplotlib")


def environment(seed: int) -> dict[str, Any]:
    """What every record says about its origin.

    Args:
        seed: The experiment's first seed.

    Returns:
        Keys as in ``benchmarks.report.records.ENVIRONMENT``; the commit is "unknown" outside a checkout.
    """
    commit, dirty = _commit()
    versions = {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            versions[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            versions[package] = "not installed"
    return {
        "commit": commit,
        "dirty": dirty,
        "versions": versions,
        "device": _device(),
        "threads": torch.get_num_threads(),
        "seed": seed,
        "date": datetime.datetime.now(datetime.timezone.utc).isoformat(timespec="seconds"),
        "platform": f"{platform.system()} {platform.machine()}",
    }


def _commit() -> tuple[str, bool]:
    """The checkout's commit, and whether anything but the generated reports differs from it."""
    folder = Path(__file__).resolve().parents[1]
    if not (folder / ".git").exists():
        return "unknown", False
    try:
        commit = _git(folder, "rev-parse", "HEAD")
        changes = _git(folder, "status", "--porcelain", "--", ".", ":(exclude)reports")
    except (OSError, subprocess.SubprocessError):
        return "unknown", False
    return commit, bool(changes)


def _git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(
        ["git", "-C", str(folder), *arguments], capture_output=True, text=True, check=True, timeout=20
    )
    return done.stdout.strip()


def _device() -> str:
    names = [torch.cuda.get_device_name()] if torch.cuda.is_available() else []
    return ", ".join([*names, f"{_processor()} ({torch.get_num_threads()} threads)"])


def _processor() -> str:
    """The processor's model name; Python's own answer is empty on Linux."""
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
