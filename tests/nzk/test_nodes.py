"""The noise of activation perturbation by closed forms against Monte Carlo in float64 that knows none of them."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from sign_draws import draw
from torch import nn

from zo_triton.nzk import gradient_error, kernel_error, linearize_nodes, ntk
from zo_triton.nzk.nodes import NodeModel
from zo_triton.overlap import mean_overlap, overlaps, pair_overlap

DRAWS = 1500


@pytest.fixture(autouse=True)
def small_tensors(one_thread):
    """The tensors here are small enough for one thread."""


class Twice(nn.Module):
    """One layer applied twice: nodes of two applications share its weight."""

    def __init__(self) -> None:
        super().__init__()
        self.layer, self.out = nn.Linear(3, 3), nn.Linear(3, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.out(torch.tanh(self.layer(torch.tanh(self.layer(x)))))


def network(name: str) -> tuple[nn.Module, torch.Tensor]:
    with torch.random.fork_rng(devices=()):
        torch.manual_seed(5)
        nets = {
            "linear": (nn.Linear(4, 3), (5, 4)),
            "two layers": (nn.Sequential(nn.Linear(4, 6), nn.ReLU(), nn.Linear(6, 3)), (5, 4)),
            "convolution": (
                nn.Sequential(nn.Conv2d(1, 2, 2), nn.ReLU(inplace=True), nn.Flatten(), nn.Linear(8, 2)),
                (4, 1, 3, 3),
            ),
            "twice": (Twice(), (3, 3)),
        }
        net, shape = nets[name]
        return net, torch.randn(shape)


NETWORKS = ("linear", "two layers", "convolution", "twice")
COUNTS = [(1, None), (8, None), (8, 8), (5, 8), (3, 16), (32, 32)]
COUNT_IDS = [f"{num}-{'independent' if order is None else order}" for num, order in COUNTS]


def linearized(name: str, layers=None) -> tuple[NodeModel, np.ndarray]:
    net, x = network(name)
    model = linearize_nodes(net, x, layers)
    return model, np.random.default_rng(3).standard_normal(len(model.outputs))


@pytest.mark.parametrize("name", NETWORKS)
def test_the_mean_kernel_is_the_ntk_and_the_gradient_autograds(name):
    net, x = network(name)
    model, slope = linearized(name)
    np.testing.assert_allclose(model.ntk, ntk(net, x), rtol=1e-9, atol=1e-12)
    wide = net.double()
    wide(x.double()).flatten().backward(torch.tensor(slope) / len(x))
    wanted = torch.cat([parameter.grad.flatten() for parameter in wide.parameters()]).numpy()
    np.testing.assert_allclose(model.gradient(slope), wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize(("num", "order"), COUNTS, ids=COUNT_IDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_gradients_error(name, num, order):
    """Mean and mean squared error of 1 500 estimates; D = 3, 9, 10 and 8, so that M = 8 makes buckets of some."""
    model, slope = linearized(name)
    generator, truth = np.random.default_rng(num), model.gradient(slope)
    found = []
    for _ in range(DRAWS):
        signs, _ = draw(generator, num, order, len(model.slopes), model.columns)
        found.append(model.estimate(slope, signs))
    check(np.array(found), truth, gradient_error(model, slope, num, order))


@pytest.mark.parametrize(("num", "order"), COUNTS, ids=COUNT_IDS)
@pytest.mark.parametrize("layer", ["0", "3"])
def test_the_gradients_error_where_the_other_layer_is_perturbed_itself(num, order, layer):
    """Nodes and weights in the same directions: each measures the other's share of the loss as noise."""
    model, slope = linearized("convolution", [layer])
    generator, truth = np.random.default_rng(num), model.gradient(slope)
    found = []
    for _ in range(DRAWS):
        signs, rest = draw(generator, num, order, len(model.slopes), model.columns, model.other_columns)
        found.append(model.estimate(slope, signs, rest))
    check(np.array(found), truth, gradient_error(model, slope, num, order))


