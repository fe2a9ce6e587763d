"""Arrays live as long as their addresses, and an address belongs to the array that is there now."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import FunctionType

import numpy as np
import pytest
from numba.core import compiler, ir, postproc
from numba.core.registry import CPUDispatcher

import zo_triton.cpu
from zo_triton.cpu import addresses
from zo_triton.cpu.addresses import addresses_of


def functions() -> Iterator[FunctionType]:
    """All that the engine compiles."""
    for info in pkgutil.iter_modules(zo_triton.cpu.__path__):
        module = importlib.import_module(f"zo_triton.cpu.{info.name}")
        for value in vars(module).values():
            compiled = getattr(value, "body", value)
            if isinstance(compiled, CPUDispatcher) and compiled.__module__ == module.__name__:
                yield compiled.py_func


def outlived(function: FunctionType) -> set[str]:
    """The function's own arrays that die where their address is taken."""
    code = compiler.run_frontend(function)
    postproc.PostProcessor(code).run(emit_dels=True)
    found = set()
    for block in code.blocks.values():
        addressed = set()
        for statement in block.body:
            value = getattr(statement, "value", None)
            if isinstance(value, ir.Expr) and value.op == "getattr" and value.attr == "ctypes":
                addressed.add(value.value.name)
            elif isinstance(statement, ir.Del) and value in addressed:
                made = code._definitions[value]
                if any(isinstance(each, ir.Expr) and each.op == "call" for each in made):
                    found.add(f"{function.__module__}.{function.__name__}: {value}")
    return found


def early() -> int:
    """What must not be written."""
    array = np.zeros(4)
    address = array.ctypes.data
    return address + 1


def test_what_dies_too_early_is_found() -> None:
    assert outlived(early) == {f"{__name__}.early: array"}


def test_arrays_live_as_long_as_their_addresses() -> None:
    assert set().union(*map(outlived, functions())) == set()


def test_an_array_in_the_place_of_another_has_an_address_of_its_own() -> None:
    for size in range(1, 200):
        array = np.zeros(size, np.float32)
        assert addresses_of([array]).tolist() == [array.ctypes.data]
    key = id(array)
    del array
    assert key not in addresses._known


@pytest.mark.parametrize("array", [np.zeros(3), np.zeros((4, 4), np.float32).T[:2]])
def test_what_a_kernel_would_misread_is_refused(array: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"contiguous float32, got float.* with strides .*contiguous\(\)"):
        addresses_of([array])
