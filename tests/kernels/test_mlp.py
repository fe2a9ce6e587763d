"""A whole MLP in one launch against the reference, which goes layer by layer in float64."""

import pytest
import torch

from zo_triton import ops, reference
from zo_triton.directions import Directions
from zo_triton.kernels import mlp_differences
from zo_triton.kernels.launch import recording

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu, "none": lambda x: x}
# widths, samples, activations, directions, sides, weight ids, bias ids
CASES = {
    "logistic-regression": ((33, 5), 7, ["none"], 3, 2, [0], [1]),
    "digits": ((64, 32, 10), 37, ["relu", "none"], 3, 1, [0, 2], [1, 3]),
    "four-layers-of-several-tiles": (
        (65, 37, 13, 67, 40), 17, ["tanh", "relu", "relu", "none"], 2, 2, [0, 2, 4, 6], [1, 3, 5, 7],
    ),
    "as-wide-as-it-goes": ((5, 128, 127), 3, ["relu", "none"], 1, 2, [0, 2], [1, 3]),
    "frozen-parts": ((20, 9, 4), 40, ["gelu", "none"], 2, 1, [-1, 2], [1, -1]),
    "frozen-second-layer": ((20, 9, 4), 4, ["relu", "none"], 2, 2, [0, -1], [-1, -1]),
    "one-of-everything": ((1, 1, 1), 1, ["relu", "none"], 1, 1, [0, 2], [1, 3]),
}  # fmt: skip


def _network(widths, samples, activations):
    generator = torch.Generator().manual_seed(0)
    a, inputs, outputs, weights = torch.randn(samples, widths[0], generator=generator), [], [], []
    for inner, rows, activation in zip(widths[:-1], widths[1:], activations, strict=True):
        weights.append(torch.randn(rows, inner, generator=generator) / inner**0.5)
        inputs.append(a)
        outputs.append(a @ weights[-1].T)
        a = ACTIVATIONS[activation](outputs[-1])
    return inputs, outputs, weights, torch.randint(0, widths[-1], (samples,), generator=generator)


def _values(samples, outputs):
    """A target of the squared error."""
    return torch.sin(torch.arange(samples * outputs, dtype=torch.float32)).view(samples, outputs)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_the_reference(case, device):
    widths, samples, activations, num, sides, weight_ids, bias_ids = case
    inputs, outputs, weights, target = _network(widths, samples, activations)
    directions = Directions(2**40 + 3, 5, num + 1)[1:]
    values = _values(samples, widths[-1])
    for eps, wish, smoothing in (
        (1e-2, target, 0.0),
        (1e-6, target, 0.1),
        (1e-2, values, 0.0),
        (1e-6, values, 0.0),
    ):
        signed_eps = eps * torch.tensor([1.0, -0.9])[:sides].repeat(num)
        results = []
        for engine, place in ((mlp_differences, device), (reference.mlp_differences, "cpu")):
            out = torch.full((len(signed_eps), samples), float("nan"), device=place)
            moved = [[tensor.to(place) for tensor in part] for part in (inputs, outputs, weights)]
            engine(
                out, *moved, weight_ids, bias_ids, activations, wish.to(place), directions,
                signed_eps.to(place), smoothing,
            )  # fmt: skip
            results.append(out.cpu())
        ours, wanted = results
        assert (ours - wanted).abs().max() <= 2e-6 * wanted.abs().max()


@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
def test_goes_through_the_op_in_one_launch_after_its_operands_are_taken_apart(loss, device):
    inputs, outputs, weights, target = _network((33, 20, 5), 19, ["relu", "none"])
    target = _values(19, 5) if loss == "squared" else target
    directions, signed_eps = Directions(1, 0, 4), 1e-3 * torch.tensor([1.0, -1.0]).repeat(4)

    def run(chosen, steps):
        with ops.use_engine("triton"):
            return ops.mlp_differences(
                *([tensor.to(device) for tensor in part] for part in (inputs, outputs, weights)), [0, 2], [1, 3],
                ["relu", "none"], target.to(device), chosen, steps.to(device),
            ).cpu()  # fmt: skip

    with recording() as launches:
        run(directions, signed_eps)
    assert [launch.kernel.__name__ for launch in launches] == ["_parts_kernel", "_mlp_kernel"]
    # A chunk of the directions is a slice of the whole.
    assert torch.equal(run(directions, signed_eps)[2:6], run(directions[1:3], signed_eps[2:6]))


@pytest.mark.parametrize("loss", ["cross-entropy", "squared"])
def test_other_fields_and_any_strides(loss, device):
    """Gaussian directions, transposed tensors, a float64 target, and an output with the samples first."""
    inputs, outputs, weights, target = _network((7, 5, 3), 18, ["relu", "none"])
    target = _values(3, 18).T.double() if loss == "squared" else target
    directions, signed_eps = Directions(1, 0, 2, "gaussian"), torch.full((2,), 1e-3)
    wanted = torch.full((2, 18), float("nan"))
    arguments = [0, 2], [1, 3], ["relu", "none"]
    reference.mlp_differences(
        wanted, inputs, outputs, weights, *arguments, target, directions, signed_eps, 0.0
    )
    out = torch.full((18, 2), float("nan"), device=device).T
    turned = [[tensor.T.contiguous().T.to(device) for tensor in part] for part in (inputs, outputs, weights)]
    mlp_differences(out, *turned, *arguments, target.to(device), directions, signed_eps.to(device), 0.0)
    torch.testing.assert_close(out.cpu(), wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


def test_offered_up_to_128_outputs_and_four_layers(device):
    signs, place = Directions(0, 0, 1), torch.device(device)
    with ops.use_engine("triton"):
        assert ops.offers_mlp(place, signs, [torch.empty(128, 3072), torch.empty(128, 128)])
        assert not ops.offers_mlp(place, signs, [torch.empty(129, 8), torch.empty(10, 129)])
        assert not ops.offers_mlp(place, signs, [torch.empty(8, 8)] * 5)
        assert not ops.offers_mlp(place, Directions(0, 0, 1, rank=1), [torch.empty(8, 8)])


BAD = {
    r"up to 4 layers with up to 128 outputs each go in one launch, got outputs \[129\]": {"widths": (2, 129)},
    "the last layer's outputs are logits, got activation 'relu' after it": {"activation": "relu"},
    "unknown activation 'swish'; choose one of": {"activation": "swish"},
    "directions of full rank only, got rank 1": {"rank": 1},
    r"label_smoothing must be in \[0, 1\], got 2.0": {"smoothing": 2.0},
    r"need a target with shape \(2, 3\), .* got torch.float32 with shape \(2,\)": {"target": torch.ones(2)},
    r"need a target with shape \(2,\), .* got torch.int64 with shape \(3,\)": {
        "target": torch.tensor([0, 1, 2])
    },
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message, device):
    choices = {"widths": (2, 3), "activation": "none", "rank": None, "smoothing": 0.0, **BAD[message]}
    inputs, outputs, weights, target = _network(choices["widths"], 2, ["none"])
    target = choices.get("target", target)
    directions = Directions(0, 0, 1, rank=choices["rank"])
    with pytest.raises(ValueError, match=message):
        mlp_differences(
            torch.empty(1, 2, device=device), inputs, outputs, weights, [0], [1], [choices["activation"]], target,
            directions, torch.ones(1), choices["smoothing"],
        )  # fmt: skip