def check(found: np.ndarray, truth: np.ndarray, wanted: float) -> None:
    """The estimates' mean is the truth and their mean squared error is the wanted one, both within 4 to 5 sigma."""
    errors = ((found - truth) ** 2).sum(1)
    if wanted == 0.0:
        assert errors.max() < 1e-20
        return
    assert abs(errors.mean() - wanted) < 4 * errors.std(ddof=1) / len(errors) ** 0.5 + 1e-12 * wanted
    deviation = found.std(0, ddof=1)
    noise = np.maximum(deviation / len(found) ** 0.5, 1e-12)
    assert np.abs((found.mean(0) - truth) / noise).max() < 5


@pytest.mark.parametrize(("num", "order"), COUNTS, ids=COUNT_IDS)
@pytest.mark.parametrize("name", NETWORKS)
def test_the_update_kernels_fluctuation(name, num, order):
    model, _ = linearized(name)
    generator, mean = np.random.default_rng(num), model.ntk
    errors = []
    for _ in range(500):
        signs, _ = draw(generator, num, order, len(model.slopes), model.columns)
        errors.append(((model.kernel(signs) - mean) ** 2).sum() / (mean**2).sum())
    wanted, found = kernel_error(model, num, order), np.array(errors)
    if wanted == 0.0:
        assert found.max() < 1e-20
        return
    assert abs(found.mean() - wanted) < 4 * found.std(ddof=1) / len(found) ** 0.5 + 1e-12 * wanted


@pytest.mark.parametrize("layers", [None, ["0"], ["3"]], ids=["all", "convolution", "linear"])
def test_a_realised_kernel_takes_the_step_of_the_realised_gradient(layers):
    model, slope = linearized("convolution", layers)
    generator = np.random.default_rng(0)
    signs, rest = draw(generator, 5, 8, len(model.slopes), model.columns, model.other_columns)
    rest = rest if rest.size else None
    rows = model.jacobian.reshape(len(model.outputs), -1)
    walked = rows @ model.estimate(slope, signs, rest)
    np.testing.assert_allclose(model.kernel(signs, rest) @ slope / len(model.slopes), walked, rtol=1e-10)


