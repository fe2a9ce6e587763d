"""Δz of every evaluation against the float64 reference."""

from dataclasses import dataclass

import pytest
import torch

import zo_triton as zo
from zo_triton import cpu, ops, reference


@dataclass
class Case:
    """samples, inputs, outputs, directions, sides; the reason stands in the id."""

    samples: int = 33
    inputs: int = 65
    outputs: int = 37
    num: int = 3
    sides: int = 1
    distribution: str = "rademacher"
    rank: int | None = None
    dtype: torch.dtype = torch.float32
    activation: str = "none"
    carried: bool = True
    weight_id: int = 4
    bias_id: int = 5
    eps: float = 1e-2

    def tensors(self):
        generator = torch.Generator().manual_seed(0)
        evaluations = self.num * self.sides
        base = torch.randn(self.samples, self.inputs, generator=generator)
        weight = torch.randn(self.outputs, self.inputs, generator=generator) / self.inputs**0.5
        difference = None
        if self.carried:
            difference = torch.randn(evaluations, self.samples, self.inputs, generator=generator) * self.eps
            difference = difference.to(self.dtype)
        signs = torch.tensor([1.0, -1.0])[: self.sides].repeat(self.num)
        return base, difference, weight, base @ weight.T, self.eps * signs

    @property
    def directions(self):
        return zo.Directions(2**40 + 3, 11, self.num + 2, self.distribution, rank=self.rank)[2:]


CASES = {
    "ragged-first-layer": Case(carried=False),
    "ragged-first-layer-central": Case(carried=False, sides=2),
    "ragged-hidden-layer": Case(),
    "ragged-hidden-layer-central": Case(sides=2),
    "one-of-everything": Case(samples=1, inputs=1, outputs=1, num=1),
    "more-samples-than-a-block": Case(samples=131, sides=2, activation="relu"),
    "more-rows-than-share-tables": Case(outputs=521, inputs=7, carried=False, num=2),
    "several-direction-groups": Case(samples=128, num=21, inputs=8, outputs=5),
    "frozen-weight": Case(weight_id=-1),
    "frozen-bias": Case(bias_id=-1),
    "gaussian": Case(distribution="gaussian", sides=2, activation="relu"),
    "gaussian-first-layer": Case(distribution="gaussian", sides=2, carried=False),
    "low-rank-frozen-weight": Case(rank=2, weight_id=-1),
    "low-rank-frozen-bias": Case(rank=2, bias_id=-1, sides=2),
    "low-rank-more-than-a-block-of-rows": Case(rank=9, samples=70, outputs=41, dtype=torch.bfloat16),
    "low-rank-gaussian-bfloat16": Case(rank=3, distribution="gaussian", sides=2, dtype=torch.bfloat16),
    "low-rank-first-layer-bfloat16": Case(rank=1, carried=False, dtype=torch.bfloat16, activation="relu"),
    "low-rank": Case(distribution="rademacher", rank=3, sides=2),
    "low-rank-gaussian-first-layer": Case(distribution="gaussian", rank=1, carried=False, activation="tanh"),
    "tiny-eps": Case(eps=1e-7, activation="tanh"),
    "bfloat16": Case(dtype=torch.bfloat16, sides=2, activation="relu"),
    "bfloat16-gaussian": Case(dtype=torch.bfloat16, distribution="gaussian", activation="tanh"),
} | {name: Case(activation=name) for name in ("relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu")}


@pytest.mark.parametrize("order", ["natural", "feature-major"])
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_the_reference(case, order):
    base, difference, weight, z, signed_eps = case.tensors()
    if difference is not None and order == "feature-major":
        difference = difference.transpose(1, 2).contiguous().transpose(1, 2)
    out = torch.full((signed_eps.numel(), case.samples, case.outputs), torch.nan, dtype=case.dtype)
    arguments = (base, difference, weight, z, case.directions, case.weight_id, case.bias_id, signed_eps)
    cpu.perturbed_linear(out, *arguments, case.activation)
    expected = torch.empty_like(out, dtype=case.dtype)
    reference.perturbed_linear(expected, *arguments, case.activation)
    error = (out.double() - expected.double()).norm() / expected.double().norm()
    # float32 sums of up to 65 terms; bfloat16 rounds inputs, product and result to 8 bits, each 2⁻⁹ relative.
    assert error <= (2e-6 if case.dtype == torch.float32 else 3 * 2**-9)


def test_error_is_at_most_twice_that_of_torch():
    case = Case(samples=128, inputs=256, outputs=256, num=2, eps=1e-3)
    base, difference, weight, _, signed_eps = case.tensors()
    signs = zo.sample(case.directions, case.weight_id, weight.shape)
    bias = zo.sample(case.directions, case.bias_id, (256,))

    def plain(dtype):
        moved = (base.to(dtype) + difference.to(dtype)) @ signs.to(dtype).transpose(1, 2)
        return difference.to(dtype) @ weight.to(dtype).T + case.eps * (moved + bias.to(dtype)[:, None])

    exact = plain(torch.float64)
    ours = ops.perturbed_linear(base, difference, weight, case.directions, signed_eps, weight_id=4, bias_id=5)
    assert (ours - exact).norm() <= 2 * (plain(torch.float32) - exact).norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_donated_input_carries_the_result(dtype):
    case = Case(dtype=dtype, sides=2, activation="relu", num=9)
    base, difference, weight, z, signed_eps = case.tensors()
    options = {"weight_id": 4, "bias_id": 5, "base_output": z, "activation": "relu", "dtype": dtype}
    lying = difference.transpose(1, 2).contiguous().transpose(1, 2)
    expected = ops.perturbed_linear(base, lying, weight, case.directions, signed_eps, **options)
    result = ops.perturbed_linear(base, lying, weight, case.directions, signed_eps, donate=True, **options)
    assert result.data_ptr() == lying.data_ptr()
    assert torch.equal(result, expected)
    # The next layer reads it where it lies, in slots wider than itself.
    again = torch.randn(11, case.outputs, generator=torch.Generator().manual_seed(1))
    following = [
        ops.perturbed_linear(z, d, again, case.directions, signed_eps, weight_id=6, dtype=dtype)
        for d in (result, expected)
    ]
    assert torch.equal(*following)


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_threads_do_not_change_a_bit(distribution):
    case = Case(num=7, distribution=distribution)
    base, difference, weight, _, signed_eps = case.tensors()
    difference = difference.transpose(1, 2).contiguous().transpose(1, 2)
    threads = torch.get_num_threads()

    def run():
        return ops.perturbed_linear(
            base, difference, weight, case.directions, signed_eps, weight_id=4, bias_id=5
        )

    try:
        torch.set_num_threads(2)
        several = run()
        torch.set_num_threads(1)
        assert torch.equal(run(), several)
    finally:
        torch.set_num_threads(threads)
    assert torch.get_num_threads() == threads
