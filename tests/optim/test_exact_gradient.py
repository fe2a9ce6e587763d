"""With a row of the Hadamard matrix for each node the estimate is the gradient, on networks of the usual kinds."""

from copy import deepcopy
from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton import ops

# Smooth ones: where a sample comes within ε of a kink, its finite difference is another than its slope.
NETWORKS = {
    # name: layers, input shape, K = M
    "784-128-128-10": (
        lambda: [nn.Linear(784, 128), nn.GELU(), nn.Linear(128, 128), nn.GELU(), nn.Linear(128, 10)],
        (16, 784), 512,
    ),
    "LeNet-5": (
        lambda: [
            nn.Conv2d(1, 6, 5, padding=2), nn.Tanh(), nn.AvgPool2d(2), nn.Conv2d(6, 16, 5), nn.Tanh(),
            nn.AvgPool2d(2), nn.Flatten(), nn.Linear(400, 120), nn.Tanh(), nn.Linear(120, 84), nn.Tanh(),
            nn.Linear(84, 10),
        ],
        (2, 1, 28, 28), 8192,
    ),
    "a network of strided convolutions": (
        lambda: [
            nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.Tanh(), nn.Conv2d(4, 8, 3, stride=2, padding=1), nn.Tanh(),
            nn.Flatten(), nn.Linear(392, 10),
        ],
        (8, 1, 28, 28), 2048,
    ),
}  # fmt: skip


def targets(x):
    return torch.arange(len(x)) % 10


def flat(tensors):
    return torch.cat([each.flatten() for each in tensors]).double()


def by_backpropagation(net, x):
    return flat(torch.autograd.grad(F.cross_entropy(net(x), targets(x)), list(net.parameters())))


def by_differences(net, x, num, eps, sides):
    """The library's estimate."""
    params = list(net.parameters())
    directions = zo.Directions(1, 0, num, "hadamard")

    def losses():
        return F.cross_entropy(net(x), targets(x), reduction="none")

    zo.estimate_gradient(losses, params, directions, eps, sides, perturb="activations")
    return flat(param.grad for param in params)


def by_subtraction(net, x, num, eps):
    """The same signs in float64: each sample's loss with noise on the layers' outputs, minus that without."""
    net, x = deepcopy(net).double(), x.double()
    directions, column, signs = zo.Directions(1, 0, num, "hadamard"), 0, []
    with torch.no_grad():
        still = moved = x
        for layer in net:
            still, moved = layer(still), layer(moved)
            if isinstance(layer, nn.Linear):
                node = ops.Node(len(signs), column, len(x))
                signs.append(ops.node_sample(directions, node, layer.out_features, x.device).double())
                moved, column = moved + eps * signs[-1], column + layer.out_features
        logits = moved.flatten(0, 1)
        losses = F.cross_entropy(logits, targets(x).repeat(num), reduction="none").view(num, len(x))
        slopes = (losses - F.cross_entropy(still, targets(x), reduction="none")) / eps
    gradients, given = [], x
    for layer in net:
        if isinstance(layer, nn.Linear):
            of_nodes = (slopes.unsqueeze(2) * signs.pop(0)).mean(0) / len(x)
            gradients += [of_nodes.T @ given, of_nodes.sum(0)]
        given = layer(given).detach()
    return flat(gradients)


def relative_error(found, wanted):
    """|∇̂L - ∇L|/|∇L|."""
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("eps", "sides", "most"), [(1e-5, 1, 1e-4), (1e-3, 2, 1e-5)])
@pytest.mark.parametrize("name", NETWORKS)
def test_as_many_directions_as_nodes_give_the_gradient(name, eps, sides, most):
    layers, shape, num = NETWORKS[name]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net, x = nn.Sequential(*layers()), torch.randn(shape)
    assert relative_error(by_differences(net, x, num, eps, sides), by_backpropagation(net, x)) < most


@pytest.mark.parametrize(
    ("widths", "samples", "num"), [((64, 32, 10), 64, 64), ((784, 128, 128, 10), 32, 512)]
)
def test_at_a_kink_the_finite_difference_itself_is_no_slope(widths, samples, num):
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        layers = [part for sizes in pairwise(widths) for part in (nn.Linear(*sizes), nn.ReLU())]
        net, x = nn.Sequential(*layers[:-1]), torch.randn(samples, widths[0])
    with torch.no_grad():
        net[0].bias -= net[0](x)[0] - 5e-5  # one sample is half of ε from its kinks
    slope = by_backpropagation(net, x)
    # In float64 without any of the library's formulas the error is the same, but for a's own rounding beside ε.
    exact = by_subtraction(net, x, num, 1e-4)
    error = relative_error(exact, slope)
    assert error > 1e-2
    assert relative_error(by_differences(net, x, num, 1e-4, 1), exact) < 1e-2 * error
    # Differences do not cancel, so that in float32 too a smaller radius helps.
    assert relative_error(by_differences(net, x, num, 1e-6, 1), slope) < 1e-5
