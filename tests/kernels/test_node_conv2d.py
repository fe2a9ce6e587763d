"""A convolution whose outputs are perturbed, against the reference in float64."""

import pytest
import torch
from root_mean_square import rms

from zo_triton import reference
from zo_triton.directions import Directions
from zo_triton.kernels import node_conv2d
from zo_triton.kernels.node_conv2d import run_length

NAN = float("nan")
FLOAT, HALF = torch.float32, torch.bfloat16


def window(stride=(1, 1), padding=(0, 0), dilation=(1, 1), groups=1):
    return list(stride), list(padding), list(dilation), groups


SHAPES = {
    # samples, channels in and out, height, width, kernel, window
    "runs of 32 fill an image, and words cross channels": (2, (3, 5), (6, 9), (1, 2), window()),
    "an image of whole words": (2, (2, 3), (8, 8), (3, 3), window(padding=(1, 1))),
    "an image larger than a tile": (1, (2, 2), (13, 17), (3, 3), window(padding=(1, 1))),
    "images of fewer positions than a run": (5, (2, 18), (2, 3), (2, 3), window()),
    "stride, dilation and groups": (2, (6, 14), (11, 13), (3, 2), window((1, 2), (1, 2), (2, 1), 2)),
    "taps of groups": (2, (34, 14), (7, 6), (3, 2), window((1, 2), (1, 2), (2, 1), 2)),
    "taps of a word and a channel": (1, (33, 3), (5, 4), (2, 3), window()),
    "depthwise": (2, (5, 10), (7, 6), (3, 3), window(padding=(1, 1), groups=5)),
    "one of everything": (1, (1, 1), (1, 1), (1, 1), window()),
}


class Layer:
    """One call's arguments."""

    def __init__(self, shape, directions, dtype=FLOAT, sides=1):
        self.samples, (inner, outer), size, kernel, self.window = shape
        generator = torch.Generator().manual_seed(self.samples + inner)
        self.directions, self.dtype, P = directions, dtype, sides * directions.num
        groups = self.window[-1]
        terms = inner // groups * kernel[0] * kernel[1]
        self.weight = torch.randn(outer, inner // groups, *kernel, generator=generator) / terms**0.5
        difference = 1e-3 * torch.randn(P, self.samples, inner, *size, generator=generator)
        self.difference = difference.to(dtype)
        self.before = torch.randn(self.convolve(difference[0], self.weight).shape, generator=generator)
        self.epsilon = 1e-3 * torch.tensor([1.0, -0.9] if sides == 2 else [0.7]).repeat(directions.num)

    def convolve(self, x, weight):
        stride, padding, dilation, groups = self.window
        return torch.nn.functional.conv2d(x, weight, None, stride, padding, dilation, groups)

    def run(self, device, activation="none", **choices):
        out = torch.full((len(self.epsilon), *self.before.shape), NAN, dtype=self.dtype, device=device)
        tensors = (self.difference, self.weight, self.before)
        difference, weight, before = (tensor.to(device) for tensor in tensors)
        node_conv2d(
            out, difference, weight, before, self.directions, 2, 5, self.epsilon.to(device), *self.window,
            activation, **choices,
        )  # fmt: skip
        return out.cpu().double()

    def expected(self, activation="none", difference=None):
        out = torch.full((len(self.epsilon), *self.before.shape), NAN, dtype=torch.float64)
        reference.node_conv2d(
            out, self.difference if difference is None else difference, self.weight, self.before, self.directions,
            2, 5, self.epsilon, *self.window, activation,
        )  # fmt: skip
        return out

    def torch_result(self):
        """Torch's own product and sum in the compute dtype, the noise given."""
        noise = self.expected(difference=torch.zeros_like(self.difference)).to(self.dtype)
        products = [self.convolve(delta, self.weight.to(self.dtype)) for delta in self.difference]
        return (torch.stack(products) + noise).double()


@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=["fp32", "bf16"])
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
def test_error_is_at_most_twice_torchs(shape, dtype, device):
    layer = Layer(shape, Directions(7, 3, 2, "hadamard", order=16), dtype, sides=2)
    expected = layer.expected()
    # With one term there is nothing to round but the sum.
    allowed = max(2 * rms(layer.torch_result() - expected), 1e-7 * rms(expected))
    assert rms(layer.run(device) - expected) <= allowed


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES)
@pytest.mark.parametrize("distribution", ["hadamard", "rademacher"])
def test_the_signs_are_the_references(distribution, shape, device):
    layer = Layer(shape, Directions(2**63 + 1, 3, 3, distribution, first=2))
    layer.difference = torch.zeros_like(layer.difference)
    assert torch.equal(layer.run(device), layer.expected().float().double())


@pytest.mark.parametrize("activation", ["relu", "silu"])
def test_it_ends_in_the_activations_difference(activation, device):
    layer = Layer(SHAPES["stride, dilation and groups"], Directions(1, 0, 2, "hadamard"), sides=2)
    error = layer.run(device, activation) - layer.expected(activation)
    assert error.abs().max() <= 1e-6 * layer.expected().abs().max()


def test_tiles_change_only_the_rounding(device):
    layer = Layer(SHAPES["an image larger than a tile"], Directions(1, 0, 2, "hadamard"))
    tiles = {"BLOCK_N": 32, "BLOCK_F": 16, "BLOCK_I": 32, "num_warps": 4, "num_stages": 1}
    torch.testing.assert_close(layer.run(device), layer.run(device, config=tiles), rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("shape", ["an image of whole words", "taps of groups"])
def test_any_strides(shape, device):
    layer = Layer(SHAPES[shape], Directions(1, 0, 2, "hadamard"))
    wanted = layer.run(device, "relu")
    layer.difference = layer.difference.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
    layer.before = layer.before.contiguous(memory_format=torch.channels_last)
    assert torch.equal(layer.run(device, "relu"), wanted)


@pytest.mark.parametrize(("area", "run"), [(1024, 32), (100, 16), (49, 4), (36, 8), (16, 16), (1, 4)])
def test_runs_are_as_long_as_they_fill_up_little(area, run):
    assert run_length(area) == run


def test_shapes_that_do_not_belong_together_are_named(device):
    layer = Layer(SHAPES["an image of whole words"], Directions(1, 0, 2, "hadamard"))
    layer.before = layer.before[:, :, 1:]
    with pytest.raises(
        ValueError, match=r"leaves \[8, 8\] of base with shape \(2, 2, 8, 8\), but out has shape"
    ):
        layer.run(device)
