"""The fused convolution against float64, and the z inside it against the field: windows, groups, layouts."""

import pytest
import torch
import torch.nn.functional as F
import triton.language as tl
from root_mean_square import rms

from zo_triton import ops, reference
from zo_triton.directions import Directions
from zo_triton.kernels.conv2d import launch_perturbed_conv2d
from zo_triton.kernels.launch import recording
from zo_triton.kernels.window_arguments import offset_dtype

NAN = float("nan")
FLOAT, HALF = torch.float32, torch.bfloat16

# (input [N, C, H, W], output channels, kernel, stride, padding, dilation, groups), each for its reason.
WINDOWS = {
    "primes": ((3, 5, 11, 13), 7, (3, 5), (1, 1), (1, 2), (1, 1), 1),
    "one-by-one": ((2, 37, 5, 3), 33, (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "stride-2": ((2, 3, 9, 8), 5, (3, 3), (2, 2), (1, 1), (1, 1), 1),
    "dilation-2-uneven": ((2, 4, 11, 9), 3, (3, 2), (1, 2), (2, 0), (2, 3), 1),
    "groups-2-inside-a-block": ((2, 6, 6, 5), 14, (3, 3), (1, 1), (1, 1), (1, 1), 2),
    "groups-3-of-a-block-each": ((2, 6, 4, 5), 12, (2, 2), (1, 1), (0, 0), (1, 1), 3),
    "depthwise": ((2, 19, 7, 6), 19, (3, 3), (1, 1), (1, 1), (1, 1), 19),
    "depthwise-of-two-channels-each": ((1, 5, 9, 8), 10, (7, 5), (2, 1), (3, 2), (1, 1), 5),
    "window-beyond-the-input": ((67, 2, 1, 1), 1, (3, 3), (1, 1), (1, 1), (1, 1), 1),
}
TAP_WINDOWS = {
    "taps-of-a-word-and-a-channel": ((3, 33, 7, 6), 20, (3, 2), (1, 2), (2, 1), (2, 1), 1),
    "taps-of-groups-inside-a-block": ((2, 34, 5, 4), 14, (2, 3), (1, 1), (0, 1), (1, 1), 2),
    "taps-beyond-the-input": ((67, 16, 1, 1), 1, (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "taps-of-16-columns": ((2, 16, 2, 5), 3, (1, 16), (1, 1), (0, 8), (1, 1), 1),
    "taps-of-17-rows": ((2, 16, 5, 2), 3, (17, 1), (1, 1), (8, 0), (1, 1), 1),
}
"""Channels enough for a sum tap by tap; a word knows 16 rows and columns of a window."""
WINDOWS |= TAP_WINDOWS


class Layer:
    """One call's arguments, its result, and what float64 and torch make of the same field."""

    def __init__(self, window, directions, *, dtype=FLOAT, sides=1, first=False):
        shape, outputs, kernel, stride, padding, dilation, groups = WINDOWS[window]
        generator = torch.Generator().manual_seed(sum(shape))
        self.directions, self.dtype, self.sides = directions, dtype, sides
        self.window = {"stride": stride, "padding": padding, "dilation": dilation, "groups": groups}
        self.base = torch.randn(shape, generator=generator)
        self.weight = torch.randn(outputs, shape[1] // groups, *kernel, generator=generator)
        self.weight /= self.weight[0].numel() ** 0.5
        self.before = torch.randn(F.conv2d(self.base, self.weight, **self.window).shape, generator=generator)
        difference = 1e-3 * torch.randn(sides * directions.num, *shape, generator=generator)
        self.difference = None if first else difference.to(dtype)
        self.epsilon = 1e-3 * torch.tensor([1.0, -0.9] if sides == 2 else [0.7]).repeat(directions.num)

    def run(self, device, *, out=None, weight_id=0, bias_id=1, activation="none", **choices):
        if out is None:
            out = torch.full((len(self.epsilon), *self.before.shape), NAN, dtype=self.dtype, device=device)
        tensors = (self.base, self.difference, self.weight, self.before, self.epsilon)
        base, difference, weight, before, epsilon = (t if t is None else t.to(device) for t in tensors)
        launch_perturbed_conv2d(
            out, base, difference, weight, before, self.directions, weight_id, bias_id, epsilon,
            **{name: list(pair) if name != "groups" else pair for name, pair in self.window.items()},
            activation=activation, **choices,
        )  # fmt: skip
        return out.cpu().double()

    def expected(self, *, weight_id=0, bias_id=1, activation="none"):
        out = torch.full((len(self.epsilon), *self.before.shape), NAN, dtype=torch.float64)
        # The reference takes its compute dtype from out: rounded z are given as what they are.
        field = out if self.dtype == FLOAT else out.to(self.dtype)
        reference.perturbed_conv2d(
            field, self.base, self.difference, self.weight, self.before, self.directions, weight_id, bias_id,
            self.epsilon, activation=activation, **self.window,
        )  # fmt: skip
        return field.double()

    def field(self, tensor_id, shape):
        z = torch.full((self.directions.num, *shape), NAN, dtype=torch.float64)
        reference.sample(z, self.directions, tensor_id, self.dtype)
        return z.repeat_interleave(self.sides, dim=0)

    def products(self, dtype):
        """Δz without the bias in float64, or by torch's own convolutions in the compute dtype."""
        result = []
        for p, u in enumerate(self.field(0, self.weight.shape)):
            step, w = self.epsilon[p].to(dtype), self.weight.to(dtype)
            delta = torch.zeros_like(self.base) if self.difference is None else self.difference[p]
            delta = delta.to(dtype)
            moved = step * (self.base.to(dtype) + delta)
            result.append(F.conv2d(delta, w, **self.window) + F.conv2d(moved, u.to(dtype), **self.window))
        return torch.stack(result).double()


@pytest.mark.parametrize("window", WINDOWS)
@pytest.mark.parametrize(
    ("first", "sides"), [(False, 1), (False, 2), (True, 2)], ids=["hidden-1", "hidden-2", "first-2"]
)
def test_error_is_at_most_twice_torchs(first, sides, window, device):
    """The directions are a chunk: the second and third of three."""
    layer = Layer(window, Directions(7, 3, 3)[1:3], sides=sides, first=first)
    exact = layer.products(torch.float64)
    torch.testing.assert_close(layer.expected(bias_id=-1), exact, rtol=1e-12, atol=1e-18)
    error = layer.run(device, bias_id=-1, bits="staged" if window in TAP_WINDOWS else "inline") - exact
    assert rms(error) <= 2 * rms(layer.products(FLOAT) - exact)


@pytest.mark.parametrize("window", ["primes", "groups-2-inside-a-block", "depthwise", *TAP_WINDOWS])
@pytest.mark.parametrize("first", [False, True], ids=["hidden", "first"])
def test_bfloat16_error_is_at_most_twice_torchs(first, window, device):
    layer = Layer(window, Directions(7, 3, 1), dtype=HALF, sides=2, first=first)
    exact = layer.products(torch.float64)
    error = layer.run(device, bias_id=-1, bits="staged") - exact
    assert rms(error) <= 2 * rms(layer.products(HALF) - exact)


@pytest.mark.parametrize(
    ("dtype", "precision"), [(FLOAT, "bf16x6"), (HALF, None)], ids=["fp32 in parts", "bf16"]
)
@pytest.mark.parametrize(("distribution", "rank"), [("rademacher", 3), ("gaussian", 2)])
@pytest.mark.parametrize("first", [False, True], ids=["hidden", "first"])
def test_low_rank_error_is_at_most_twice_torchs(first, distribution, rank, dtype, precision, device):
    directions = Directions(7, 3, 1, distribution, rank=rank, first=1)
    layer = Layer("taps-of-groups-inside-a-block", directions, dtype=dtype, sides=2, first=first)
    exact = layer.products(torch.float64)
    error = layer.run(device, bias_id=-1, precision=precision) - exact
    # Beside what torch's products lose: the engine's own Gaussian draws, to 1e-5.
    drawn = 1e-5 * rms(exact) if distribution == "gaussian" else 0
    assert rms(error) <= 2 * rms(layer.products(dtype) - exact) + drawn


@pytest.mark.parametrize(
    "window",
    [
        "stride-2",
        "depthwise-of-two-channels-each",
        "groups-2-inside-a-block",
        "taps-of-groups-inside-a-block",
    ],
)
@pytest.mark.parametrize(
    ("distribution", "rank"), [("gaussian", None), ("laplace", None), ("rademacher", 2), ("uniform", 1)]
)
def test_every_field_with_bias_and_activation(distribution, rank, window, device):
    layer = Layer(window, Directions(2**63 + 9, 5, 2, distribution, rank=rank, first=3), sides=2)
    expected = layer.expected(activation="tanh")
    error = layer.run(device, activation="tanh") - expected
    # Gaussian and Laplace draws agree to 1e-5 with float64's, the rest to the rounding of float32.
    assert error.abs().max() <= (1e-5 if rank is None else 1e-6) * expected.abs().max()


@pytest.mark.parametrize(
    "trained", [{"weight_id": -1}, {"bias_id": -1}, {"weight_id": -1, "bias_id": -1}], ids=str
)
@pytest.mark.parametrize("first", [False, True], ids=["hidden", "first"])
@pytest.mark.parametrize("window", ["groups-2-inside-a-block", "taps-of-groups-inside-a-block", "depthwise"])
def test_untrained_parts_stay_put(window, first, trained, device):
    layer = Layer(window, Directions(1, 0, 2), first=first)
    expected = layer.expected(activation="relu", **trained)
    error = layer.run(device, activation="relu", **trained) - expected
    assert error.abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("dtype", [FLOAT, HALF], ids=["fp32", "bf16"])
@pytest.mark.parametrize("window", ["primes", "groups-2-inside-a-block", "depthwise-of-two-channels-each"])
def test_staged_and_inline_results_are_identical(window, dtype, device):
    layer = Layer(window, Directions(0, 0, 3)[1:], dtype=dtype, sides=2)
    assert torch.equal(layer.run(device, bits="staged"), layer.run(device, bits="inline"))


@pytest.mark.parametrize("bits", ["inline", "staged"])
def test_tiles_and_chunks_never_change_z(bits, device):
    """A 1 × 1 window over an identity writes z out: one nonzero product a sum."""
    layer = Layer("one-by-one", Directions(2, 0, 3), first=True)
    layer.base = torch.eye(37)[:, :, None, None]
    layer.before = torch.zeros(37, 33, 1, 1)
    layer.epsilon = torch.ones(3)
    for tile in ((16, 16, 32), (64, 64, 128)):
        config = dict(zip(("BLOCK_N", "BLOCK_F", "BLOCK_I"), tile, strict=True), num_warps=4, num_stages=1)
        z = layer.run(device, bias_id=-1, bits=bits, config=config)
        assert torch.equal(z[..., 0, 0].mT, layer.field(0, (33, 37)))


@pytest.mark.parametrize("distribution", ["rademacher", "hadamard", "gaussian"])
@pytest.mark.parametrize("window", TAP_WINDOWS)
def test_a_sum_by_taps_has_the_fields_z(window, distribution, device):
    """An image as large as the window with a single one at a time writes z out, whole groups at once."""
    channels, outputs, kernel = WINDOWS[window][0][1], WINDOWS[window][1], WINDOWS[window][2]
    groups, area = WINDOWS[window][-1], kernel[0] * kernel[1]
    directions = Directions(2, 0, 3, distribution).over([(outputs, channels // groups, *kernel)])
    layer = Layer(window, directions, first=True)
    layer.window = {"stride": (1, 1), "padding": (0, 0), "dilation": (1, 1), "groups": groups}
    one = torch.eye(channels // groups * area).reshape(-1, channels // groups, *kernel)
    layer.base = one.repeat(1, groups, 1, 1)
    layer.before, layer.epsilon = torch.zeros(len(one), outputs, 1, 1), torch.ones(3)
    bits = "inline" if distribution == "gaussian" else "staged"
    z = layer.run(device, bias_id=-1, bits=bits)[..., 0, 0].mT.reshape(3, *layer.weight.shape)
    # Gaussian draws agree to 1e-5 with float64's, signs exactly.
    torch.testing.assert_close(
        z, layer.field(0, layer.weight.shape), rtol=0, atol=1e-5 if bits == "inline" else 0
    )


@pytest.mark.parametrize("bits", ["inline", "staged"])
@pytest.mark.parametrize("window", ["stride-2", "taps-of-a-word-and-a-channel", "depthwise"])
def test_any_strides_are_read_and_written_where_they_lie(window, bits, device):
    """Channels last everywhere, a sliced difference and a transposed weight; equal to a contiguous call."""
    layer = Layer(window, Directions(0, 0, 2), sides=2)
    wanted = layer.run(device, activation="relu", bits=bits)
    shape = (*wanted.shape[:2], *wanted.shape[3:], wanted.shape[2])
    out = torch.full(shape, NAN, device=device).permute(0, 1, 4, 2, 3)
    layer.base, layer.before, layer.weight = (
        t.contiguous(memory_format=torch.channels_last) for t in (layer.base, layer.before, layer.weight)
    )
    layer.difference = torch.cat([layer.difference, layer.difference], -1)[..., : layer.base.shape[3]]
    layer.weight = layer.weight.transpose(2, 3).contiguous().transpose(2, 3)
    assert torch.equal(layer.run(device, out=out, activation="relu", bits=bits), wanted)


@pytest.mark.parametrize("window", ["groups-2-inside-a-block", "taps-of-groups-inside-a-block"])
def test_addresses_beyond_32_bits_are_computed_in_64(window, device, monkeypatch):
    """The 64-bit variant, forced where the tensors would not need it, gives the same numbers."""
    layer = Layer(window, Directions(0, 0, 1), sides=2)
    wanted = layer.run(device, activation="relu", bits="staged")
    monkeypatch.setattr("zo_triton.kernels.conv2d.offset_dtype", lambda *tensors: tl.int64)
    assert torch.equal(layer.run(device, activation="relu", bits="staged"), wanted)
    huge = torch.empty(2**20, 2**12, device="meta")
    assert offset_dtype(huge) == tl.int64


@pytest.mark.parametrize("bits", ["inline", "staged"])
def test_one_launch_and_one_more_for_staged_bits(bits, device):
    with recording() as launches:
        Layer("groups-3-of-a-block-each", Directions(0, 0, 5), sides=2).run(device, bits=bits)
    assert len(launches) == (2 if bits == "staged" else 1)


@pytest.mark.parametrize(
    ("window", "distribution"),
    [
        ("primes", "rademacher"),
        ("stride-2", "gaussian"),
        ("dilation-2-uneven", "hadamard"),
        ("window-beyond-the-input", "rademacher"),
    ],
)
def test_a_first_layer_of_few_channels_is_a_linear_one_on_patches(window, distribution, device):
    """For directions enough that the patches are no more than the result."""
    shape, outputs, kernel = WINDOWS[window][:3]
    directions = Directions(7, 3, 9, distribution).over([(outputs, shape[1], *kernel), (outputs,)])
    layer = Layer(window, directions, sides=2, first=True)
    with recording() as launches:
        layer.run(device)
    assert "sample_tiles" in launches[-1].arguments
    expected = layer.expected(activation="tanh")
    error = layer.run(device, activation="tanh") - expected
    # Gaussian draws agree to 1e-5 with float64's, the rest to the rounding of float32.
    assert error.abs().max() <= (1e-5 if distribution == "gaussian" else 1e-6) * expected.abs().max()


def test_patches_larger_than_the_result_are_not_made(device):
    with recording() as launches:
        Layer("primes", Directions(0, 0, 2), first=True).run(device)
    assert "position_tiles" in launches[-1].arguments


def test_the_op_reaches_the_kernel(device):
    layer = Layer("primes", Directions(3, 1, 2), sides=2)
    with ops.use_engine("triton"):
        result = ops.perturbed_conv2d(
            layer.base.to(device), layer.difference.to(device), layer.weight.to(device), layer.directions,
            layer.epsilon.to(device), **layer.window, weight_id=0, bias_id=1,
        )  # fmt: skip
    assert torch.equal(result.cpu().double(), layer.run(device))


@pytest.mark.parametrize("window", ["stride-2", "taps-of-groups-inside-a-block"])
def test_the_result_has_its_channels_last_where_the_base_has(window, device):
    """As torch's own convolutions: a network that is channels-last stays so, and nothing is copied in between."""
    layer = Layer(window, Directions(3, 1, 2, "gaussian"), sides=2)

    def result(base):
        return ops.perturbed_conv2d(
            base.to(device), layer.difference.to(device), layer.weight.to(device), layer.directions,
            layer.epsilon.to(device), **layer.window, weight_id=0, bias_id=1,
        )  # fmt: skip

    with ops.use_engine("triton"):
        first, last = result(layer.base), result(layer.base.contiguous(memory_format=torch.channels_last))
    assert first.is_contiguous()
    assert last.movedim(2, -1).is_contiguous()
    assert torch.equal(first, last)


def test_an_empty_batch_launches_nothing(device):
    layer = Layer("primes", Directions(0, 0, 1), first=True)
    layer.base, layer.before = layer.base[:0], layer.before[:0]
    with recording() as launches:
        assert layer.run(device).shape == (1, 0, *layer.before.shape[1:])
    assert not launches


def test_bad_arguments_are_named(device):
    layer = Layer("groups-2-inside-a-block", Directions(0, 0, 1, "gaussian"))
    with pytest.raises(
        ValueError, match="staged bits need full-rank 'rademacher' or 'hadamard' directions, got 'gaussian'"
    ):
        layer.run(device, bits="staged")
    with pytest.raises(ValueError, match="unknown activation 'swish'; choose one of"):
        layer.run(device, activation="swish")
    with pytest.raises(TypeError, match=r"compute dtype must be one of .*, got torch.float64"):
        layer.run(device, out=torch.empty(1, *layer.before.shape, dtype=torch.float64, device=device))
    with pytest.raises(ValueError, match=r"leaves \[6, 5\] of base .*, but out has shape \(1, 2, 14, 6, 4\)"):
        layer.run(device, out=torch.empty(1, *layer.before.shape, device=device)[..., :4])
    layer.window["groups"] = 3
    with pytest.raises(ValueError, match=r"3 groups of a weight .* need 9 input channels .* got base"):
        layer.run(device)