def test_orthogonal_signs_of_enough_directions_are_backpropagation():
    for name, nodes in (("linear", 3), ("two layers", 9), ("convolution", 10), ("twice", 8)):
        model, slope = linearized(name)
        assert model.slopes.shape[2] == nodes
        order = 1 << (nodes - 1).bit_length()
        assert gradient_error(model, slope, order, order) == kernel_error(model, order, order) == 0.0
        assert gradient_error(model, slope, order // 2, order // 2) > 0


def test_one_fully_connected_layer_by_hand():
    """Every node disturbs every other; with both rows of M = 2 only the first and the third do."""
    model, slope = linearized("linear")
    squares, inputs = slope.reshape(5, 3) ** 2, (model.inputs[:, 0] ** 2).sum(1)
    assert gradient_error(model, slope, 7) == pytest.approx(2 / 7 * inputs @ squares.sum(1) / 25)
    assert gradient_error(model, slope, 2, 2) == pytest.approx(inputs @ (squares[:, 0] + squares[:, 2]) / 25)


def test_overlaps_are_those_of_signs():
    generator, columns = np.random.default_rng(1), np.array([0, 1, 2, 7, 9, 8, 15])
    for num, order in ((3, None), (3, 4), (4, 4), (5, 8), (6, 16)):
        found = np.empty((4000, 7, 7))
        for place in range(len(found)):
            signs = draw(generator, num, order, 1, columns)[0][:, 0]
            found[place] = ((signs.T @ signs) / num) ** 2
        wanted = overlaps(columns, num, order) + np.eye(7)
        noise = found.std(0, ddof=1) / len(found) ** 0.5
        assert np.abs(found.mean(0) - wanted).max() <= 5 * noise.max() + 1e-12
        exact = noise < 1e-9
        np.testing.assert_allclose(found.mean(0)[exact], wanted[exact])


@pytest.mark.parametrize(("num", "order"), [(3, None), (3, 4), (4, 4), (16, 16), (9, 16), (1, 1), (1, 2)])
@pytest.mark.parametrize("elements", [1, 2, 16, 37])
def test_the_mean_overlap_is_that_of_successive_columns(elements, num, order):
    pairs = overlaps(np.arange(elements) + 5, num, order)
    mean = pairs.sum() / max(1, elements * (elements - 1))
    assert mean_overlap(elements, num, order) == pytest.approx(mean, abs=1e-15)


BAD = {
    "no direction": (lambda: pair_overlap(0), "num_directions must be at least 1, got 0"),
    "order": (lambda: pair_overlap(5, 6), "at least num_directions = 5, got 6; the smallest is 8"),
    "few rows": (lambda: pair_overlap(5, 4), "at least num_directions = 5, got 4"),
    "no element": (lambda: mean_overlap(0, 1), "elements must be at least 1, got 0"),
    "layer": (lambda: linearize_nodes(nn.Linear(1, 1), torch.ones(1, 1), ["x"]), r"of \[''\], got \['x'\]"),
    "no layer": (lambda: linearize_nodes(nn.ReLU(), torch.ones(1, 1)), r"of \[\], got \[\]"),
    "no sample": (lambda: linearize_nodes(nn.Linear(1, 1), torch.ones(0, 1)), "x holds no sample"),
    "others": (lambda: kernel_error(linearized("convolution", ["0"])[0], 1), "this one has 18"),
    "signs": (lambda: linearized("linear")[0].kernel(np.ones((1, 5, 2))), r"must be \[K, 5, 3\]"),
    "other signs": (
        lambda: linearized("convolution", ["0"])[0].kernel(np.ones((1, 4, 8))),
        r"other_signs \[K, 18\] belong to 18",
    ),
    "inputs": (lambda: NodeModel(np.ones((2, 1, 3)), np.ones((2, 2, 4)), np.ones(2)), r"must be \[2, 3, d\]"),
    "columns": (
        lambda: NodeModel(np.ones((2, 1, 3)), np.ones((2, 3, 4)), np.ones(2), columns=np.arange(2)),
        "3 nodes and 0 other parameters, but 2 columns",
    ),
    "others' shape": (
        lambda: NodeModel(np.ones((2, 1, 3)), np.ones((2, 3, 4)), np.ones(2), np.ones((1, 1, 1))),
        r"others must be \[2, 1, d_w\]",
    ),
}


@pytest.mark.parametrize(("call", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_a_shared_parameter_is_refused():
    first, second = nn.Linear(2, 2), nn.Linear(2, 2)
    second.weight = first.weight
    with pytest.raises(ValueError, match="two modules share a parameter"):
        linearize_nodes(nn.Sequential(first, second), torch.ones(1, 2))


def test_autograd_of_a_nonlinear_loss_is_the_estimate_in_the_mean_of_all_rows():
    """K = M ≥ D through the loss itself, not the linearisation: cross-entropy's gradient of a small network."""
    net, x = network("two layers")
    labels = torch.tensor([0, 1, 2, 1, 0])
    model = linearize_nodes(net, x)
    logits = torch.tensor(model.outputs).reshape(5, 3).requires_grad_()
    F.cross_entropy(logits, labels, reduction="sum").backward()
    signs, _ = draw(np.random.default_rng(2), 16, 16, 5, model.columns)
    wide = net.double()
    F.cross_entropy(wide(x.double()), labels).backward()
    wanted = torch.cat([parameter.grad.flatten() for parameter in wide.parameters()])
    np.testing.assert_allclose(model.estimate(logits.grad.flatten(), signs), wanted, atol=1e-12)
