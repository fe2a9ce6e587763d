"""A whole MLP whose layers' outputs are perturbed, in one launch, against the reference in float64."""

from itertools import pairwise

import pytest
import torch

from zo_triton import ops, reference
from zo_triton.directions import Directions
from zo_triton.kernels import node_mlp_differences
from zo_triton.kernels.launch import recording

# widths, samples, activations, directions, sides
CASES = {
    "one layer": ((5,), 7, ["none"], Directions(7, 3, 3, "hadamard"), 2),
    "digits, chunk of a larger matrix": (
        (32, 10), 37, ["relu", "none"], Directions(2**63, 3, 3, "hadamard", order=16, first=2), 1,
    ),
    "four layers of several tiles": (
        (37, 13, 67, 40), 17, ["tanh", "relu", "relu", "none"], Directions(1, 2, 2, "hadamard"), 2,
    ),
    "as wide as it goes": ((128, 127), 3, ["gelu", "none"], Directions(1, 2, 2, "rademacher"), 2),
    "one of everything": ((1, 1), 1, ["relu", "none"], Directions(1, 2, 1, "hadamard"), 1),
}  # fmt: skip


def network(widths, samples):
    generator = torch.Generator().manual_seed(0)
    outputs = [torch.randn(samples, width, generator=generator) for width in widths]
    weights = [torch.randn(b, a, generator=generator) / a**0.5 for a, b in pairwise(widths)]
    return outputs, weights, torch.randint(0, widths[-1], (samples,), generator=generator)


def values(samples, outputs):
    """A target of the squared error."""
    return torch.sin(torch.arange(samples * outputs, dtype=torch.float32)).view(samples, outputs)


def both(outputs, weights, activations, target, directions, signed_eps, smoothing, device, **choices):
    """The kernel's losses and the reference's."""
    results = []
    engines = (node_mlp_differences, device, choices), (reference.node_mlp_differences, "cpu", {})
    for engine, place, options in engines:
        out = torch.full((len(signed_eps), len(target)), float("nan"), device=place)
        moved = [[tensor.to(place) for tensor in part] for part in (outputs, weights)]
        places = list(range(3, 3 + len(outputs))), [7 * layer for layer in range(len(outputs))]
        wish, steps = target.to(place), signed_eps.to(place)
        engine(out, *moved, activations, wish, directions, *places, steps, smoothing, **options)
        results.append(out.cpu())
    return results


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_the_reference(case, device):
    widths, samples, activations, directions, sides = case
    outputs, weights, target = network(widths, samples)
    wishes = ((1e-2, target, 0.0), (1e-6, target, 0.1), (1e-6, values(samples, widths[-1]), 0.0))
    for eps, wish, smoothing in wishes:
        signed_eps = eps * torch.tensor([1.0, -0.9])[:sides].repeat(directions.num)
        ours, wanted = both(outputs, weights, activations, wish, directions, signed_eps, smoothing, device)
        assert (ours - wanted).abs().max() <= 2e-6 * wanted.abs().max()


def test_bfloat16_operands_cost_what_their_rounding_costs(device):
    outputs, weights, target = network((64, 64, 10), 20)
    directions, signed_eps = Directions(1, 2, 4, "hadamard"), torch.full((4,), 1e-4)
    activations, choices = ["relu", "relu", "none"], {"precision": "bf16"}
    ours, wanted = both(outputs, weights, activations, target, directions, signed_eps, 0.0, device, **choices)
    assert (ours - wanted).abs().max() <= 2.0**-7 * wanted.abs().max()


def test_goes_through_the_op_in_one_launch(device):
    outputs, weights, target = network((20, 5), 19)
    directions, signed_eps = Directions(1, 0, 4, "hadamard"), 1e-3 * torch.tensor([1.0, -1.0]).repeat(4)

    def run(chosen, steps):
        with ops.use_engine("triton"):
            return ops.node_mlp_differences(
                *([tensor.to(device) for tensor in part] for part in (outputs, weights)), ["relu", "none"],
                target.to(device), chosen, [0, 1], [0, 20], steps.to(device),
            ).cpu()  # fmt: skip

    with recording() as launches:
        run(directions, signed_eps)
    assert len(launches) == 1
    # A chunk of the directions is a slice of the whole.
    assert torch.equal(run(directions, signed_eps)[2:6], run(directions[1:3], signed_eps[2:6]))


def test_any_strides(device):
    """Transposed tensors, a float64 target, and an output with the samples first."""
    outputs, weights, _ = network((5, 3), 18)
    target, directions = values(3, 18).T.double(), Directions(1, 0, 2, "hadamard")
    signed_eps, wanted = torch.full((2,), 1e-3), torch.empty(2, 18)
    places = [0, 1], [0, 5]
    reference.node_mlp_differences(
        wanted, outputs, weights, ["relu", "none"], target, directions, *places, signed_eps, 0.0
    )
    out = torch.full((18, 2), float("nan"), device=device).T
    turned = [[tensor.T.contiguous().T.to(device) for tensor in part] for part in (outputs, weights)]
    node_mlp_differences(
        out, *turned, ["relu", "none"], target.to(device), directions, *places, signed_eps.to(device), 0.0
    )
    torch.testing.assert_close(out.cpu(), wanted, rtol=1e-5, atol=1e-6 * float(wanted.abs().max()))


def test_offered_up_to_128_outputs_and_four_layers(device):
    signs, place = Directions(0, 0, 1, "hadamard"), torch.device(device)
    with ops.use_engine("triton"):
        assert ops.offers_node_mlp(place, signs, (128, 128))
        assert not ops.offers_node_mlp(place, signs, (129, 10))
        assert not ops.offers_node_mlp(place, signs, (8,) * 5)
        assert not ops.offers_node_mlp(place, Directions(0, 0, 1, "gaussian"), (8, 8))
    with ops.use_engine("reference"):
        assert not ops.offers_node_mlp(place, signs, (8, 8))


BAD = {
    r"up to 4 layers with up to 128 outputs each go in one launch, got outputs \[129\]": {"widths": (129,)},
    "the last layer's outputs are logits, got activation 'relu' after it": {"activation": "relu"},
    "unknown activation 'swish'; choose one of": {"activation": "swish"},
    r"label_smoothing must be in \[0, 1\], got 2.0": {"smoothing": 2.0},
    r"need a target with shape \(2,\), .* got torch.int64 with shape \(3,\)": {
        "target": torch.tensor([0, 1, 2])
    },
    r"outputs \[3\] need weights \[\] from the second layer on, got \[\(2, 3\)\]": {
        "weights": [torch.ones(2, 3)]
    },
}


@pytest.mark.parametrize("message", BAD)
def test_bad_arguments_are_named(message, device):
    choices = {"widths": (3,), "activation": "none", "smoothing": 0.0, **BAD[message]}
    outputs, weights, target = network(choices["widths"], 2)
    with pytest.raises(ValueError, match=message):
        node_mlp_differences(
            torch.empty(1, 2, device=device), outputs, choices.get("weights", weights), [choices["activation"]],
            choices.get("target", target), Directions(0, 0, 1, "hadamard"), [0], [0], torch.ones(1),
            choices["smoothing"],
        )  # fmt: skip
