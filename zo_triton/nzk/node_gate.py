"""The gate of activation perturbation: what the library's steps did, against the kernels that they realised.

A model with squared loss, (1/2N)·Σ_n|f_n - y_n|², is trained through :func:`zo_triton.estimate_gradient` with
``perturb="activations"``, and beside it in float64 by f ← f - (η/N)·K̂·(f - y), K̂ made of the very signs of each
step (:class:`zo_triton.nzk.NodeModel`). For a linear model K̂'s features never move and the two agree to rounding at
any ε. For a network K̂ is made anew in each step, of a float64 copy that walks the same way; what then remains is
the bias of the differences, of order ε² with central ones. No speed is worth reporting where this fails.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy

import numpy as np
import torch
from torch import Tensor, nn

from zo_triton import ops
from zo_triton.directions import Directions
from zo_triton.nzk.arrays import check_choice, check_count
from zo_triton.nzk.gate import SHARE_OF_LIMIT, CheckResult
from zo_triton.nzk.node_linearize import LAYERS, linearize_nodes
from zo_triton.nzk.node_stability import max_stable_lr_nodes
from zo_triton.nzk.nodes import NodeModel
from zo_triton.optim.estimate import estimate_gradient

SAMPLES, INPUTS, HIDDEN, OUTPUTS = 12, 7, 5, 3
"""The built-in problem; the network has 8 nodes a sample and a gain of 5 parameters that no layer owns."""

MODELS = ("linear", "network")


class _Gain(nn.Module):
    """Multiplies each feature by a trained number."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(size, dtype=torch.float32, device="cpu"))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.gain


def check_nodes(
    steps: int = 100,
    num_directions: int = 4,
    model: str = "linear",
    distribution: str = "hadamard",
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    seed: int = 0,
    lr: float | None = None,
    eps: float = 1e-3,
    tolerance: float = 1e-5,
) -> CheckResult:
    """Trains with noise on the layers' outputs and compares every step with the recursion, as :func:`check` does.

    Both run freely from the same start: errors add up and are not corrected on the way.

    Args:
        steps: How many.
        num_directions: K.
        model: "linear", or "network": two layers with tanh and a trained gain between, which is perturbed itself.
        distribution: "hadamard" or "rademacher".
        compute_dtype: Of the differences. bfloat16 rounds each slope to about 1e-2: allow it by ``tolerance``.
        device: Where the model lives.
        seed: Of the directions.
        lr: Learning rate; None for half of the largest stable one, of a network for a tenth of gradient descent's.
        eps: Smoothing radius; central differences are exact at any for the linear model.
        tolerance: The largest relative error that passes.

    Returns:
        The result; it does not raise where the check fails.

    Raises:
        TypeError: A count is no integer.
        ValueError: A setting is out of range.

    Example:
        >>> from zo_triton.nzk import check_nodes
        >>> check_nodes(steps=10).passed
        True
    """
    check_count(steps, "steps")
    check_choice(model, "model", MODELS)
    if not tolerance > 0:
        raise ValueError(f"tolerance must be positive, got {tolerance}.")
    net, x, y = _problem(model)
    directions = Directions(seed, 0, num_directions, distribution)
    if lr is None:
        lr = _learning_rate(linearize_nodes(net, x), model, directions)
    exact = _Recursion(net, x, y.double().numpy().reshape(-1), model == "linear", lr)
    net, x, y = net.to(device), x.to(device), y.to(device)
    walked, wanted = [_outputs(net, x)], [exact.outputs]
    for step in range(steps):
        named = Directions(seed, step, num_directions, distribution)
        exact.step(named, compute_dtype, device)
        estimate_gradient(
            lambda: 0.5 * (net(x) - y).square().sum(1),
            net.parameters(), named, eps, sides=2, compute_dtype=compute_dtype, perturb="activations",
        )  # fmt: skip
        with torch.no_grad():
            for parameter in net.parameters():
                assert parameter.grad is not None
                parameter.sub_(parameter.grad, alpha=lr)
        walked.append(_outputs(net, x))
        wanted.append(exact.outputs)
    found, truth = np.stack(walked), np.stack(wanted)
    scale = np.maximum(np.linalg.norm(truth, axis=1), np.linalg.norm(truth - exact.targets, axis=1))
    errors = np.linalg.norm(found - truth, axis=1) / scale
    worst = int(errors.argmax())
    return CheckResult(
        passed=bool(errors.max() <= tolerance),
        worst=float(errors.max()),
        step=worst,
        errors=errors,
        losses=((found - exact.targets) ** 2).sum(1) / (2 * SAMPLES),
        tolerance=tolerance,
        lr=lr,
    )


