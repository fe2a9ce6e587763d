"""Signs on layers' outputs, their linear layer and their gradient, against the reference in float64."""

import pytest
import torch
from root_mean_square import rms

from zo_triton import reference
from zo_triton.directions import Directions
from zo_triton.kernels import node_epilogue, node_gradient, node_linear, node_sample, step_on_device
from zo_triton.reference.operations import ACTIVATIONS

NAN = float("nan")
FLOAT, HALF = torch.float32, torch.bfloat16

DIRECTIONS = {
    "as many rows as directions": Directions(7, 3, 8, "hadamard"),
    "one row": Directions(7, 3, 1, "hadamard"),
    "two rows": Directions(7, 3, 2, "hadamard"),
    "a chunk of a larger matrix, words with their highest bits set": Directions(
        2**63 + 9, 2**31 + 5, 6, "hadamard", order=64, first=3
    ),
    "the largest matrix": Directions(5, 1, 3, "hadamard", order=2**31),
    "independent": Directions(7, 2**32 - 1, 5, "rademacher", rounds=7, first=2),
}
PLACES = {
    # samples, nodes, first column
    "ragged, and the columns begin inside a word": (5, 77, 5),
    "whole words": (4, 32, 64),
    "one node, the last of a word": (1, 1, 31),
    "a row and a column past a tile, columns beyond 2**31": (33, 130, 2**31 - 40),
    "columns beyond 2**32": (2, 40, 2**33 + 7),
}


def empty(*shape, dtype=FLOAT, device="cpu"):
    return torch.full(shape, NAN, dtype=dtype, device=device)


def coefficients_of(directions, rows):
    """Of several sizes, so that a part that is lost shows."""
    generator = torch.Generator().manual_seed(rows)
    return torch.randn(directions.num, rows, generator=generator) * 10.0 ** torch.arange(rows).remainder(3)


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
def test_signs_are_the_references_bit_for_bit(place, directions, device):
    samples, nodes, first = place
    found = empty(directions.num, samples, nodes, device=device)
    wanted = empty(directions.num, samples, nodes, dtype=torch.float64)
    node_sample(found, directions, 3, first)
    reference.node_sample(wanted, directions, 3, first)
    assert torch.equal(found.cpu().double(), wanted)


def test_a_step_on_the_device_is_the_directions_own(device):
    directions, later = Directions(7, 3, 6, "hadamard"), Directions(7, 2**31 + 1, 6, "hadamard")
    found, wanted = empty(6, 3, 40, device=device), empty(6, 3, 40, device=device)
    with step_on_device(torch.tensor([2**31 + 1 - 2**32], dtype=torch.int32, device=device)):
        node_sample(found, directions, 0, 1)
    node_sample(wanted, later, 0, 1)
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("dtype", [HALF, torch.float64])
def test_other_dtypes_and_strides(dtype, device):
    directions = Directions(7, 3, 2, "hadamard")
    found = empty(9, 3, 2, dtype=dtype, device=device).permute(2, 1, 0)
    wanted = empty(2, 3, 9, dtype=torch.float64)
    node_sample(found, directions, 0, 1)
    reference.node_sample(wanted, directions, 0, 1)
    assert torch.equal(found.cpu().double(), wanted)


