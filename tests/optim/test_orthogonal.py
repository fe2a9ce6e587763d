"""Steps along orthogonal signs: forward pass, Gram matrix and update share their columns, or nothing here holds."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton import hadamard, ops
from zo_triton.directions import matrix_shape, num_columns, padded_columns
from zo_triton.optim import AGGREGATORS, ZOSGD

SHAPES = [(9, 70), (33,), (40, 1)]


def smallest_order(params):
    """Of a matrix in which no two weights share a column."""
    columns = sum(num_columns(param.shape) for param in params)
    return 1 << (columns - 1).bit_length()


def small_model(kind):
    generator = torch.Generator().manual_seed(5)
    layers = {
        "matrix": [nn.Linear(11, 2, bias=False)],
        "linear": [nn.Linear(11, 3)],
        "mlp": [nn.Linear(7, 3), nn.Tanh(), nn.Linear(3, 2)],
    }[kind]
    model = nn.Sequential(*layers)
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(0.5 * torch.randn(param.shape, generator=generator))
    x = torch.randn(6, layers[0].in_features, generator=generator)
    return model, lambda: F.cross_entropy(model(x), torch.arange(6) % layers[-1].out_features)


def backprop(model, loss):
    return [grad.double() for grad in torch.autograd.grad(loss(), list(model.parameters()))]


def distance(found, wanted):
    squares = sum((a.detach().double() - b).square().sum() for a, b in zip(found, wanted, strict=True))
    return float((squares / sum(b.square().sum() for b in wanted)).sqrt())


@pytest.mark.parametrize(
    ("kind", "engine"),
    # The interpreter walks the network's 256 directions for minutes, and one matrix's with the same kernels.
    [("linear", "cpu"), ("linear", "reference"), ("matrix", "triton"), ("mlp", "cpu"), ("mlp", "reference")],
)
def test_all_rows_of_the_matrix_give_the_gradient(kind, engine):
    model, loss = small_model(kind)
    params, wanted = list(model.parameters()), backprop(model, loss)
    directions = zo.Directions(3, 9, smallest_order(params), "hadamard")
    with zo.use_engine(engine):
        zo.estimate_gradient(loss, params, directions, eps=1e-4, sides=2)
    assert distance([param.grad for param in params], wanted) <= 1e-4


def test_least_squares_gives_it_as_well():
    model, loss = small_model("mlp")
    params, wanted = list(model.parameters()), backprop(model, loss)
    directions = zo.Directions(3, 9, smallest_order(params), "hadamard")
    zo.estimate_gradient(loss, params, directions, eps=1e-4, sides=2, aggregator="align")
    assert distance([param.grad for param in params], wanted) <= 1e-3


@pytest.mark.parametrize(
    ("settings", "chunk"),
    [({}, None), ({}, 7), ({"momentum": 0.9, "weight_decay": 0.1}, None)],
    ids=["plain", "chunks", "momentum"],
)
def test_a_step_is_backprops(settings, chunk):
    (model, loss), (twin, twin_loss) = small_model("mlp"), small_model("mlp")
    order = smallest_order(list(model.parameters()))
    opt = ZOSGD(
        model.parameters(),
        lr=0.1,
        directions=order,
        distribution="hadamard",
        sides=2,
        chunk=chunk,
        **settings,
    )
    exact = torch.optim.SGD(twin.parameters(), lr=0.1, **settings)
    for _ in range(3):
        exact.zero_grad()
        twin_loss().backward()
        exact.step()
        opt.step(loss)
    assert distance([*model.parameters()], [param.detach().double() for param in twin.parameters()]) <= 1e-5


@pytest.mark.parametrize("aggregator", AGGREGATORS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("low_precision", ["master", "stochastic"])
def test_every_aggregator_walks_along_what_was_measured(aggregator, dtype, low_precision):
    weights = [torch.zeros(shape, dtype=dtype) for shape in SHAPES]
    target = [torch.linspace(-1, 1, weight.numel()).view(weight.shape) for weight in weights]
    settings = {"directions": 16, "distribution": "hadamard", "aggregator": aggregator, "eps": 1e-3}
    opt = ZOSGD(weights, lr=1e-3, low_precision=low_precision, **settings)

    def loss():
        return sum(
            (weight.float() - goal).square().sum() for weight, goal in zip(weights, target, strict=True)
        )

    first = opt.step(loss)
    directions, coefficients = opt.last.directions, opt.last.coefficients(weights, aggregator)
    assert directions == zo.Directions(0, 0, 16, "hadamard").over(SHAPES)
    moved = [torch.zeros(shape) for shape in SHAPES]
    ops.accumulate(moved, range(3), -1e-3 * coefficients, directions)
    for weight, move in zip(weights, moved, strict=True):
        spacing = 0 if dtype == torch.float32 else 2.0**-7
        assert ((weight.float() - move).abs() <= spacing * move.abs() + 1e-6).all()
    for _ in range(5):
        last = opt.step(loss)
    assert last < first


def test_a_reloaded_run_goes_on_with_the_same_bits():
    ends = []
    for stop in (None, 2):
        model, loss = small_model("mlp")
        opt = ZOSGD(model.parameters(), lr=0.05, directions=12, distribution="hadamard", momentum=0.9)
        for step in range(4):
            if step == stop:
                state = opt.state_dict()
                opt = ZOSGD(model.parameters(), lr=1.0)
                opt.load_state_dict(state)
            opt.step(loss)
        ends.append([param.detach().clone() for param in model.parameters()])
    assert all(map(torch.equal, *ends))


def test_a_black_box_walks_the_same_directions():
    found = []
    for box in (False, True):
        model, _ = small_model("mlp")
        params = [param.detach().double() for param in model.parameters()]

        def closure(params=params):
            return sum((param * param.numel()).sin().sum() for param in params)

        opt = ZOSGD(params, lr=0.05, directions=12, distribution="hadamard")
        opt.measure(zo.BlackBox(closure) if box else closure)
        found.append(opt._measured.differences.double())
    torch.testing.assert_close(found[0], found[1], rtol=1e-3, atol=1e-6)


@pytest.mark.parametrize(
    ("num", "order"), [(16, 64), (64, 64), (256, 4096)], ids=["some", "all of a small", "some of a large"]
)
def test_the_squared_error_is_that_of_the_formula(num, order):
    """Columns that weights share cost their whole slopes; any others (M - K)/(K(M - 1)) of them."""
    draws, generator = 200, torch.Generator().manual_seed(1)
    gradient = torch.cat([torch.randn(shape, generator=generator).flatten() for shape in SHAPES]).double()
    errors = np.empty(draws)
    for step in range(draws):
        directions = zo.Directions(4, step, num, "hadamard", order=order).over(SHAPES)
        parts = [zo.sample(directions, place, shape).flatten(1) for place, shape in enumerate(SHAPES)]
        z = torch.cat(parts, 1).double()
        estimate = (z @ gradient) @ z / num
        errors[step] = float((estimate - gradient).square().sum() / gradient.square().sum())
    indices = []
    for offset, shape in zip(directions.offsets, SHAPES, strict=True):
        rows, cols = matrix_shape(shape)
        indices.append(offset + padded_columns(cols) * np.arange(rows)[:, None] + np.arange(cols))
    columns = hadamard.folded(order, np.concatenate([index.ravel() for index in indices])) % order
    share = gradient.square().numpy() / float(gradient.square().sum())
    sharing = np.bincount(columns, minlength=order)[columns]
    other = (order - num) / (num * (order - 1))
    expected = (share * (sharing - 1 + other * (columns.size - sharing))).sum()
    assert abs(errors.mean() - expected) <= 5 * errors.std() / draws**0.5
    assert expected <= 1.05 * (columns.size - 1) / num  # what independent signs have