def realised_signs(
    directions: Directions,
    positions: list[int],
    samples: int,
    shapes: list[tuple[int, ...]],
    alone: list[int],
    compute_dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
) -> tuple[np.ndarray, np.ndarray | None]:
    """The signs that a step walks: ξ [K, N, D] of nodes, and [K, d_w] of parameters perturbed themselves.

    Args:
        directions: Names the K directions, without offsets.
        positions: Nodes a sample of each application, in the order of the forward pass.
        samples: N.
        shapes: Of all trained parameters.
        alone: Ids of those that are perturbed themselves; None of the signs is theirs where there are none.
        compute_dtype: That of the step.
        device: Where to draw.
    """
    named = directions.over([*(shape if i in alone else (0,) for i, shape in enumerate(shapes)), (0,)])
    first = named.offset(len(shapes)) if named.order is not None else 0
    parts = []
    for application, count in enumerate(positions):
        node = ops.Node(application, first, samples)
        parts.append(ops.node_sample(named, node, count, device).double().cpu().numpy())
        first += count
    rest = [
        ops.sample(named, i, shapes[i], compute_dtype, device)
        .reshape(directions.num, -1)
        .double()
        .cpu()
        .numpy()
        for i in alone
    ]
    return np.concatenate(parts, axis=2), np.concatenate(rest, axis=1) if rest else None


class _Recursion:
    """The walk in float64: in function space while the features stay, else with a copy of the network."""

    def __init__(self, net: nn.Module, x: Tensor, targets: np.ndarray, linear: bool, lr: float) -> None:
        self.net, self.x, self.linear, self.lr = deepcopy(net).double(), x.double(), linear, lr
        self.targets, self.outputs = targets, _outputs(net, x)
        layers = [module for module in self.net.modules() if isinstance(module, LAYERS)]
        owned = [parameter for layer in layers for parameter in layer.parameters()]
        every = list(self.net.parameters())
        self._alone = [place for place, one in enumerate(every) if all(one is not its for its in owned)]
        self._order = [*owned, *(every[place] for place in self._alone)]
        self._positions = [layer.weight.shape[0] for layer in layers]
        self._shapes = [tuple(parameter.shape) for parameter in every]
        self._model = linearize_nodes(self.net, self.x)

    def step(self, directions: Directions, compute_dtype: torch.dtype, device: torch.device | str) -> None:
        """f ← f - (η/N)·K̂·(f - y), or the same step of the weights and then what f has become."""
        signs, rest = realised_signs(
            directions, self._positions, len(self.x), self._shapes, self._alone, compute_dtype, device
        )
        residual = self.outputs - self.targets
        if self.linear:
            self.outputs = self.outputs - self.lr / len(self.x) * self._model.kernel(signs, rest) @ residual
            return
        moved = self.lr * torch.from_numpy(self._model.estimate(residual, signs, rest))
        with torch.no_grad():
            for parameter, part in zip(
                self._order, moved.split([p.numel() for p in self._order]), strict=True
            ):
                parameter.sub_(part.view_as(parameter))
        self._model = linearize_nodes(self.net, self.x)
        self.outputs = self._model.outputs


def _problem(model: str) -> tuple[nn.Module, Tensor, Tensor]:
    """A small regression, the same on every machine: the model, its inputs and noisy targets of a teacher."""
    generator = np.random.default_rng(20261)
    make: dict[str, Callable[[], nn.Module]] = {
        "linear": lambda: nn.Linear(INPUTS, OUTPUTS),
        "network": lambda: nn.Sequential(
            nn.Linear(INPUTS, HIDDEN), nn.Tanh(), _Gain(HIDDEN), nn.Linear(HIDDEN, OUTPUTS)
        ),
    }
    net = make[model]()
    with torch.no_grad():
        for parameter in net.parameters():
            values = generator.standard_normal(parameter.shape) / parameter.shape[-1] ** 0.5
            parameter.copy_(torch.tensor(values, dtype=torch.float32, device="cpu"))
    x = generator.standard_normal((SAMPLES, INPUTS))
    y = x @ generator.standard_normal((INPUTS, OUTPUTS)) / INPUTS**0.5
    y += 0.05 * generator.standard_normal(y.shape)
    inputs, answers = (torch.tensor(each, dtype=torch.float32, device="cpu") for each in (x, y))
    return net, inputs, answers


def _learning_rate(line: NodeModel, model: str, directions: Directions) -> float:
    if model == "linear":
        return SHARE_OF_LIMIT * max_stable_lr_nodes(line, directions.num, directions.order)
    return 0.2 * SAMPLES / float(np.linalg.eigvalsh(line.ntk)[-1])


@torch.no_grad()
def _outputs(net: nn.Module, x: Tensor) -> np.ndarray:
    return deepcopy(net).double().cpu()(x.double().cpu()).flatten().numpy()
