"""Tensors of an update that share launches: they get what each would get by itself, from few launches."""

import importlib

import pytest
import torch
from cuda_stand_in import CUDA, Far, cuda

from zo_triton import reference
from zo_triton.directions import Directions
from zo_triton.kernels import accumulate
from zo_triton.kernels.choices import trying
from zo_triton.kernels.launch import recording
from zo_triton.kernels.tensor_groups import MOST_TENSORS, groups, table
from zo_triton.ops import on_grid

kernel = importlib.import_module("zo_triton.kernels.accumulate")
"""The module, whose name in the package is the function's."""

SHAPES = [(9, 70), (33,), (), (0, 4), (5, 2, 3, 3), (130, 6), (257,)]
"""Ragged in every tile; a scalar, a tensor without elements, a window."""

KINDS = {
    "signs": {},
    "orthogonal": {"distribution": "hadamard"},
    "low rank": {"rank": 3},
}


def tensors(device, dtype=torch.float32):
    generator = torch.Generator().manual_seed(3)
    return [torch.randn(shape, generator=generator, dtype=dtype).to(device) for shape in SHAPES]


def named(num, kind):
    return Directions(7, 1, num, **KINDS[kind]).over(SHAPES)


def coefficients(num):
    return on_grid(torch.randn(num, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("num", [3, 33], ids=["one part", "two parts"])
@pytest.mark.parametrize("kind", ["signs", "orthogonal"])
def test_together_they_get_the_bits_of_the_reference(kind, num, device):
    moved, expected = tensors(device), tensors("cpu")
    directions, ids = named(num, kind), range(len(SHAPES))
    accumulate(moved, list(ids), coefficients(num).to(device), directions, torch.float32)
    reference.accumulate(expected, list(ids), coefficients(num), directions, torch.float32)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(moved, expected, strict=True))


def test_matrices_of_low_rank_stand_beside_whole_vectors(device):
    moved, expected = tensors(device), tensors("cpu")
    directions, ids = named(3, "low rank"), list(range(len(SHAPES)))
    accumulate(moved, ids, coefficients(3).to(device), directions, torch.float32)
    reference.accumulate(expected, ids, coefficients(3), directions, torch.float32)
    for a, b in zip(moved, expected, strict=True):
        # Three products of at most √3 and a coefficient below 4, each off by a few roundings.
        torch.testing.assert_close(a.cpu(), b, rtol=0, atol=4e-6)


def test_other_strides_and_both_dtypes_are_moved_where_they_lie(device):
    storage = torch.zeros(6, 80, device=device)
    moved = [storage.T[::2], torch.zeros(7, 5, dtype=torch.float64, device=device), storage.T[1::2]]
    assert not moved[0].is_contiguous()
    directions, ids = Directions(7, 1, 20), [4, 0, 2]
    accumulate(moved, ids, coefficients(20).to(device), directions, torch.float32)
    expected = [torch.zeros(each.shape, dtype=each.dtype) for each in moved]
    reference.accumulate(expected, ids, coefficients(20), directions, torch.float32)
    assert all(torch.equal(a.cpu(), b) for a, b in zip(moved, expected, strict=True))


def launches(shapes, num):
    made = [torch.zeros(shape) for shape in shapes]
    with recording() as found:
        accumulate(made, list(range(len(made))), torch.zeros(num), Directions(0, 0, num), torch.float32)
    return found


@pytest.mark.parametrize("num", [1, 4096])
def test_a_small_network_takes_two_launches(num):
    """784-128-128-10, one for its matrices and one for its vectors, against 132 multiprocessors of an H100."""
    found = launches([(128, 784), (128,), (128, 128), (128,), (10, 128), (10,)], num)
    assert len(found) == 2
    if num == 4096:
        assert min(launch.programs / launch.arguments["tiles"] for launch in found) == 36
        assert sum(launch.programs for launch in found) >= 4 * 132


def test_a_tensor_that_fills_the_chip_has_a_launch_and_no_memory_for_sums():
    large, *small = launches([(1024, 2560), (128,), (64, 30)], 64)
    assert not large.arguments["GROUPED"]
    assert large.programs >= 2 * 132
    assert [launch.arguments["GROUPED"] for launch in small] == [True, True]


def test_a_block_of_a_transformer_takes_two_launches():
    width = 256
    matrices = [(3 * width, width), (width, width), (4 * width, width), (width, 4 * width)]
    vectors = [(width,), (width,), (3 * width,), (width,), (width,), (width,), (4 * width,), (width,)]
    assert len(launches(4 * [*matrices, *vectors], 64)) == 2


def test_groups_end_where_they_are_full():
    many = [torch.zeros(3) for _ in range(MOST_TENSORS + 2)]
    few = list(groups(many, range(len(many)), 1 << 20))
    assert [len(group.tensors) for group in few] == [MOST_TENSORS, 2]
    assert few[1].ids == [MOST_TENSORS, MOST_TENSORS + 1]
    sizes = [40, 30, 60, 30, 0, 30, 50]
    found = list(groups([torch.zeros(size) for size in sizes], range(len(sizes)), 100))
    assert sorted(group.ids for group in found) == [[0, 1, 3], [2], [5, 6]]


def test_a_tensor_that_comes_twice_is_moved_twice(device):
    (moved, *_), (expected, *_) = tensors(device), tensors("cpu")
    directions = Directions(7, 1, 3)
    accumulate([moved, moved], [0, 5], coefficients(3).to(device), directions, torch.float32)
    reference.accumulate([expected, expected], [0, 5], coefficients(3), directions, torch.float32)
    assert torch.equal(moved.cpu(), expected)
    assert [group.ids for group in groups([moved, moved], [0, 5], 1 << 20)] == [[0], [5]]


def test_a_recorded_step_finds_the_table_on_the_device():
    """Written by the step before the recording; in one, a copy from the host would be refused or lost."""
    directions = Directions(0, 0, 64)
    with cuda() as device, recording() as found, trying({}):
        moved = [Far(tensor) for tensor in tensors("cpu")]
        numbers = torch.zeros(64, device=CUDA, dtype=torch.float32)
        for graph in (None, torch.cuda.CUDAGraph()):
            device.graph = graph
            accumulate(moved, list(range(len(moved))), numbers, directions, torch.float32)
        device.graph = None
        assert device.reads == []
    table.cache_clear()
    first, again = found[:2], found[2:]
    for before, recorded in zip(first, again, strict=True):
        assert before.arguments["table_ptr"].device == CUDA
        assert before.arguments["table_ptr"] is recorded.arguments["table_ptr"]
