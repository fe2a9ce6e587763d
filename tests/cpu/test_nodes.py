"""Layers with signs on their outputs, and the sums over directions, against the float64 reference."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F

import zo_triton as zo
from zo_triton import cpu, ops, reference
from zo_triton.cpu.node_signs import ACTIVATED
from zo_triton.cpu.nodes import PIECE

ACTIVATIONS = ("none", "relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu")
BEYOND_32_BITS = 2**33 + 45


@dataclass
class Case:
    """Nodes of an application and their directions; the reason stands in the id."""

    samples: int = 6
    positions: int = 77
    num: int = 5
    sides: int = 1
    distribution: str = "hadamard"
    order: int | None = None
    first: int = 0
    dtype: torch.dtype = torch.float32
    activation: str = "none"
    eps: float = 1e-2

    @property
    def directions(self):
        order = self.order if self.distribution == "hadamard" else None
        return zo.Directions(2**63 + 3, 11, self.num + 3, self.distribution, order=order)[3:]

    @property
    def place(self):
        return self.directions, 4, self.first

    @property
    def signed_eps(self):
        return self.eps * torch.tensor([1.0, -0.9])[: self.sides].repeat(self.num)

    def normal(self, *shape, seed=0):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    def unwritten(self, *shape):
        return torch.full(shape, torch.nan, dtype=self.dtype)


NOISES = {
    "smallest": Case(1, 1, 1),
    "one-word": Case(4, 32, 3),
    "no-whole-word": Case(5, 10, 64, activation="relu"),
    "ragged": Case(activation="relu"),
    "central": Case(sides=2, activation="relu"),
    "columns-from-within-a-word": Case(first=13, sides=2),
    "columns-from-beyond-32-bits": Case(first=BEYOND_32_BITS),
    "order-beyond-the-directions": Case(order=1024, first=700),
    "order-below-a-word": Case(num=1, order=4, first=3),
    "many-columns": Case(3, ACTIVATED + 37, 2, activation="tanh"),
    "random": Case(distribution="rademacher", activation="relu"),
    "random-central": Case(distribution="rademacher", sides=2, first=9),
    "random-columns": Case(3, ACTIVATED + 37, 2, distribution="rademacher", activation="gelu"),
    "tiny-eps": Case(eps=1e-7, activation="tanh"),
    "several-runs": Case(9, PIECE // 5, 2, activation="relu"),
    "random-several-runs": Case(9, PIECE // 5, 2, distribution="rademacher"),
    "one-evaluation-in-two-runs": Case(11, 40, 1),
    "bfloat16": Case(dtype=torch.bfloat16, activation="relu"),
    "bfloat16-plain": Case(dtype=torch.bfloat16, first=5),
    "bfloat16-tanh": Case(dtype=torch.bfloat16, activation="tanh", sides=2),
} | {name: Case(activation=name, sides=2) for name in ACTIVATIONS}


def check(found, expected, bound=None):
    """The largest error, relative to the largest value, is no more than a few roundings."""
    narrow = found.dtype == torch.bfloat16
    scale = expected.double().abs().max()
    assert found.isfinite().all()
    assert (found.double() - expected.double()).abs().max() <= (bound or (2**-8 if narrow else 3e-6)) * scale


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Everything here is small."""


@pytest.mark.parametrize("distribution", ops.NODE_DISTRIBUTIONS)
@pytest.mark.parametrize("first", [0, 7, 64, BEYOND_32_BITS])
@pytest.mark.parametrize("shape", [(1, 1), (4, 32), (5, 70), (33, 31)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64])
def test_signs_are_the_references_bit_for_bit(distribution, first, shape, dtype):
    case = Case(num=9, order=1024, distribution=distribution, first=first, dtype=dtype)
    found, expected = case.unwritten(9, *shape), case.unwritten(9, *shape)
    cpu.node_sample(found, *case.place)
    reference.node_sample(expected, *case.place)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("case", NOISES.values(), ids=NOISES)
def test_noise_and_activation_agree_with_the_reference(case):
    shape = case.samples, case.positions
    difference = (case.eps * case.normal(case.num * case.sides, *shape)).to(case.dtype)
    z = None if case.activation == "none" else case.normal(*shape, seed=1)
    expected = difference.double()
    for out, engine in ((difference, cpu), (expected, reference)):
        engine.node_epilogue(out, z, *case.place, case.signed_eps, case.activation)
    check(difference, expected)


def test_relu_s_kinks_are_exact():
    """Where the base is ±0 and where the difference just reaches the kink."""
    z = torch.tensor([0.0, -0.0, 0.01, -0.01, 0.005, -0.005] * 8)[None]
    case = Case(1, 48, 3)
    found, expected = torch.zeros(3, 1, 48), torch.zeros(3, 1, 48, dtype=torch.float64)
    for out, engine in ((found, cpu), (expected, reference)):
        engine.node_epilogue(out, z, *case.place, torch.full((3,), 0.01), "relu")
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=1e-9)


