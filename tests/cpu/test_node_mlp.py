"""A small network's step with orthogonal signs on its outputs, against float64 and against the plain definition."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import zo_triton as zo
from zo_triton import ops
from zo_triton.cpu.compiling import kernel
from zo_triton.cpu.node_gradient import walsh_hadamard
from zo_triton.hadamard import entries
from zo_triton.reference.node_mlp import node_mlp_gradients

# Widths, samples, directions, order of the matrix. Depths of one, two and three layers are code of their own.
CASES = {
    "logistic": ((9, 6), 33, 7, None),
    "digits": ((64, 32, 10), 37, 61, None),
    "one-of-everything": ((1, 1, 1), 1, 1, None),
    "fewer-rows-than-four": ((35, 3, 2), 32, 4, None),
    "order-beyond-the-directions": ((20, 9, 4), 40, 5, 64),
    "columns-beyond-the-order": ((33, 65, 7), 64, 8, None),
    "three-layers": ((20, 33, 17, 5), 70, 12, None),
}
DESCENT = (1.0, 0.0, -1.0, 1.0, 0.0, 0.0)
"""Plain SGD at rate 1: what has moved is the gradient."""


def network(widths, seed=0):
    generator = torch.Generator().manual_seed(seed)
    tensors = []
    for inner, outer in pairwise(widths):
        tensors += [torch.randn(outer, inner, generator=generator) / inner**0.5]
        tensors += [torch.randn(1, outer, generator=generator) / 3]
    return [tensor.numpy() for tensor in tensors]


def batch(widths, samples, squared):
    generator = torch.Generator().manual_seed(1)
    x = torch.randn(samples, widths[0], generator=generator).numpy()
    if squared:
        return x, torch.randn(samples, widths[-1], generator=generator).numpy()
    return x, (torch.arange(samples) % widths[-1]).numpy()


def gradients(tensors, x, measured):
    before = [tensor.copy() for tensor in tensors]
    memory = [np.zeros_like(tensor) for tensor in tensors]
    ops.node_mlp_update(tensors, memory, memory, DESCENT, x, measured)
    found = [torch.from_numpy(old - new) for old, new in zip(before, tensors, strict=True)]
    for tensor, old in zip(tensors, before, strict=True):
        tensor[:] = old
    return found


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Everything here is small."""


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("squared", [False, True], ids=["classes", "squared"])
@pytest.mark.parametrize("sides", [1, 2])
def test_agrees_with_the_reference(case, squared, sides):
    widths, samples, num, order = case
    directions = zo.Directions(2**40 + 3, 5, num, "hadamard", order=order)
    tensors, (x, y) = network(widths), batch(widths, samples, squared)
    measured = ops.node_mlp_measure(tensors, x, y, directions, 1e-3, sides)
    loss, left_out, expected = node_mlp_gradients(tensors, x, y, directions, 1e-3, sides)
    assert measured.loss == pytest.approx(loss, rel=1e-6, abs=1e-7)
    assert measured.left_out == left_out == 0
    for found, wanted in zip(gradients(tensors, x, measured), expected, strict=True):
        # Weights near 1 that the gradient is subtracted from have a rounding of their own.
        assert (found - wanted).abs().max() <= 3e-6 * wanted.abs().max() + 2e-7


def test_as_many_directions_as_nodes_give_backpropagation_s_gradient():
    widths = (64, 32, 10)
    tensors, (x, y) = network(widths), batch(widths, 50, False)
    weights = [torch.from_numpy(tensor).double().requires_grad_() for tensor in tensors]
    hidden = torch.relu(torch.from_numpy(x).double() @ weights[0].T + weights[1])
    loss = torch.nn.functional.cross_entropy(hidden @ weights[2].T + weights[3], torch.from_numpy(y))
    loss.backward()
    directions = zo.Directions(0, 0, 64, "hadamard")
    found = gradients(tensors, x, ops.node_mlp_measure(tensors, x, y, directions, 1e-4, 2))
    for ours, theirs in zip(found, weights, strict=True):
        assert (ours - theirs.grad).norm() <= 1e-3 * theirs.grad.norm()


def test_a_sample_without_finite_differences_counts_nothing():
    """Its targets are so far away that the slopes are beyond any sensible bound."""
    widths, directions = (64, 32, 10), zo.Directions(0, 0, 16, "hadamard")
    tensors, (x, y) = network(widths), batch(widths, 40, True)
    clean = ops.node_mlp_measure(tensors, x, y, directions, 1e-3, 1)
    y[[3, 37]] = 3e30
    measured = ops.node_mlp_measure(tensors, x, y, directions, 1e-3, 1)
    assert measured.left_out == 2
    kept = [n for n in range(40) if n not in (3, 37)]
    assert (measured.gradients[:, [3, 37]] == 0).all()
    assert np.array_equal(measured.gradients[:, kept], clean.gradients[:, kept])


def test_a_loss_that_is_no_number_shows():
    tensors, (x, y) = network((64, 32, 10)), batch((64, 32, 10), 5, False)
    x[2, 0] = np.nan
    measured = ops.node_mlp_measure(tensors, x, y, zo.Directions(0, 0, 8, "hadamard"), 1e-3, 1)
    assert np.isnan(measured.loss)
    assert measured.left_out == 1


def test_threads_do_not_change_a_bit():
    tensors, (x, y) = network((64, 32, 10)), batch((64, 32, 10), 131, False)
    directions = zo.Directions(0, 0, 64, "hadamard")

    def run():
        measured = ops.node_mlp_measure(tensors, x, y, directions, 1e-3, 1)
        return [measured.gradients[: len(measured.gradients), :131].copy(), *gradients(tensors, x, measured)]

    alone = run()
    torch.set_num_threads(2)
    for one, other in zip(alone, run(), strict=True):
        assert np.array_equal(one, other)


@kernel
def _transform(x):
    walsh_hadamard(x)


@pytest.mark.parametrize("order", [1, 2, 4, 8, 32, 128])
def test_the_transform_is_the_matrix(order):
    x = torch.randn(order, 32, generator=torch.Generator().manual_seed(0)).numpy()
    found = x.copy()
    _transform(found)
    numbers = np.arange(order)
    matrix = 1.0 - 2.0 * np.array([[bin(i & j).count("1") % 2 for j in numbers] for i in numbers])
    np.testing.assert_allclose(found, matrix @ x, rtol=1e-4, atol=1e-5)
    rows = entries(zo.Directions(0, 0, order, "hadamard"), numbers)
    assert sorted(map(tuple, rows)) == sorted(map(tuple, matrix))


@pytest.mark.parametrize(
    ("directions", "shapes", "reason"),
    [
        (zo.Directions(0, 0, 4), [(32, 64)], "the distribution is 'rademacher', not 'hadamard'"),
        (zo.Directions(0, 0, 4, "hadamard"), [(1024, 64)], "the model is not a small one on the CPU"),
        (zo.Directions(0, 0, 2048, "hadamard"), [(32, 64), (10, 32)], "the directions are too many"),
    ],
)
def test_what_is_left_to_the_general_way_is_said(directions, shapes, reason):
    weights = [torch.empty(shape) for shape in shapes]
    assert reason in (ops.why_no_node_step(torch.device("cpu"), directions, weights) or "")
