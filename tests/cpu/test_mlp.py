"""A whole MLP in one compiled pass against the reference, which goes layer by layer in float64."""

import pytest
import torch

import zo_triton as zo
from zo_triton import ops

ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "gelu": torch.nn.functional.gelu, "none": lambda x: x}
# widths, samples, activations, directions, sides, weight ids, bias ids
CASES = {
    "logistic-regression": ((33, 5), 7, ["none"], 9, 2, [0], [1]),
    "digits": ((64, 32, 10), 37, ["relu", "none"], 3, 1, [0, 2], [1, 3]),
    "three-layers-past-a-block-of-samples": (
        (65, 37, 13, 10),
        131,
        ["tanh", "relu", "none"],
        11,
        2,
        [0, 2, 4],
        [1, 3, 5],
    ),
    "frozen-parts": ((20, 9, 4), 40, ["gelu", "none"], 4, 1, [-1, 2], [1, -1]),
    "one-of-everything": ((1, 1, 1), 1, ["relu", "none"], 1, 1, [0, 2], [1, 3]),
    "linear-network": ((7, 5, 3), 33, ["none", "none"], 2, 2, [0, 2], [1, 3]),
}


def _network(widths, samples, activations):
    generator = torch.Generator().manual_seed(0)
    a, inputs, outputs, weights = torch.randn(samples, widths[0], generator=generator), [], [], []
    for inner, rows, activation in zip(widths[:-1], widths[1:], activations, strict=True):
        weights.append(torch.randn(rows, inner, generator=generator) / inner**0.5)
        inputs.append(a)
        outputs.append(a @ weights[-1].T)
        a = ACTIVATIONS[activation](outputs[-1])
    return inputs, outputs, weights, torch.randint(0, widths[-1], (samples,), generator=generator)


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
@pytest.mark.parametrize("eps", [1e-2, 1e-6])
@pytest.mark.parametrize("smoothing", [0.0, 0.1, None], ids=["plain", "smoothed", "squared"])
def test_agrees_with_the_reference(case, eps, smoothing):
    widths, samples, activations, num, sides, weight_ids, bias_ids = case
    inputs, outputs, weights, target = _network(widths, samples, activations)
    if smoothing is None:
        target, smoothing = torch.sin(torch.arange(samples * widths[-1])).view(samples, -1), 0.0
    directions = zo.Directions(2**40 + 3, 5, num + 1)[1:]
    signed_eps = eps * torch.tensor([1.0, -1.0])[:sides].repeat(num)
    results = {}
    for engine in ("cpu", "reference"):
        with zo.use_engine(engine):
            results[engine] = ops.mlp_differences(
                inputs,
                outputs,
                weights,
                weight_ids,
                bias_ids,
                activations,
                target,
                directions,
                signed_eps,
                smoothing,
            )
    error = (results["cpu"] - results["reference"]).abs().max()
    assert error <= 2e-6 * results["reference"].abs().max()


@pytest.mark.parametrize("eps", [0.1, 1.0, 10.0])
def test_a_confident_network_may_lose_its_confidence(eps):
    """Before a long step the label's share is nothing in float32, or so little that it must not be rounded."""
    inputs, outputs, weights, target = _network((12, 16, 5), 33, ["relu", "none"])
    weights[-1], outputs[-1] = 40 * weights[-1], 40 * outputs[-1]
    found = []
    for engine in ("cpu", "reference"):
        with zo.use_engine(engine):
            found.append(
                ops.mlp_differences(
                    inputs, outputs, weights, [0, 2], [1, 3], ["relu", "none"], target,
                    zo.Directions(1, 0, 8), torch.full((8,), eps),
                )
            )  # fmt: skip
    ours, expected = (each.double() for each in found)
    assert ((ours - expected).abs() <= 1e-5 * expected.abs() + 1e-6 * expected.abs().max()).all()