def test_a_strided_result_is_written_where_it_lies():
    case = Case()
    plain = case.eps * case.normal(5, 6, 77)
    strided = plain.transpose(1, 2).contiguous().transpose(1, 2)
    for out in (plain, strided):
        cpu.node_epilogue(out, None, *case.place, case.signed_eps, "none")
    assert torch.equal(strided, plain)


@dataclass
class Linear(Case):
    """A linear layer: ``rows`` of each sample, ``positions`` is ignored."""

    rows: int = 1
    inner: int = 19
    outputs: int = 77
    transposed: bool = False

    def arguments(self):
        count = self.samples * self.rows
        x = (self.eps * self.normal(self.num * self.sides, count, self.inner)).to(self.dtype)
        weight = self.normal(self.outputs, self.inner, seed=1) / self.inner**0.5
        weight = weight.T.contiguous() if self.transposed else weight
        z = None if self.activation == "none" else self.normal(count, self.outputs, seed=2)
        out = self.unwritten(self.num * self.sides, count, self.outputs)
        return out, x, weight, z, *self.place, self.samples, self.signed_eps, self.activation, self.transposed


LINEARS = {
    "smallest": Linear(1, num=1, inner=1, outputs=1),
    "ragged": Linear(activation="relu"),
    "several-rows-a-sample": Linear(rows=3, outputs=10, activation="relu", first=13),
    "central": Linear(sides=2, rows=2, activation="tanh"),
    "transposed": Linear(transposed=True, activation="relu"),
    "random": Linear(distribution="rademacher", rows=2, sides=2, activation="relu"),
    "several-evaluations-together": Linear(16, num=29, inner=300, outputs=30),
    "several-runs": Linear(39, num=2, rows=16, inner=40, outputs=260, activation="relu"),
    "one-evaluation-in-two-runs": Linear(11, num=1, rows=2),
    "order-beyond-the-directions": Linear(order=512, first=450),
    "bfloat16": Linear(dtype=torch.bfloat16, activation="relu", sides=2),
    "bfloat16-transposed": Linear(dtype=torch.bfloat16, transposed=True, rows=2),
}


@pytest.mark.parametrize("case", LINEARS.values(), ids=LINEARS)
def test_linear_agrees_with_the_reference(case):
    out, *rest = case.arguments()
    cpu.node_linear(out, *rest)
    expected = torch.empty(out.shape, dtype=torch.float64)
    reference.node_linear(expected, *rest)
    check(out, expected)


CONVOLUTION = {"stride": [1, 1], "padding": [0, 0], "dilation": [1, 1], "groups": 1}


