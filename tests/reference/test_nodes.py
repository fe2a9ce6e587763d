"""The signs on layers' outputs, against the definition and against the sums that they are made for."""

import pytest
import torch

from zo_triton import ops
from zo_triton.directions import Directions
from zo_triton.ops import Node

ORDERS = {"smallest": None, "larger": 64}


@pytest.fixture(autouse=True)
def reference():
    with ops.use_engine("reference"):
        yield


def test_signs_of_as_many_nodes_as_rows_are_orthogonal_for_each_sample():
    directions = Directions(7, 3, 32, "hadamard")
    signs = ops.node_sample(directions, Node(2, 5, 3), 32).double()
    for sample in range(3):
        gram = signs[:, sample] @ signs[:, sample].T
        assert torch.equal(gram, 32 * torch.eye(32, dtype=torch.float64))


@pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS)
def test_a_chunk_has_the_signs_of_the_whole(order):
    directions = Directions(7, 3, 12, "hadamard", order=order)
    whole = ops.node_sample(directions, Node(0, 0, 2), 40)
    parts = [ops.node_sample(directions[a:b], Node(0, 0, 2), 40) for a, b in ((0, 5), (5, 12))]
    assert torch.equal(torch.cat(parts), whole)
    assert set(whole.unique().tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize("distribution", ops.NODE_DISTRIBUTIONS)
def test_samples_and_applications_have_signs_of_their_own(distribution):
    directions = Directions(7, 3, 4, distribution)
    some, other = (ops.node_sample(directions, Node(i, 0, 2), 64) for i in (0, 1))
    for a, b in ((some, other), (some[:, 0], some[:, 1])):
        agreement = (a * b).mean().abs()
        assert agreement < 0.5


def test_nodes_and_weights_of_one_number_have_signs_of_their_own():
    directions = Directions(7, 3, 4, "hadamard")
    weights = ops.sample(directions, 0, (8, 64))
    assert (weights * ops.node_sample(directions, Node(0, 0, 8), 64)).mean().abs() < 0.3


@pytest.mark.parametrize("distribution", ops.NODE_DISTRIBUTIONS)
def test_the_gradient_is_the_weighted_sum_of_the_signs(distribution):
    directions, node = Directions(1, 2, 6, distribution), Node(1, 3, 4)
    signs = ops.node_sample(directions, node, 10)
    for rows in (4, 8):  # a coefficient a sample, or one for each of two tokens
        coefficients = torch.randn(6, rows, generator=torch.Generator().manual_seed(0))
        found = ops.node_gradient(coefficients, directions, node, 10)
        expected = (coefficients[:, :, None] * signs.view(6, rows, -1)).sum(0)
        torch.testing.assert_close(found, expected)


def test_with_as_many_directions_as_nodes_the_gradient_comes_back():
    directions, node = Directions(1, 2, 16, "hadamard"), Node(0, 0, 3)
    gradient = torch.randn(3, 16, generator=torch.Generator().manual_seed(0))
    slopes = (ops.node_sample(directions, node, 16) * gradient).sum(2)
    found = ops.node_gradient(slopes / 16, directions, node, 16)
    torch.testing.assert_close(found, gradient)
