"""The fused layer against float64, and the z inside it against ``sample``."""

import os
from itertools import product

import pytest
import torch
from root_mean_square import rms

from zo_triton import reference
from zo_triton.directions import Directions
from zo_triton.kernels import perturbed_linear, sample
from zo_triton.kernels.perturbed_linear import launch_perturbed_linear
from zo_triton.reference.operations import ACTIVATIONS

NIGHTLY = os.environ.get("ZO_TRITON_NIGHTLY") == "1"
NAN = float("nan")
FLOAT, HALF = torch.float32, torch.bfloat16


def tiles(samples: int, outputs: int, features: int) -> dict[str, int]:
    return {
        "BLOCK_N": samples,
        "BLOCK_F": outputs,
        "BLOCK_I": features,
        "num_warps": 4,
        "num_stages": 1,
    }


class Layer:
    """One call's arguments, its result, and what float64 makes of the same field."""

    def __init__(
        self, directions, samples, features, outputs, *, dtype=FLOAT, sides=1, first=False, transposed=False
    ):
        generator = torch.Generator().manual_seed(samples + features + outputs)
        self.directions, self.dtype, self.sides, self.transposed = directions, dtype, sides, transposed
        self.base = torch.randn(samples, features, generator=generator)
        self.weight = torch.randn(outputs, features, generator=generator) / features**0.5
        self.weight = self.weight.T.contiguous() if transposed else self.weight
        self.before = torch.randn(samples, outputs, generator=generator)
        difference = 1e-3 * torch.randn(sides * directions.num, samples, features, generator=generator)
        self.difference = None if first else difference.to(dtype)
        self.epsilon = 1e-3 * torch.tensor([1.0, -0.9] if sides == 2 else [0.7]).repeat(directions.num)

    def run(self, device, *, weight_id=0, bias_id=1, activation="none", **choices):
        shape = (len(self.epsilon), *self.before.shape)
        out = torch.full(shape, NAN, dtype=self.dtype, device=device)
        tensors = (self.base, self.difference, self.weight, self.before, self.epsilon)
        base, difference, weight, before, epsilon = (t if t is None else t.to(device) for t in tensors)
        launch_perturbed_linear(
            out, base, difference, weight, before, self.directions, weight_id, bias_id, epsilon, activation,
            self.transposed, **choices,
        )  # fmt: skip
        return out.cpu().double()

    def field(self, tensor_id, shape):
        """[P, *shape], float64."""
        z = torch.full((self.directions.num, *shape), NAN, dtype=torch.float64)
        reference.sample(z, self.directions, tensor_id, self.dtype)
        return z.repeat_interleave(self.sides, dim=0)

    def expected(self, *, weight_id=0, bias_id=1, activation="none"):
        delta = torch.zeros(1) if self.difference is None else self.difference.double()
        weight = self.weight.double() if self.transposed else self.weight.double().T
        change = delta @ weight if delta.ndim == 3 else torch.zeros(len(self.epsilon), 1, 1)
        epsilon = self.epsilon.double()[:, None, None]
        if weight_id >= 0:
            moved = epsilon * (self.base.double() + delta)
            u = self.field(weight_id, self.weight.shape)
            change = change + moved @ (u if self.transposed else u.transpose(1, 2))
        if bias_id >= 0:
            change = change + epsilon * self.field(bias_id, self.before.shape[1:])[:, None]
        function, z = ACTIVATIONS[activation], self.before.double()
        return function(z + change) - function(z)

    def torch_result(self):
        """Torch's own products in the compute dtype, the field given."""
        u = self.field(0, self.weight.shape).to(self.dtype)
        u, weight = (u, self.weight) if self.transposed else (u.transpose(1, 2), self.weight.T)
        epsilon = self.epsilon[:, None, None]
        if self.difference is None:
            return epsilon.double() * (self.base.to(self.dtype) @ u).double()
        moved = (epsilon * (self.base + self.difference.float())).to(self.dtype)
        return (self.difference @ weight.to(self.dtype) + moved @ u).double()


FIELDS = [("rademacher", None, "inline"), ("rademacher", None, "staged"), ("gaussian", None, "inline"),
          ("rademacher", 3, "inline"), ("gaussian", 2, "inline")]  # fmt: skip
PRODUCTS = {"fp32": (FLOAT, "ieee"), "fp32 in parts": (FLOAT, "bf16x6"), "bf16": (HALF, None)}


def layouts():
    """Sides, first or hidden, and how the weight is stored: all eight at night, by day those of even parity.

    These four have each pair of values, with every field in every dtype.
    """
    for sides, first, transposed in product((1, 2), (False, True), (False, True)):
        if NIGHTLY or (sides + first + transposed) % 2 == 0:
            name = f"{sides}-{'first' if first else 'hidden'}-stored {'in-out' if transposed else 'out-in'}"
            yield pytest.param(sides, first, transposed, id=name)


