"""Tensors on memory that NumPy owns: an environment writes its next observation where the last one was."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, relative_error

import zo_triton as zo
from zo_triton.difference.memories import kept

GENERATOR = torch.Generator().manual_seed(0)
FIRST = torch.rand(2, 3, 4, 4, generator=GENERATOR).numpy()
LAYER = torch.randn(5, 4, generator=GENERATOR)
KERNEL = torch.randn(4, 3, 3, 3, generator=GENERATOR)
DIRECTIONS = zo.Directions(seed=1, step=0, num=4)
EPS = 1e-2
STEPS = 3


def layers(weight, seen):
    return F.linear(seen, weight)


def activations(weight, seen):
    return F.gelu(F.linear(seen, weight))


def products(weight, seen):
    return (weight.sum(0) * seen).tanh() * seen.sin()


def convolutions(weight, seen):
    return F.conv2d(seen, weight, padding=1).relu()


def as_a_matrix(weight, seen):
    return F.linear(weight.tanh(), seen[0, 0])


POLICIES = {
    "layers": (layers, LAYER),
    "activations": (activations, LAYER),
    "products": (products, LAYER),
    "convolutions": (convolutions, KERNEL),
    "a matrix": (as_a_matrix, LAYER),
}
WAYS = {
    "from_numpy": torch.from_numpy,
    "as_tensor": torch.as_tensor,
    "from_dlpack": torch.from_dlpack,
    "frombuffer": lambda array: torch.frombuffer(array, dtype=torch.float32).view(array.shape),
}


def episode(policy, weight, array, observe):
    """Every result waits until the end, and the array is then another."""
    np.copyto(array, FIRST)
    results = []
    for step in range(STEPS):
        results.append(policy(weight, observe(array).to(weight.dtype)))
        array *= -0.5
        array += step
    return sum(each.square().sum() for each in results)


@pytest.mark.parametrize("made", ["inside", "outside"])
@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", POLICIES)
def test_what_was_seen_before_the_array_changed_counts(name, way, chunk, made):
    policy, weight = POLICIES[name]
    array = FIRST.copy()
    tensor = WAYS[way](array)
    observe = WAYS[way] if made == "inside" else lambda _: tensor

    def function(w):
        return episode(policy, w, array, observe)

    value, found = zo.differences(lambda: function(weight), [weight], DIRECTIONS, EPS, chunk=chunk)
    torch.testing.assert_close(value, function(weight))
    assert relative_error(found, expected_differences(function, [weight], DIRECTIONS, EPS)) < 1e-5


def test_a_slice_costs_no_copy_of_its_whole_array():
    array = np.zeros((1000, 4), dtype=np.float32)
    batch = torch.from_numpy(array)[8:10]
    assert kept(batch).untyped_storage().nbytes() == batch.nbytes


def test_an_input_on_an_array_was_kept_for_the_update():
    layer = torch.nn.Linear(4, 3)
    array = FIRST[0, 0].copy()
    directions = zo.Directions(seed=0, step=0, num=4, distribution="hadamard")

    def gradient(overwrites):
        def losses():
            np.copyto(array, FIRST[0, 0])
            out = layer(torch.from_numpy(array))
            if overwrites:
                array[:] = 7
            return out.square().sum(-1)

        zo.estimate_gradient(losses, layer.parameters(), directions, perturb="activations")
        return layer.weight.grad.clone()

    torch.testing.assert_close(gradient(True), gradient(False))


def test_an_input_that_an_engine_has_looked_at_is_not_copied_at_every_step():
    batch, layer = torch.randn(3, 4), torch.nn.Linear(4, 3)
    for _ in range(2):
        zo.differences(lambda: layer(batch).sum(), layer.parameters(), DIRECTIONS, EPS)
    batch.numpy()
    assert kept(batch).data_ptr() == batch.data_ptr()
    mapped = torch.from_numpy(np.zeros((3, 4), dtype=np.float32))
    assert kept(mapped).data_ptr() != mapped.data_ptr()
