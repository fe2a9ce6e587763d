"""Exact differences against f(a+δ) - f(a) in float64, from steps that cancel to steps that saturate."""

import pytest
import torch

from zo_triton import cpu, reference

ACTIVATIONS = ("relu", "tanh", "sigmoid", "silu", "gelu", "gelu_tanh")
SIZES = {"cancelling": 1e-6, "ordinary": 1e-2, "across-the-kink": 1.0, "saturating": 10.0}


def _compare(function, out, *arguments):
    out.fill_(torch.nan)
    getattr(cpu, function)(out, *arguments)
    expected = torch.empty(out.shape, dtype=torch.float64)
    getattr(reference, function)(expected, *arguments)
    return out.double(), expected


@pytest.mark.parametrize("size", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_activation(activation, size):
    generator = torch.Generator().manual_seed(0)
    base = torch.randn(37, 29, generator=generator) * 4
    step = torch.randn(3, 37, 29, generator=generator) * size
    ours, expected = _compare("activation_difference", torch.empty_like(step), base, step, activation)
    assert (ours - expected).abs().max() <= 1e-6 * expected.abs().max()
    assert ((ours - expected).abs() / expected.abs().clamp_min(1e-30)).median() <= 3e-7
    lying = step.transpose(1, 2).contiguous().transpose(1, 2)
    assert torch.equal(
        _compare("activation_difference", torch.empty_like(lying), base, lying, activation)[0], ours
    )


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_steps_from_one_saturated_end_to_the_other(activation):
    base = torch.tensor([-400.0, -120.0, -95.0, -45.0, -3.0, 0.0, 3.0, 45.0, 95.0, 120.0, 400.0])
    step = torch.tensor([-500.0, -130.0, -90.0, -41.0, -10.0, 10.0, 41.0, 90.0, 130.0, 500.0])
    step = step[:, None].expand(-1, len(base)).contiguous()
    ours, expected = _compare("activation_difference", torch.empty_like(step), base, step, activation)
    # SiLU and GELU multiply the step by a share that is rounded near 1.
    assert ((ours - expected).abs() <= 3e-6 * expected.abs() + 3e-7 * step.abs()).all()


@pytest.mark.parametrize("activation", ["tanh", "sigmoid", "silu"])
def test_short_steps_have_the_same_bits_beside_longer_ones(activation):
    # 0.17 and 0.34 are the longest that take no multiple of ln 2 off their exponents.
    generator = torch.Generator().manual_seed(5)
    base = torch.randn(200, generator=generator) * 3
    short = torch.cat([torch.linspace(-0.17, 0.17, 100), torch.logspace(-30, -1, 100)])
    step = short.repeat(4, 1)
    step[1:, 0] = torch.tensor([0.3, 1.0, 50.0])
    ours = torch.full_like(step, torch.nan)
    cpu.activation_difference(ours, base, step, activation)
    assert torch.equal(ours[1:, 1:], ours[:1, 1:].expand(3, -1))


def test_long_steps_of_gelu_are_differences_of_float64():
    base = torch.linspace(-9.0, -3.0, 97)  # where all the difference is in the tail
    step = torch.full((1, 97), 2.0)
    ours, expected = _compare("activation_difference", torch.empty_like(step), base, step, "gelu")
    assert ((ours - expected).abs() <= 1e-6 * expected.abs() + 1e-14).all()


def test_activation_of_a_base_of_any_shape():
    base, step = torch.randn(2, 3, 4, 5), torch.randn(6, 2, 3, 4, 5)
    ours, expected = _compare("activation_difference", torch.empty_like(step), base, step, "tanh")
    torch.testing.assert_close(ours, expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("size", [1e-6, 1e-2, 1.0, 60.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("layout", ["samples-inside", "classes-inside"])
def test_cross_entropy(size, smoothing, layout):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(33, 10, generator=generator) * 3
    target = torch.randint(0, 10, (33,), generator=generator)
    step = torch.randn(4, 33, 10, generator=generator) * size
    if layout == "samples-inside":
        step = step.transpose(1, 2).contiguous().transpose(1, 2)
    out = torch.empty(4, 33)
    ours, expected = _compare("cross_entropy_difference", out, logits, step, target, smoothing)
    assert (ours - expected).abs().max() <= 1e-6 * expected.abs().max()


@pytest.mark.parametrize("confidence", [20.0, 100.0, 1000.0])
@pytest.mark.parametrize("size", [1.0, 20.0, 100.0, 1000.0])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_cross_entropy_where_shares_underflow(confidence, size, smoothing):
    # The classes that a step makes the largest may have had a share of exp(-1000).
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(33, 7, generator=generator) * confidence
    target = torch.randint(0, 7, (33,), generator=generator)
    step = torch.randn(4, 33, 7, generator=generator) * size
    ours, expected = _compare("cross_entropy_difference", torch.empty(4, 33), logits, step, target, smoothing)
    assert ((ours - expected).abs() <= 1e-5 * expected.abs() + 1e-6 * size).all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_cross_entropy_of_a_sample_has_nothing_to_do_with_its_neighbours(dtype):
    # One sample alone never goes through the registers, and steps of all lengths meet around 0.34.
    generator = torch.Generator().manual_seed(3)
    logits, target = torch.randn(71, 10, generator=generator), torch.arange(71) % 10
    step = torch.randn(2, 71, 10, generator=generator) * torch.logspace(-6, 2, 71)[torch.randperm(71), None]
    step[0, :40] = torch.randn(40, 10, generator=generator) * 0.1
    step = step.to(dtype)
    together, alone = torch.empty(2, 71), torch.empty(2, 71)
    cpu.cross_entropy_difference(together, logits, step, target, 0.0)
    for n in range(71):
        one = torch.empty(2, 1)
        cpu.cross_entropy_difference(one, logits[n : n + 1], step[:, n : n + 1], target[n : n + 1], 0.0)
        alone[:, n] = one[:, 0]
    assert torch.equal(together, alone)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize(
    ("samples", "classes"), [(53, 37), (600, 16)]
)  # less than a square beside whole ones
def test_cross_entropy_has_the_same_bits_in_either_order_of_memory(samples, classes, smoothing, dtype):
    generator = torch.Generator().manual_seed(4)
    logits = torch.randn(samples, classes, generator=generator)
    target = torch.randint(0, classes, (samples,), generator=generator)
    step = torch.randn(3, samples, classes, generator=generator) * torch.logspace(-6, 2, samples)[:, None]
    step = step.to(dtype)
    by_rows, by_columns = torch.full((3, samples), torch.nan), torch.full((3, samples), torch.nan)
    cpu.cross_entropy_difference(by_rows, logits, step, target, smoothing)
    turned = step.transpose(1, 2).contiguous().transpose(1, 2)
    cpu.cross_entropy_difference(by_columns, logits, turned, target, smoothing)
    assert torch.equal(by_rows, by_columns)


@pytest.mark.parametrize("samples", [2, 33])
def test_not_a_number_stays_one(samples):
    step = torch.zeros(1, samples, 3)
    step[0, 1, 2] = torch.nan
    out = torch.empty(1, samples)
    cpu.cross_entropy_difference(out, torch.zeros(samples, 3), step, torch.arange(samples) % 2, 0.0)
    assert out.isnan().nonzero().tolist() == [[0, 1]]