@pytest.mark.parametrize(("sides", "first", "transposed"), list(layouts()))
@pytest.mark.parametrize(("dtype", "precision"), PRODUCTS.values(), ids=PRODUCTS)
@pytest.mark.parametrize(("distribution", "rank", "bits"), FIELDS)
def test_error_is_at_most_twice_torchs(
    distribution, rank, bits, sides, first, dtype, precision, transposed, device
):
    """Ragged everywhere: one row past a tile, a prime number of outputs, features that no block divides."""
    directions = Directions(7, 3, 1, distribution, rank=rank, first=1)
    layer = Layer(directions, 33, 77, 37, dtype=dtype, sides=sides, first=first, transposed=transposed)
    choices = {"bits": bits, "precision": precision, "config": tiles(32, 64, 64)}
    error = layer.run(device, bias_id=-1, **choices) - layer.expected(bias_id=-1)
    assert rms(error) <= 2 * rms(layer.torch_result() - layer.expected(bias_id=-1))


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_epilogue_is_the_activations_difference(activation, device):
    layer = Layer(Directions(1, 0, 2), 9, 40, 35, sides=2)
    expected = layer.expected(activation=activation)
    error = layer.run(device, activation=activation) - expected
    assert error.abs().max() <= 1e-6 * layer.expected().abs().max()


@pytest.mark.parametrize(
    "trained", [{"weight_id": -1}, {"bias_id": -1}, {"weight_id": -1, "bias_id": -1}], ids=str
)
@pytest.mark.parametrize("first", [False, True], ids=["hidden", "first"])
def test_untrained_parts_stay_put(first, trained, device):
    layer = Layer(Directions(1, 0, 2, "uniform", rank=2), 3, 40, 6, sides=2, first=first)
    expected = layer.expected(**trained)
    assert (layer.run(device, **trained) - expected).abs().max() <= 1e-6 * expected.abs().max()


def _field_inside(layer, device, **choices):
    """With a = I, no difference and ε = 1 the result is z: one nonzero product a sum."""
    layer.base = torch.eye(layer.base.shape[1])
    layer.before = torch.zeros(layer.base.shape[1], layer.before.shape[1])
    layer.epsilon = torch.ones_like(layer.epsilon)
    z = layer.run(device, bias_id=-1, **choices)
    return z if layer.transposed else z.transpose(1, 2)


@pytest.mark.parametrize(
    ("distribution", "dtype", "bits"),
    [("rademacher", FLOAT, "inline"), ("rademacher", FLOAT, "staged"), ("rademacher", HALF, "staged"),
     ("gaussian", FLOAT, "inline"), ("gaussian", HALF, "inline"), ("laplace", FLOAT, "inline")],
)  # fmt: skip
@pytest.mark.parametrize("config", [tiles(64, 16, 32), tiles(32, 64, 128)], ids=["small", "large"])
def test_tiles_never_change_z(config, distribution, dtype, bits, device):
    directions = Directions(2**63 + 9, 5, 2, distribution, first=3)
    z = _field_inside(Layer(directions, 1, 67, 37, dtype=dtype, first=True), device, bits=bits, config=config)
    drawn = torch.full((2, 37, 67), NAN, dtype=torch.float64, device=device)
    sample(drawn, directions, 0, dtype)
    assert torch.equal(z, drawn.cpu())


@pytest.mark.parametrize(
    ("distribution", "dtype", "bits"),
    [("rademacher", FLOAT, "inline"), ("rademacher", FLOAT, "staged"), ("rademacher", HALF, "staged"),
     ("gaussian", FLOAT, "inline"), ("gaussian", HALF, "inline"), ("laplace", FLOAT, "inline")],
)  # fmt: skip
@pytest.mark.parametrize("config", [tiles(64, 32, 32), tiles(32, 64, 128)], ids=["small", "large"])
def test_tiles_never_change_the_z_of_a_weight_stored_by_inputs(config, distribution, dtype, bits, device):
    directions = Directions(2**63 + 9, 5, 2, distribution, first=3)
    layer = Layer(directions, 1, 67, 37, dtype=dtype, first=True, transposed=True)
    z = _field_inside(layer, device, bits=bits, config=config)
    drawn = torch.full((2, 67, 37), NAN, dtype=torch.float64, device=device)
    sample(drawn, directions, 0, dtype)
    assert torch.equal(z, drawn.cpu())


@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=["fp32", "bf16"])
@pytest.mark.parametrize("transposed", [False, True])
def test_staged_and_inline_results_are_identical(transposed, dtype, device):
    layer = Layer(Directions(0, 0, 2), 17, 100, 45, dtype=dtype, sides=2, transposed=transposed)
    assert torch.equal(layer.run(device, bits="staged"), layer.run(device, bits="inline"))


