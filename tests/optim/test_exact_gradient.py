"""With a row of the Hadamard matrix for each node the estimate is the gradient, on networks of the usual kinds."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo

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


def relative_error(net, x, num, eps, sides):
    """|∇̂L - ∇L|/|∇L|."""
    params = list(net.parameters())
    y = torch.arange(len(x)) % 10
    wanted = torch.autograd.grad(F.cross_entropy(net(x), y), params)
    directions = zo.Directions(1, 0, num, "hadamard")

    def losses():
        return F.cross_entropy(net(x), y, reduction="none")

    zo.estimate_gradient(losses, params, directions, eps, sides, perturb="activations")
    found, wanted = (
        torch.cat([each.flatten() for each in some]).double()
        for some in ([param.grad for param in params], wanted)
    )
    return float((found - wanted).norm() / wanted.norm())


@pytest.mark.parametrize(("eps", "sides", "most"), [(1e-5, 1, 1e-4), (1e-3, 2, 1e-5)])
@pytest.mark.parametrize("name", NETWORKS)
def test_as_many_directions_as_nodes_give_the_gradient(name, eps, sides, most):
    layers, shape, num = NETWORKS[name]
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(0)
        net, x = nn.Sequential(*layers()), torch.randn(shape)
    assert relative_error(net, x, num, eps, sides) < most
