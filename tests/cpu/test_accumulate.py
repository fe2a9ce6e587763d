"""tensor += Σ a_k z_k against the sum of materialised directions."""

import pytest
import torch

import zo_triton as zo
from zo_triton import ops

SHAPES = [(5, 33), (7,), (9, 4, 3, 3), (1,)]
FIELDS = {
    "signs": ("rademacher", None),
    "gaussian": ("gaussian", None),
    "laplace": ("laplace", None),
    "low-rank-signs": ("rademacher", 2),
    "low-rank-gaussian": ("gaussian", 2),
}


def _start():
    return [torch.randn(shape, generator=torch.Generator().manual_seed(1)) for shape in SHAPES]


@pytest.mark.parametrize("field", FIELDS.values(), ids=FIELDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_agrees_with_the_reference(field, dtype):
    directions = zo.Directions(3, 1, 6, field[0], rank=field[1])[1:]
    coefficients = torch.tensor([0.5, -1.0, 2.0, 0.25, 1e-3])
    results = {}
    for engine in ("cpu", "reference"):
        results[engine] = _start()
        with zo.use_engine(engine):
            ops.accumulate(results[engine], range(4), coefficients, directions, dtype)
    for ours, expected in zip(results["cpu"], results["reference"], strict=True):
        torch.testing.assert_close(ours, expected, rtol=2e-6, atol=2e-6)


def test_the_update_walks_the_direction_that_was_measured():
    directions = zo.Directions(3, 1, 1)
    weight = torch.zeros(5, 33)
    ops.accumulate([weight], [7], torch.tensor([1.0]), directions)
    assert torch.equal(weight, zo.sample(directions, 7, (5, 33))[0])


def test_double_and_strided_tensors():
    directions, coefficients = zo.Directions(3, 1, 4), torch.tensor([1.0, 2.0, -3.0, 0.5])
    expected = torch.zeros(5, 33)
    ops.accumulate([expected], [0], coefficients, directions)
    double, strided = torch.zeros(5, 33, dtype=torch.float64), torch.zeros(33, 5).t()
    ops.accumulate([double], [0], coefficients, directions)
    ops.accumulate([strided], [0], coefficients, directions)
    assert torch.equal(double.float(), expected)
    assert torch.equal(strided, expected)


def test_a_strided_double_tensor_keeps_its_precision():
    fine = 1.0 + 2.0**-40
    weight = torch.full((33, 5), fine, dtype=torch.float64).t()
    ops.accumulate([weight], [0], torch.zeros(1), zo.Directions(3, 1, 1))
    assert torch.all(weight == fine)


def test_a_sign_that_is_not_taken_yet_is_taken():
    directions, coefficients = zo.Directions(3, 1, 2), torch.tensor([0.5, -2.0])
    weight = torch._neg_view(torch.ones(5, 33))
    expected = -torch.ones(5, 33)
    ops.accumulate([weight], [0], coefficients, directions)
    ops.accumulate([expected], [0], coefficients, directions)
    assert torch.equal(weight, expected)


@pytest.mark.parametrize("field", ["rademacher", "gaussian", "hadamard"])
def test_tensors_that_come_together_get_what_each_gets_alone(field):
    directions = zo.Directions(3, 1, 8, field).over(SHAPES)
    coefficients, dtypes = torch.linspace(-1, 1, 8), (torch.float32, torch.float64)
    together = [start.to(dtypes[i % 2]) for i, start in enumerate(_start())]
    apart = [start.clone() for start in together]
    ops.accumulate(together, range(4), coefficients, directions)
    for tensor_id, tensor in enumerate(apart):
        ops.accumulate([tensor], [tensor_id], coefficients, directions)
    assert all(map(torch.equal, together, apart))


def test_threads_do_not_change_a_bit():
    directions, coefficients = zo.Directions(3, 1, 33), torch.linspace(-1, 1, 33)
    threads, results = torch.get_num_threads(), []
    try:
        for count in (1, 2):
            torch.set_num_threads(count)
            results.append(torch.zeros(301, 257))
            ops.accumulate([results[-1]], [0], coefficients, directions)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(*results)
