"""Arrays live as long as their addresses, and an address belongs to the array that is there now."""

import importlib
import pkgutil
from collections.abc import Iterator
from types import FunctionType

import numpy as np
import pytest
from lifetimes import outlived
from numba.core.registry import CPUDispatcher

import zo_triton.cpu
from zo_triton.cpu import addresses
from zo_triton.cpu.addresses import addresses_of, keep
from zo_triton.cpu.compiling import device, kernel


def functions() -> Iterator[FunctionType]:
    """All that the engine compiles."""
    for info in pkgutil.iter_modules(zo_triton.cpu.__path__):
        module = importlib.import_module(f"zo_triton.cpu.{info.name}")
        for value in vars(module).values():
            compiled = getattr(value, "body", value)
            if isinstance(compiled, CPUDispatcher) and compiled.__module__ == module.__name__:
                yield compiled.py_func


def early() -> int:
    """What must not be written."""
    array, other = np.zeros(4), np.zeros(4)
    address = array.ctypes.data
    total = other[0]
    for i in range(4):
        total += address + i
    return total


def late() -> int:
    """The same as it should be."""
    array, total = np.zeros(4), 0
    address = array.ctypes.data
    for i in range(4):
        total += i if address + i else 0
    keep(array)
    return total


def of_a_view(array: np.ndarray) -> int:
    """An address that a function returns."""
    return array[1:].ctypes.data + 1


viewed = device(of_a_view)


def further(address: int, array: np.ndarray) -> int:
    """An address that a function makes of one."""
    return address + array.itemsize


moved_on = device(further)


def early_elsewhere(given: np.ndarray) -> int:
    """An array whose address another function takes; what was given is its caller's."""
    made = np.zeros(4).reshape(2, 2)
    theirs, mine = viewed(given), viewed(made)
    return theirs + mine


def early_by_an_address() -> int:
    """An array whose address another function only takes further, the last one to see the array."""
    array, total = np.zeros(4), 0
    address = moved_on(array.ctypes.data, array)
    for i in range(4):
        total += address + i
    return total


def in_the_place_of_another() -> int:
    """The name lives on, its first array does not."""
    array = np.zeros(4)
    address = array.ctypes.data
    array = np.zeros(8)
    return address + array[0]


@kernel
def first_of(arrays: tuple[np.ndarray, ...]) -> float:
    """Of whatever a kernel may be given."""
    return arrays[0][0]


def test_what_dies_too_early_is_found() -> None:
    found = {
        each.__name__: outlived(each)
        for each in (early, late, early_elsewhere, early_by_an_address, in_the_place_of_another)
    }
    assert {name: len(names) for name, names in found.items()} == {
        "early": 1,
        "late": 0,
        "early_elsewhere": 1,
        "early_by_an_address": 1,
        "in_the_place_of_another": 1,
    }


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


@pytest.mark.parametrize(
    "array",
    [np.zeros(4)[::2], np.zeros((4, 4)).T, np.broadcast_to(np.zeros(1), 4)],
    ids=["step", "turned", "one"],
)
def test_a_kernel_takes_contiguous_arrays_alone(array: np.ndarray) -> None:
    with pytest.raises(TypeError, match=r"first_of takes contiguous arrays, got .*; call contiguous\(\)"):
        first_of((np.zeros(4), array))