class Layer:
    """One call's arguments: R rows of so many samples, and the base output."""

    def __init__(
        self, directions, samples, tokens, features, outputs, *, dtype=FLOAT, sides=1, transposed=False
    ):
        generator = torch.Generator().manual_seed(samples + features + outputs)
        self.directions, self.dtype, self.samples, self.transposed = directions, dtype, samples, transposed
        rows, evaluations = samples * tokens, sides * directions.num
        self.weight = torch.randn(outputs, features, generator=generator) / features**0.5
        self.weight = self.weight.T.contiguous() if transposed else self.weight
        self.before = torch.randn(rows, outputs, generator=generator)
        self.difference = 1e-3 * torch.randn(evaluations, rows, features, generator=generator)
        self.difference = self.difference.to(dtype)
        self.epsilon = 1e-3 * torch.tensor([1.0, -0.9] if sides == 2 else [0.7]).repeat(directions.num)

    def run(self, device, activation="none", out=None, **choices):
        shape = (len(self.epsilon), *self.before.shape)
        out = empty(*shape, dtype=self.dtype, device=device) if out is None else out
        tensors = (self.difference, self.weight, self.before, self.epsilon)
        difference, weight, before, epsilon = (tensor.to(device) for tensor in tensors)
        node_linear(
            out, difference, weight, before, self.directions, 2, 5, self.samples, epsilon, activation,
            self.transposed, **choices,
        )  # fmt: skip
        return out.cpu().double()

    def expected(self, activation="none"):
        out = empty(len(self.epsilon), *self.before.shape, dtype=torch.float64)
        reference.node_linear(
            out, self.difference, self.weight, self.before, self.directions, 2, 5, self.samples, self.epsilon,
            activation, self.transposed,
        )  # fmt: skip
        return out

    def torch_result(self):
        """Torch's own product and sum in the compute dtype, the noise given."""
        noise = empty(len(self.epsilon), *self.before.shape, dtype=torch.float64)
        reference.node_linear(
            noise, torch.zeros_like(self.difference), self.weight, None, self.directions, 2, 5, self.samples,
            self.epsilon, "none", self.transposed,
        )  # fmt: skip
        weight = (self.weight if self.transposed else self.weight.T).to(self.dtype)
        return (self.difference @ weight + noise.to(self.dtype)).double()


@pytest.mark.parametrize("transposed", [False, True], ids=["stored out-in", "stored in-out"])
@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=["fp32", "bf16"])
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("distribution", ["hadamard", "rademacher"])
def test_a_layers_error_is_at_most_twice_torchs(distribution, sides, dtype, transposed, device):
    """Ragged everywhere: rows that no tile divides, a prime number of outputs, features that no block divides."""
    directions = Directions(7, 3, 3, distribution, first=1)
    layer = Layer(directions, 11, 1, 77, 37, dtype=dtype, sides=sides, transposed=transposed)
    expected = layer.expected()
    assert rms(layer.run(device) - expected) <= 2 * rms(layer.torch_result() - expected)


