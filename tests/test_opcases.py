"""The catalogue of operations: complete, right on this machine's engine, and telling the work as it is."""

from dataclasses import replace

import pytest
import torch

from zo_triton import Directions, kernels, ops
from zo_triton.compilation.names import KERNELS
from zo_triton.compilation.variants import VARIANTS
from zo_triton.opcases import CASES, BlankOperands, LargestCase, LinearCase, RandomOperands, RoundingCase
from zo_triton.opcases.sizes import TINY

FLOAT = torch.float32
SIGNS = Directions(0, 0, 3)
TIMED = (
    TINY.stage(),
    TINY.sample("gaussian"),
    TINY.accumulate("rademacher"),
    RoundingCase(directions=SIGNS, shape=(5, 7), dtype=torch.bfloat16),
    TINY.gram(),
    TINY.linear(FLOAT, sides=2),
    replace(TINY.linear(FLOAT, sides=2), outputs=40, transposed=True),
    TINY.convolution(FLOAT),
    TINY.whole_network(),
    TINY.activation(FLOAT),
    TINY.largest(),
    TINY.cross_entropy(),
    TINY.node_sample(),
    TINY.node_epilogue(FLOAT),
    replace(TINY.node_linear(FLOAT), sides=2, rows=2, directions=SIGNS),
    TINY.node_convolution(FLOAT),
    replace(TINY.node_gradient(), tokens=2),
    TINY.node_network(),
)


def test_every_op_has_a_case():
    assert {case.op for case in CASES} == {*ops.SCHEMAS, "stage"} == set(kernels.__all__)
    assert len({case.op for case in CASES}) == len(CASES)
    assert {type(case) for case in TIMED} == set(CASES)


def test_every_op_is_compiled():
    assert {variant.kernel for variant in VARIANTS.values()} == {case.op for case in CASES}
    assert [*KERNELS.items()] == [(name, variant.kernel) for name, variant in VARIANTS.items()]


@pytest.mark.parametrize("case", TIMED, ids=lambda case: case.op)
def test_the_engine_agrees_with_the_reference(case):
    arguments = case.arguments(RandomOperands("cpu", seed=2))
    exact = case.exact(arguments)
    case.run(arguments)
    torch.testing.assert_close(case.result(arguments).double(), exact.double(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("case", TIMED, ids=lambda case: case.op)
def test_blank_operands_lie_as_random_ones_do(case):
    def layout(value):
        if isinstance(value, torch.Tensor):
            return value.dtype, value.shape, value.stride()
        return [layout(one) for one in value] if isinstance(value, (list, tuple)) else value

    assert layout(case.arguments(BlankOperands())) == layout(case.arguments(RandomOperands("cpu", seed=2)))


def test_results_that_nobody_writes_show():
    case = TINY.linear(FLOAT)
    assert case.result(case.arguments(RandomOperands("cpu", seed=2))).isnan().all()


def test_a_seed_decides_the_operands():
    first, again, other = (
        TINY.activation(FLOAT).arguments(RandomOperands("cpu", seed))[1] for seed in (1, 1, 2)
    )
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


@pytest.mark.parametrize(
    ("options", "flops", "least", "values"),
    [
        ({}, 2 * 3 * 2 * (4 * 5 * 6), None, 3 * 5 * 6),
        ({"sides": 2}, 2 * 6 * 2 * (4 * 5 * 6), None, 3 * 5 * 6),
        ({"transposed": True}, 2 * 3 * 2 * (4 * 5 * 6), None, 3 * 5 * 6),
        ({"sides": 2, "first": True}, 2 * 3 * (4 * 5 * 6), None, 3 * 5 * 6),
        ({"directions": replace(SIGNS, rank=1)}, 2 * 3 * 2 * (4 * 5 * 6), 2 * 3 * 4 * (5 * 6 + 11), 3 * 11),
    ],
    ids=["one side", "both sides", "transposed", "first layer", "rank 1"],
)
def test_a_layers_work(options, flops, least, values):
    case = LinearCase(**{"directions": SIGNS, "samples": 4, "inputs": 5, "outputs": 6, **options})
    work = case.work(case.arguments(BlankOperands()))
    assert (work.flops, work.least_flops, work.values) == (flops, least or flops, values)


def test_bytes_are_those_of_the_operands():
    case = TINY.accumulate("rademacher")
    assert case.work(case.arguments(BlankOperands())).bytes == 8 * TINY.update**2


def test_windows_overlap_and_stand_on_the_edge_again():
    places = LargestCase(evaluations=1, planes=1, side=3, window=3, padding=1).places()
    # Two windows a row; the first begins one row and one column outside.
    assert places.shape == (9, 4)
    assert places[:, 0].tolist() == [0, 0, 1, 0, 0, 1, 3, 3, 4]
    assert places[:, 3].tolist() == [4, 5, 5, 7, 8, 8, 7, 8, 8]
