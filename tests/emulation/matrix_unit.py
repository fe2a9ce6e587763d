"""A pytest plugin under which the CPU engine is compiled for Intel's matrix unit, whose instructions are emulated.

``PYTHONPATH=tests python -m pytest -p emulation.matrix_unit …``, on Linux, on a processor with AVX-512 BF16 and
without such a unit. The library knows nothing of it: what torch and LLVM say of the processor is replaced before
it asks.
"""

import ctypes
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

HERE = Path(__file__).parent
FLAGS = ("-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-mavx512f", "-mfma", "-shared", "-fPIC")


def reason_against():
    """Why there is no emulated unit here; nothing if there may be one."""
    import torch

    if sys.platform != "linux" or not torch.cpu._is_avx512_bf16_supported():
        return "factors are packed by AVX-512 BF16, and instructions are caught on Linux"
    if torch.cpu._is_amx_tile_supported():
        return "this processor has the unit itself"
    return "" if shutil.which("cc") else "there is no C compiler"


def compiled(name, folder):
    """Where the library of a C file here is then: in the folder."""
    library = Path(folder) / f"{name}.so"
    subprocess.run(["cc", *FLAGS, "-o", library, HERE / f"{name}.c"], check=True)
    return str(library)


def announce():
    """Has torch and LLVM, and so Numba, say that the processor has the unit."""
    import torch
    from llvmlite import binding

    known = binding.get_host_cpu_features

    def with_unit():
        features = known()
        features.update({"amx-tile": True, "amx-bf16": True})
        return features

    binding.get_host_cpu_features = with_unit
    torch.cpu._is_amx_tile_supported = torch.cpu._init_amx = lambda: True


class Emulation:
    """Of a session."""

    def __init__(self):
        with tempfile.TemporaryDirectory() as folder:
            self.unit = ctypes.CDLL(compiled("matrix_unit", folder))
        self.unit.count_of_products.restype = ctypes.c_uint64

    def pytest_sessionstart(self):
        # After pytest's own handler of this trap, which answers what is none of the unit's instructions.
        self.unit.install()

    def pytest_terminal_summary(self, terminalreporter):
        terminalreporter.write_line(f"{self.unit.count_of_products()} products of tiles were emulated")


@pytest.hookimpl(tryfirst=True)
def pytest_load_initial_conftests():
    """Before anything imports the library."""
    if reason := reason_against():
        raise pytest.UsageError(f"no emulated matrix unit: {reason}")
    announce()


def pytest_configure(config):
    config.pluginmanager.register(Emulation())