@dataclass
class Convolution(Case):
    """A convolution; ``positions`` is ignored."""

    image: tuple[int, ...] = (5, 7, 6)
    outputs: int = 7
    kernel: tuple[int, int] = (3, 2)
    window: tuple[tuple[str, object], ...] = ()
    memory_format: torch.memory_format = torch.contiguous_format

    def arguments(self):
        window = CONVOLUTION | dict(self.window)
        x = (self.eps * self.normal(self.num * self.sides, self.samples, *self.image)).to(self.dtype)
        if self.memory_format == torch.channels_last:
            x = x.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        weight = self.normal(self.outputs, self.image[0] // window["groups"], *self.kernel, seed=1) / 4
        shape = F.conv2d(x[0].float(), weight, **window).shape
        z = None if self.activation == "none" else self.normal(*shape, seed=2)
        out = self.unwritten(len(x), *shape)
        return out, x, weight, z, *self.place, self.signed_eps, *window.values(), self.activation


CONVOLUTIONS = {
    "ragged": Convolution(activation="relu"),
    "central": Convolution(sides=2, activation="tanh", first=13),
    "strided-in-groups": Convolution(
        image=(6, 9, 11), outputs=4, activation="relu",
        window=(("stride", [2, 3]), ("padding", [1, 2]), ("groups", 2)),
    ),
    "dilated": Convolution(window=(("dilation", [2, 1]),), distribution="rademacher"),
    "channels-last": Convolution(memory_format=torch.channels_last, activation="relu"),
    "several-runs": Convolution(9, num=2, image=(2, 70, 70), outputs=9, activation="relu"),
    "several-evaluations-together": Convolution(3, num=19, image=(2, 50, 50), outputs=5),
    "bfloat16": Convolution(dtype=torch.bfloat16, activation="relu", sides=2),
}  # fmt: skip


@pytest.mark.parametrize("case", CONVOLUTIONS.values(), ids=CONVOLUTIONS)
def test_convolution_agrees_with_the_reference(case):
    out, *rest = case.arguments()
    cpu.node_conv2d(out, *rest)
    expected = torch.empty(out.shape, dtype=torch.float64)
    reference.node_conv2d(expected, *rest)
    check(out, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("linear", [True, False], ids=["linear", "convolution"])
def test_error_is_at_most_twice_that_of_torch(linear, dtype):
    """torch's layer and sum in the same dtype, from the same inputs."""
    case = Linear(32, inner=256, dtype=dtype) if linear else Convolution(8, image=(16, 9, 9), dtype=dtype)
    out, x, weight, *rest = case.arguments()
    function, engine = (F.linear, "node_linear") if linear else (F.conv2d, "node_conv2d")
    getattr(cpu, engine)(out, x, weight, *rest)
    expected = torch.empty(out.shape, dtype=torch.float64)
    getattr(reference, engine)(expected, x, weight, *rest)
    signs = ops.node_sample(
        case.directions, ops.Node(4, case.first, case.samples), out[0].numel() // case.samples
    )
    noise = (case.signed_eps[:, None, None] * signs).view(out.shape).to(dtype)
    plain = torch.stack([function(each, weight.to(dtype)) for each in x]) + noise
    error, theirs = ((each.double() - expected).norm() for each in (out, plain))
    assert error <= 2 * theirs


GRADIENTS = {
    "smallest": (Case(1, 1, 1), 1),
    "ragged": (Case(), 1),
    "past-a-run-of-samples": (Case(37, 70, 12), 1),
    "columns-from-within-a-word": (Case(first=13), 1),
    "order-beyond-the-directions": (Case(order=1024, first=1000), 1),
    "order-below-a-word": (Case(num=1, order=4, first=3), 1),
    "odd-power-of-two": (Case(33, 40, 29), 1),
    "even-power-of-two": (Case(33, 40, 60), 1),
    "all-directions": (Case(5, 40, 61), 1),
    "many-rows": (Case(2, 5, 3, order=8192), 1),
    "tokens": (Case(7, 60, 11, first=9), 4),
    "tokens-of-a-word": (Case(9, 128, 11), 4),
    "random": (Case(distribution="rademacher"), 1),
    "random-many-columns": (Case(5, 300, 9, distribution="rademacher"), 1),
    "random-tokens": (Case(7, 60, 11, distribution="rademacher"), 4),
    "random-tokens-past-four-words": (Case(3, 420, 5, distribution="rademacher"), 2),
}


@pytest.mark.parametrize(("case", "tokens"), GRADIENTS.values(), ids=GRADIENTS)
def test_sums_over_directions_agree_with_the_reference(case, tokens):
    rows = case.samples * tokens
    coefficients = case.normal(case.num, rows)
    found, expected = (torch.full((rows, case.positions // tokens), torch.nan) for _ in range(2))
    for out, engine in ((found, cpu), (expected, reference)):
        engine.node_gradient(out, coefficients, *case.place, case.samples)
    check(found, expected)


def test_a_strided_gradient_is_written_where_it_lies():
    case = Case()
    plain, strided = torch.empty(6, 77), torch.empty(77, 6).T
    for out in (plain, strided):
        cpu.node_gradient(out, case.normal(5, 6), *case.place, 6)
    assert torch.equal(strided, plain)


def test_as_many_directions_as_nodes_give_the_gradient_itself():
    """Orthogonal signs: Σ_k (g·ξ_k) ξ_k / M = g, exact but for rounding."""
    case = Case(5, 64, 64)
    directions, node = zo.Directions(3, 0, 64, "hadamard"), ops.Node(1, 0, 5)
    wanted = case.normal(5, 64)
    signs = ops.node_sample(directions, node, 64)
    measured = (signs * wanted).sum(2) / 64
    check(ops.node_gradient(measured, directions, node, 64), wanted)


def test_an_empty_batch_is_nothing():
    case = Case()
    directions, node = case.directions, ops.Node(0, 0, 1)._replace(samples=0)
    x, steps = torch.empty(5, 0, 3), case.signed_eps
    assert ops.node_epilogue(torch.empty(5, 0, 7), directions, steps, node).shape == (5, 0, 7)
    assert ops.node_linear(x, torch.ones(4, 3), directions, steps, node).shape == (5, 0, 4)
    image = torch.empty(5, 0, 2, 4, 4)
    assert ops.node_conv2d(image, torch.ones(3, 2, 3, 3), directions, steps, node).shape == (5, 0, 3, 2, 2)


def test_chunks_of_directions_change_no_sign():
    case = Linear(5, num=13, activation="relu")
    _, x, weight, z, directions, *place, samples, steps, _, _ = case.arguments()
    node = ops.Node(*place, samples)
    whole = ops.node_linear(x, weight, directions, steps, node, base_output=z, activation="relu")
    parts = [
        ops.node_linear(x[a:b], weight, directions[a:b], steps[a:b], node, base_output=z, activation="relu")
        for a, b in ((0, 4), (4, 13))
    ]
    torch.testing.assert_close(torch.cat(parts), whole, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("distribution", ops.NODE_DISTRIBUTIONS)
def test_threads_do_not_change_a_bit(distribution):
    case = Case(67, 700, 6, distribution=distribution)
    node = ops.Node(4, case.first, 67)

    def run():
        difference = case.eps * case.normal(6, 67, 700)
        ops.node_epilogue(difference, case.directions, case.signed_eps, node)
        return difference, ops.node_gradient(case.normal(6, 67), case.directions, node, 700)

    alone = run()
    torch.set_num_threads(2)
    for one, other in zip(alone, run(), strict=True):
        assert torch.equal(one, other)
