"""The importable layers: torch's own in everything but the activation, and a door to the fused ops."""

import copy
import io

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo

pytestmark = pytest.mark.usefixtures("one_thread")

ACTIVATIONS = {
    "none": nn.Identity(),
    "relu": nn.ReLU(),
    "tanh": nn.Tanh(),
    "sigmoid": nn.Sigmoid(),
    "gelu": nn.GELU(),
    "gelu_tanh": nn.GELU(approximate="tanh"),
    "silu": nn.SiLU(),
}
GENERATOR = torch.Generator().manual_seed(0)
ROWS = torch.randn(5, 7, generator=GENERATOR)
IMAGES = torch.randn(3, 4, 9, 8, generator=GENERATOR)
DIRECTIONS = zo.Directions(seed=3, step=2, num=4)
EPS = torch.full((4,), 1e-2)


def pairs():
    """Each layer, its torch counterpart, and an input."""
    window = {"stride": 2, "padding": (1, 2), "dilation": (1, 2), "groups": 2}
    written_out = nn.Sequential(nn.Linear(7, 6), nn.ReLU(), nn.Linear(6, 5), nn.ReLU(), nn.Linear(5, 3))
    return {
        "linear": (zo.ZOLinear(7, 6), nn.Linear(7, 6), ROWS),
        "linear-no-bias": (zo.ZOLinear(7, 6, bias=False), nn.Linear(7, 6, bias=False), ROWS),
        "conv": (zo.ZOConv2d(4, 6, 3, **window), nn.Conv2d(4, 6, 3, **window), IMAGES),
        "conv-no-bias": (zo.ZOConv2d(4, 6, (3, 2), bias=False), nn.Conv2d(4, 6, (3, 2), bias=False), IMAGES),
        "mlp": (zo.ZOMLP([7, 6, 5, 3]), written_out, ROWS),
    }


@pytest.mark.parametrize("name", pairs())
def test_state_dicts_are_interchangeable(name):
    ours, theirs, x = pairs()[name]
    assert list(ours.state_dict()) == list(theirs.state_dict())
    assert not torch.equal(ours(x), theirs(x))
    ours.load_state_dict(theirs.state_dict())
    assert torch.equal(ours(x), theirs(x))
    back = pairs()[name][1]
    back.load_state_dict(ours.state_dict())
    assert torch.equal(back(x), theirs(x))


@pytest.mark.parametrize("name", pairs())
def test_autograd_sees_an_ordinary_layer(name):
    ours, theirs, x = pairs()[name]
    theirs.load_state_dict(ours.state_dict())
    for layer in (ours, theirs):
        layer(x).square().sum().backward()
    for own, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        assert torch.equal(own.grad, other.grad)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activations_are_those_of_torch(activation):
    linear, conv = zo.ZOLinear(7, 6, activation=activation), zo.ZOConv2d(4, 6, 3, activation=activation)
    mlp = zo.ZOMLP([7, 6, 2], activation)
    function = ACTIVATIONS[activation]
    torch.testing.assert_close(linear(ROWS), function(F.linear(ROWS, linear.weight, linear.bias)))
    torch.testing.assert_close(conv(IMAGES), function(F.conv2d(IMAGES, conv.weight, conv.bias)))
    torch.testing.assert_close(mlp(ROWS), mlp[2](function(mlp[0](ROWS))))