def test_threads_and_chunks_do_not_change_a_bit():
    inputs, outputs, weights, target = _network((64, 32, 10), 128, ["relu", "none"])
    directions, signed_eps, threads = (
        zo.Directions(1, 0, 37),
        torch.full((37,), 1e-3),
        torch.get_num_threads(),
    )

    def run(chosen, steps):
        return ops.mlp_differences(
            inputs, outputs, weights, [0, 2], [1, 3], ["relu", "none"], target, chosen, steps
        )

    try:
        torch.set_num_threads(2)
        whole = run(directions, signed_eps)
        torch.set_num_threads(1)
        assert torch.equal(run(directions, signed_eps), whole)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(
        torch.cat([run(directions[:5], signed_eps[:5]), run(directions[5:], signed_eps[5:])]), whole
    )


def test_wide_networks_and_other_fields_are_left_to_the_layers():
    cpu, signs = torch.device("cpu"), zo.Directions(0, 0, 1)
    small, wide = [torch.empty(32, 64), torch.empty(10, 32)], [torch.empty(256, 784), torch.empty(256, 256)]
    assert ops.offers_mlp(cpu, signs, small)
    assert not ops.offers_mlp(cpu, signs, wide)
    assert not ops.offers_mlp(cpu, zo.Directions(0, 0, 1, "gaussian"), small)
    assert not ops.offers_mlp(cpu, zo.Directions(0, 0, 1, rank=1), small)


@pytest.mark.parametrize("samples", [1, 37, 131])
@pytest.mark.parametrize("squared", [False, True])
def test_fixed_point_is_nearer_to_float32_than_bfloat16(samples, squared):
    generator = torch.Generator().manual_seed(1)
    tensors = [torch.randn(32, 64, generator=generator) / 8, torch.randn(1, 32, generator=generator)]
    tensors += [torch.randn(10, 32, generator=generator) / 6, torch.randn(1, 10, generator=generator)]
    x = torch.randn(samples, 64, generator=generator)
    target = torch.randn(samples, 10, generator=generator) if squared else torch.arange(samples) % 10
    measured = [
        ops.mlp_measure(
            [tensor.numpy() for tensor in tensors],
            x.numpy(),
            target.numpy(),
            zo.Directions(0, 0, 21),
            torch.full((21,), 1e-3).numpy(),
            dtype,
        )
        for dtype in (torch.float32, torch.bfloat16)
    ]
    assert measured[0][0] == measured[1][0], "the base is float32 always"
    error = abs(measured[0][1] - measured[1][1]).max() / abs(measured[0][1]).max()
    assert 0 < error < 2e-3


@pytest.mark.parametrize("widths", [(33, 5), (1, 1, 1), (65, 37, 13, 10), (20, 9, 33, 3)])
@pytest.mark.parametrize("samples", [1, 32, 131])
@pytest.mark.parametrize("squared", [False, True])
def test_a_measurement_is_the_base_and_the_differences_of_it(widths, samples, squared):
    activations = ["relu"] * (len(widths) - 2) + ["none"]
    inputs, outputs, weights, target = _network(widths, samples, activations)
    if squared:
        target = torch.randn(samples, widths[-1])
    directions, signed_eps = zo.Directions(3, 1, 19), torch.tensor([1e-3, -1e-3]).repeat(19)
    ids = range(len(weights))
    found = ops.mlp_differences(
        inputs, outputs, weights, [2 * i for i in ids], [2 * i + 1 for i in ids], activations, target, directions,
        signed_eps,
    )  # fmt: skip
    if squared:
        loss, share = torch.nn.functional.mse_loss(outputs[-1], target), 1 / widths[-1]
    else:
        loss, share = torch.nn.functional.cross_entropy(outputs[-1], target), 1.0
    expected = share * found.double().mean(1)
    arrays = [matrix.numpy() for w in weights for matrix in (w, torch.zeros(1, w.shape[0]))]
    for dtype, tolerance in ((torch.float32, 2e-6), (torch.bfloat16, 3e-3)):
        measured, differences = ops.mlp_measure(
            arrays, inputs[0].numpy(), target.numpy(), directions, signed_eps.numpy(), dtype
        )
        assert measured == pytest.approx(loss.item(), rel=2e-6, abs=1e-7)
        error = (torch.from_numpy(differences).double() - expected).abs().max()
        assert error <= tolerance * found.abs().max()
