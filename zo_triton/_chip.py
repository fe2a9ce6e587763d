"""Which GPU there is, what it lacks, and in one line why nothing can be measured on this machine."""

from __future__ import annotations

import importlib.util
import os
import sys
from dataclasses import dataclass

from zo_triton._files import slug

OLDEST = (8, 0)
"""Compute capability from which tensor cores multiply bfloat16 and TF32."""


@dataclass(frozen=True)
class Chip:
    """What a run measures.

    Attributes:
        name: The device's own; empty for Triton's interpreter.
        facts: For the record.
        has_bfloat16: Whether the chip multiplies bfloat16 itself.
    """

    name: str
    facts: str
    has_bfloat16: bool

    @property
    def slug(self) -> str:
        """The name as a folder's."""
        return slug(self.name) or "interpreter"


def why_not(tiny: bool = False, still_works: str = "all else works without one.") -> str | None:
    """Why nothing can run here, and what works all the same; None if the kernels can run.

    Args:
        tiny: A tiny run takes Triton's interpreter where there is no GPU.
        still_works: What works without a GPU, a sentence.
    """
    for package in ("torch", "triton", "numpy"):
        if importlib.util.find_spec(package) is None:
            rest = "all else works without it" if package == "triton" else "nothing works without it"
            python = sys.executable
            return f"{package} is not installed for {python} ({python} -m pip install {package}); {rest}."
    import torch

    if tiny:
        return None
    if not torch.cuda.is_available():
        build = "" if torch.version.cuda or torch.version.hip else ", a build without GPU support,"
        return f"torch {torch.__version__}{build} finds no GPU: nothing to run here; {still_works}"
    if os.environ.get("TRITON_INTERPRET") == "1":
        return "TRITON_INTERPRET=1 keeps the kernels off the GPU; unset it. " + still_works
    found = torch.cuda.get_device_capability()
    if torch.version.hip is None and found < OLDEST:
        return (
            f"{torch.cuda.get_device_name()} has compute capability {found[0]}.{found[1]}, and the kernels need "
            f"{OLDEST[0]}.{OLDEST[1]} or newer; {still_works}"
        )
    return None


def find_chip() -> Chip:
    """The GPU that torch would use, or Triton's interpreter on the CPU; :func:`why_not` has found no obstacle."""
    import torch

    if not torch.cuda.is_available():
        return Chip("", "none: Triton's interpreter on the CPU, whose times mean nothing", True)
    found = torch.cuda.get_device_properties(torch.cuda.current_device())
    backend = f"ROCm {torch.version.hip}" if torch.version.hip else f"CUDA {torch.version.cuda}"
    facts = (
        f"{found.name}, compute capability {found.major}.{found.minor}, {found.multi_processor_count} "
        f"multiprocessors, {found.total_memory / 2**30:.0f} GiB, {backend}"
    )
    return Chip(found.name, facts, torch.cuda.is_bf16_supported(including_emulation=False))