@pytest.mark.parametrize("outputs", [37, 64], ids=["words cross rows", "whole words"])
def test_rows_that_share_a_sample(outputs, device):
    """Three rows of each sample: its nodes go on from one row to the next, inside a word or at the next one."""
    layer = Layer(Directions(7, 3, 2, "hadamard", order=32), 5, 3, 33, outputs, sides=2)
    expected = layer.expected("relu")
    assert (layer.run(device, "relu") - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_the_layer_ends_in_the_activations_difference(activation, device):
    layer = Layer(Directions(1, 0, 2, "hadamard"), 9, 1, 40, 35, sides=2)
    error = layer.run(device, activation) - layer.expected(activation)
    assert error.abs().max() <= 1e-6 * layer.expected().abs().max()


def test_tiles_never_change_the_signs(device):
    layer = Layer(Directions(1, 0, 3, "hadamard"), 50, 1, 33, 70)
    layer.difference = torch.zeros_like(layer.difference)
    tiles = {"BLOCK_N": 32, "BLOCK_F": 32, "BLOCK_I": 32, "num_warps": 4, "num_stages": 1}
    assert torch.equal(layer.run(device), layer.run(device, config=tiles))
    assert torch.equal(layer.run(device), layer.expected().float().double())


def test_any_strides_of_a_layer(device):
    layer = Layer(Directions(0, 0, 2, "hadamard"), 5, 1, 33, 9, sides=2)
    wanted = layer.run(device, "relu")
    layer.difference = layer.difference.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    layer.before = torch.cat([layer.before, layer.before], 1)[:, :9]
    layer.weight = layer.weight.T.contiguous().T
    out = empty(9, 4, 5, device=device).permute(1, 2, 0)
    assert torch.equal(layer.run(device, "relu", out=out), wanted)


EPILOGUES = {
    # shape of an output, activation, dtype, first column
    "a vector": ((5, 77), "relu", FLOAT, 5),
    "an image": ((3, 2, 5, 7), "gelu", FLOAT, 0),
    "bfloat16, past a tile": ((17, 65), "none", HALF, 1),
}


@pytest.mark.parametrize("case", EPILOGUES.values(), ids=EPILOGUES)
@pytest.mark.parametrize(
    "directions", [Directions(7, 3, 9, "hadamard"), Directions(7, 3, 5)], ids=["hadamard", "own"]
)
def test_the_epilogue_is_the_references(directions, case, device):
    shape, activation, dtype, first = case
    generator = torch.Generator().manual_seed(0)
    difference = (1e-3 * torch.randn(2 * directions.num, *shape, generator=generator)).to(dtype)
    before = torch.randn(*shape, generator=generator)
    epsilon = 1e-3 * torch.tensor([1.0, -0.9]).repeat(directions.num)
    found, wanted = difference.clone().to(device), difference.double()
    node_epilogue(found, before.to(device), directions, 4, first, epsilon.to(device), activation)
    reference.node_epilogue(wanted, before, directions, 4, first, epsilon, activation)
    rounding = 2.0**-8 if dtype == HALF else 1e-6
    assert (found.cpu().double() - wanted).abs().max() <= rounding * wanted.abs().max()


GRADIENTS = {
    # samples, tokens, nodes of a row
    "ragged, several turns of the matrix": (5, 1, 77),
    "more samples and nodes than a tile": (65, 1, 66),
    "tokens whose nodes begin inside words": (3, 4, 45),
    "tokens of whole words": (2, 2, 64),
    "one of everything": (1, 1, 1),
}


@pytest.mark.parametrize("directions", DIRECTIONS.values(), ids=DIRECTIONS)
@pytest.mark.parametrize("case", GRADIENTS.values(), ids=GRADIENTS)
def test_the_gradient_is_the_references(case, directions, device):
    samples, tokens, nodes = case
    coefficients = coefficients_of(directions, samples * tokens)
    found = empty(samples * tokens, nodes, device=device)
    wanted = empty(samples * tokens, nodes, dtype=torch.float64)
    node_gradient(found, coefficients.to(device), directions, 3, 5, samples)
    reference.node_gradient(wanted, coefficients, directions, 3, 5, samples)
    error = (found.cpu().double() - wanted).abs().amax(1)
    assert (error <= 1e-6 * coefficients.abs().sum(0)).all()


def test_a_gradient_of_more_directions_than_a_block_and_any_strides(device):
    """A hundred directions of 128 rows: the last block is not full."""
    directions = Directions(7, 3, 100, "hadamard", order=128)
    coefficients = coefficients_of(directions, 3)
    found, wanted = empty(300, 3, device=device).T, empty(3, 300, dtype=torch.float64)
    node_gradient(found, coefficients.T.contiguous().T.to(device), directions, 3, 5, 3)
    reference.node_gradient(wanted, coefficients, directions, 3, 5, 3)
    assert ((found.cpu().double() - wanted).abs().amax(1) <= 1e-6 * coefficients.abs().sum(0)).all()


def test_empty_batches(device):
    directions = Directions(7, 3, 2, "hadamard")
    out = torch.empty(2, 0, 5, device=device)
    node_sample(out, directions, 0, 0)
    node_epilogue(out, None, directions, 0, 0, torch.ones(2, device=device), "none")
    assert out.shape == (2, 0, 5)


def test_bad_arguments_are_named(device):
    gaussian, directions = Directions(0, 0, 2, "gaussian"), Directions(0, 0, 2, "hadamard")
    out, ones = torch.empty(2, 6, 5, device=device), torch.ones(2, device=device)
    with pytest.raises(
        ValueError, match=r"the triton engine can't draw 'gaussian'; choose one of \('hadamard'"
    ):
        node_sample(out, gaussian, 0, 0)
    with pytest.raises(
        ValueError, match="activation 'relu' needs base_output, the unperturbed pre-activation"
    ):
        node_epilogue(out, None, directions, 0, 0, ones, "relu")
    weight = torch.ones(5, 3, device=device)
    with pytest.raises(ValueError, match="6 rows can't be equal shares of 4 samples"):
        node_linear(out, out[:, :, :3], weight, None, directions, 0, 0, 4, ones, "none")
    with pytest.raises(ValueError, match=r"coefficients with shape \(2, 6\), got \(3, 6\)"):
        node_gradient(out[0], torch.ones(3, 6, device=device), directions, 0, 0, 6)
    with pytest.raises(ValueError, match="of 4 samples needs a multiple of 4 rows"):
        node_gradient(out[0], torch.ones(2, 6, device=device), directions, 0, 0, 4)