@pytest.mark.parametrize("transposed", [False, True])
def test_rank_beyond_one_block_of_factor_columns(transposed, device):
    layer = Layer(Directions(1, 0, 1, rank=130), 2, 131, 131, transposed=transposed)
    expected = layer.expected()
    assert (layer.run(device) - expected).abs().max() <= 1e-6 * expected.abs().max()


def test_any_strides_are_read_and_written_where_they_lie(device):
    """The layouts that views bring: feature-major, sliced, transposed weight; equal to a contiguous call."""
    layer = Layer(Directions(0, 0, 2), 5, 33, 9, sides=2)
    wanted = layer.run(device, activation="relu")
    out = torch.full((9, 4, 5), NAN, device=device).permute(1, 2, 0)
    perturbed_linear(
        out,
        layer.base.T.contiguous().to(device).T,
        layer.difference.permute(2, 0, 1).contiguous().to(device).permute(1, 2, 0),
        torch.cat([layer.weight.T, layer.weight.T]).to(device)[:33].T,
        torch.cat([layer.before, layer.before], 1).to(device)[:, :9],
        layer.directions, 0, 1, layer.epsilon.to(device), "relu",
    )  # fmt: skip
    assert torch.equal(out.cpu().double(), wanted)


def test_single_numbers_and_empty_batches(device):
    layer = Layer(Directions(0, 0, 1), 1, 1, 1)
    torch.testing.assert_close(layer.run(device), layer.expected(), rtol=1e-6, atol=0)
    empty = torch.empty(1, 0, 1, device=device)
    perturbed_linear(
        empty, empty[0], None, layer.weight, None, layer.directions, 0, -1, layer.epsilon, "none"
    )
    assert empty.shape == (1, 0, 1)


BAD = {
    "unknown bits 'packed'; choose one of": {"bits": "packed"},
    "staged bits need full-rank 'rademacher' or 'hadamard' directions, got 'gaussian' with rank None": {
        "bits": "staged"
    },
    "unknown activation 'swish'; choose one of": {"activation": "swish"},
}


@pytest.mark.parametrize("message", BAD)
def test_bad_choices_are_named(message, device):
    with pytest.raises(ValueError, match=message):
        Layer(Directions(0, 0, 1, "gaussian"), 2, 3, 4).run(device, **BAD[message])


def test_mismatched_arguments_are_named(device):
    layer = Layer(Directions(0, 0, 2), 2, 3, 4)
    layer.before = None
    out = torch.empty(2, 2, 4, device=device)
    arguments = (layer.base.to(device), None, layer.weight.to(device), None, layer.directions, 0, 1)
    with pytest.raises(
        ValueError, match=r"activation 'relu' needs base_output, the unperturbed pre-activation"
    ):
        perturbed_linear(out, *arguments, layer.epsilon.to(device), "relu")
    with pytest.raises(ValueError, match=r"one or two evaluations for each of 2 directions .* got 3"):
        perturbed_linear(out, *arguments, torch.ones(3, device=device), "none")
    with pytest.raises(TypeError, match=r"compute dtype must be one of .*, got torch.float64"):
        perturbed_linear(out.double(), *arguments, layer.epsilon.to(device), "none")


@pytest.mark.parametrize("first", [False, True], ids=["hidden", "first"])
def test_directions_of_a_sphere_have_an_epsilon_each(first, device):
    """In bfloat16 each has a fraction of its own, by which the weight is divided inside the kernel."""
    layer = Layer(Directions(7, 3, 3, "sphere"), 33, 77, 37, dtype=HALF, first=first)
    layer.epsilon = 1e-3 * torch.tensor([0.7, 1.3, 2.9])
    error = layer.run(device, bias_id=-1) - layer.expected(bias_id=-1)
    assert rms(error) <= 2 * rms(layer.torch_result() - layer.expected(bias_id=-1))


def test_without_in_features_only_the_bias_moves(device):
    layer = Layer(Directions(1, 0, 2), 3, 0, 5)
    torch.testing.assert_close(layer.run(device), layer.expected(), rtol=1e-6, atol=0)


def test_an_epsilon_of_nothing_leaves_the_weights_product(device):
    layer = Layer(Directions(0, 0, 2), 5, 33, 7, dtype=HALF)
    layer.epsilon = torch.zeros(2)
    found, expected = layer.run(device), layer.expected()
    assert (found - expected).abs().max() <= 2**-7 * expected.abs().max()


def test_a_power_of_two_in_epsilon_changes_no_bit(device):
    """It goes into the operand, and only ε's fraction into the weight."""
    results = []
    for factor in (1, 2**5):
        layer = Layer(Directions(0, 0, 1), 6, 40, 9, dtype=HALF)
        layer.base, layer.difference = layer.base * factor, layer.difference * factor
        layer.weight, layer.epsilon = layer.weight / factor, layer.epsilon / factor
        results.append(layer.run(device, bias_id=-1))
    assert torch.equal(*results)