@pytest.mark.parametrize(
    "make",
    [
        lambda: (zo.ZOLinear(7, 6, activation="relu"), ROWS),
        lambda: (zo.ZOLinear(7, 6, bias=False, activation="silu"), ROWS),
        lambda: (zo.ZOConv2d(4, 6, 3, 2, (1, 2), groups=2, activation="tanh"), IMAGES),
        lambda: (zo.ZOConv2d(4, 6, (3, 5), padding="same", activation="gelu"), IMAGES),
        lambda: (zo.ZOConv2d(4, 6, 2, padding="valid", bias=False), IMAGES),
    ],
    ids=["linear", "linear-no-bias", "conv", "conv-same", "conv-valid-no-bias"],
)
@pytest.mark.parametrize("sides", [1, 2])
def test_differences_are_those_of_the_moved_layer(make, sides):
    layer, base = make()
    delta = 1e-2 * torch.randn(4 * sides, *base.shape, generator=torch.Generator().manual_seed(1))
    steps = torch.tensor([1e-2, -2e-2])[:sides].repeat(4)
    value, found = layer.differences(base, delta, DIRECTIONS, steps, weight_id=5, bias_id=2)
    noise = {"weight": zo.sample(DIRECTIONS, 5, layer.weight.shape).double()}
    if layer.bias is not None:
        noise["bias"] = zo.sample(DIRECTIONS, 2, layer.bias.shape).double()
    exact = copy.deepcopy(layer).double()
    assert torch.equal(value, layer(base))
    for p, step in enumerate(steps.double()):
        moved = {name: param + step * noise[name][p // sides] for name, param in exact.named_parameters()}
        after = torch.func.functional_call(exact, moved, (base.double() + delta[p].double(),))
        expected = after - exact(base.double())
        assert (found[p] - expected).norm() <= 2e-6 * expected.norm()
    assert not value.requires_grad


def test_the_difference_mode_follows_the_layers():
    model = nn.Sequential(
        zo.ZOConv2d(4, 3, 3, activation="relu"), nn.Flatten(), zo.ZOLinear(3 * 7 * 6, 8, activation="tanh"),
        zo.ZOMLP([8, 6, 3]),
    )  # fmt: skip
    target = torch.tensor([0, 2, 1])
    params = list(model.parameters())
    _, found = zo.differences(
        lambda: F.cross_entropy(model(IMAGES), target), params, DIRECTIONS, 1e-4, strict=True
    )
    exact = copy.deepcopy(model).double()

    def loss(k):
        moved = {
            name: param if k is None else param + 1e-4 * zo.sample(DIRECTIONS, i, param.shape)[k].double()
            for i, (name, param) in enumerate(exact.named_parameters())
        }
        return F.cross_entropy(torch.func.functional_call(exact, moved, (IMAGES.double(),)), target)

    expected = torch.stack([loss(k) - loss(None) for k in range(4)])
    assert ((found - expected).abs() / expected.abs()).median() <= 1e-3


def test_a_step_trains_the_layers():
    model = zo.ZOMLP([7, 8, 2])
    optimizer = zo.ZOSGD(model.parameters(), lr=0.1, directions=32, eps=1e-3, seed=0)
    target = (ROWS.sum(1) > 0).long()
    losses = [optimizer.step(lambda: F.cross_entropy(model(ROWS), target)) for _ in range(20)]
    assert losses[-1] < losses[0]


def test_layers_are_copied_and_saved_whole():
    layer = zo.ZOConv2d(4, 6, 3, activation="gelu_tanh")
    file = io.BytesIO()
    torch.save(layer, file)
    file.seek(0)
    for twin in (copy.deepcopy(layer), torch.load(file, weights_only=False)):
        assert torch.equal(twin(IMAGES), layer(IMAGES))
        assert twin.activation == "gelu_tanh"


def test_reprs_name_the_activation():
    assert repr(zo.ZOLinear(7, 6, activation="relu")) == (
        "ZOLinear(in_features=7, out_features=6, bias=True, activation='relu')"
    )
    assert repr(zo.ZOConv2d(4, 6, 3, groups=2)) == (
        "ZOConv2d(4, 6, kernel_size=(3, 3), stride=(1, 1), groups=2, activation='none')"
    )


def test_an_mlp_is_built_of_torch_layers():
    mlp = zo.ZOMLP([7, 6, 3])
    assert [type(layer) for layer in mlp] == [nn.Linear, nn.ReLU, nn.Linear]
    assert type(mlp).forward is nn.Sequential.forward
    assert type(mlp[:2]) is nn.Sequential
    assert mlp[:2][0] is mlp[0]
    assert [type(layer) for layer in zo.ZOMLP([7, 3], bias=False)] == [nn.Linear]


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (lambda: zo.ZOLinear(7, 0), ValueError, "out_features must be at least 1, got 0"),
        (lambda: zo.ZOLinear(7.0, 1), TypeError, "in_features must be an int, got 7.0"),
        (lambda: zo.ZOLinear(7, 1, activation="swish"), ValueError, "unknown activation 'swish'; choose"),
        (
            lambda: zo.ZOLinear(7, 1, dtype=torch.complex64),
            TypeError,
            "real floating type, got torch.complex64",
        ),
        (lambda: zo.ZOConv2d(4, -6, 3), ValueError, "out_channels must be at least 1, got -6"),
        (lambda: zo.ZOConv2d(4, 6, 3, groups=3), ValueError, "divisible by groups"),
        (
            lambda: zo.ZOConv2d(4, 6, 3, padding_mode="reflect"),
            ValueError,
            "pads with zeros, got .*'reflect'",
        ),
        (lambda: zo.ZOMLP([7]), ValueError, r"at least an input and an output width, got \[7\]"),
        (lambda: zo.ZOMLP([7, 0, 3]), ValueError, r"sizes\[1\] must be at least 1, got 0"),
        (lambda: zo.ZOMLP([7, 3], "step"), ValueError, "unknown activation 'step'"),
    ],
)
def test_bad_settings_are_refused(make, error, message):
    with pytest.raises(error, match=message):
        make()


def test_bad_evaluations_are_refused():
    linear, conv = zo.ZOLinear(7, 6), zo.ZOConv2d(4, 6, 2, padding="same")
    with pytest.raises(ValueError, match=r"\[K\] or \[2K\] with K = 4 directions, got \(3,\)"):
        linear.differences(ROWS, None, DIRECTIONS, EPS[:3])
    with pytest.raises(ValueError, match=r"difference must have shape \(4, 5, 7\), got \(4, 5, 6\)"):
        linear.differences(ROWS, torch.zeros(4, 5, 6), DIRECTIONS, EPS)
    with pytest.raises(ValueError, match=r"base must be \[N, in_features\], got shape \(7,\)"):
        linear.differences(ROWS[0], None, DIRECTIONS, EPS)
    with pytest.raises(ValueError, match=r"base must be \[N, C, H, W\], got shape \(4, 9, 8\)"):
        conv.differences(IMAGES[0], None, DIRECTIONS, EPS)
    with pytest.raises(ValueError, match="more zeros on one side than on the other"):
        conv.differences(IMAGES, None, DIRECTIONS, EPS)
    with pytest.raises(RuntimeError, match=r"expected input.* to have 4 channels, but got 3 channels"):
        zo.ZOConv2d(4, 6, 2).differences(IMAGES[:, :3], None, DIRECTIONS, EPS)
