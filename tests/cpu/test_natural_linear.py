"""Layers whose differences come in torch's own order, and weights stored transposed, against float64."""

from dataclasses import dataclass, replace

import pytest
import torch

import zo_triton as zo
from zo_triton import cpu, ops, reference
from zo_triton.cpu import natural
from zo_triton.reference.operations import ACTIVATIONS

BY_TORCH, BY_ITSELF, IN_PAIRS = "by-torch", "by-itself", "in-pairs"
"""Who makes the products of a layer of signs: torch, or the layer itself, in bfloat16 of floats or of pairs."""


def choose(way, monkeypatch):
    monkeypatch.setattr(natural, "SMALL_PRODUCT", 0 if way == BY_TORCH else 1 << 40)
    monkeypatch.setattr(natural, "is_native", lambda: way == IN_PAIRS)


@dataclass(frozen=True)
class Case:
    """samples, inputs, outputs, directions, sides; the reason stands in the id."""

    samples: int = 45
    inputs: int = 71
    outputs: int = 37
    num: int = 3
    sides: int = 2
    distribution: str = "rademacher"
    rank: int | None = None
    dtype: torch.dtype = torch.float32
    activation: str = "none"
    weight_id: int = 4
    bias_id: int = 5
    transposed: bool = False
    natural: bool = True
    strided: bool = False
    carried: bool = True
    eps: float = 1e-2

    @property
    def directions(self):
        return zo.Directions(2**40 + 3, 11, self.num + 2, self.distribution, rank=self.rank)[2:]

    def tensors(self):
        """base, δ, W as it is stored, its output, signed ε."""
        generator = torch.Generator().manual_seed(0)
        wider = self.inputs * (3 if self.strided else 1)
        base = torch.randn(self.samples, wider, generator=generator)[:, : self.inputs]
        shape = (self.num * self.sides, self.samples, wider)
        difference = (torch.randn(shape, generator=generator) * self.eps).to(self.dtype)[..., : self.inputs]
        if not self.natural:
            difference = difference.transpose(1, 2).contiguous().transpose(1, 2)
        weight = torch.randn(self.outputs, self.inputs, generator=generator) / self.inputs**0.5
        z = base @ weight.T
        signs = torch.tensor([1.0, -1.0])[: self.sides].repeat(self.num)
        stored = weight.T.contiguous() if self.transposed else weight
        return base, difference if self.carried else None, stored, z, self.eps * signs

    def expected(self, base, difference, weight, z, signed_eps):
        """In float64, from the field's values for the stored tensor."""

        def drawn(tensor_id, shape):
            values = torch.zeros(self.num, *shape, dtype=torch.float64)
            if tensor_id >= 0:
                reference.sample(values, self.directions, tensor_id, self.dtype)
            return values.repeat_interleave(self.sides, 0)

        moved = torch.zeros(1, dtype=torch.float64) if difference is None else difference.double()
        u, v = drawn(self.weight_id, weight.shape), drawn(self.bias_id, (self.outputs,))
        matrix = weight.double()
        if not self.transposed:
            u, matrix = u.mT, matrix.T
        change = (base.double() + moved) @ u + v[:, None]
        change = signed_eps.double()[:, None, None] * change
        if difference is not None:
            change = change + moved @ matrix
        function = ACTIVATIONS[self.activation]
        return function(z.double() + change) - function(z.double())

    def run(self):
        base, difference, weight, z, signed_eps = tensors = self.tensors()
        shape = (self.num * self.sides, self.samples, self.outputs)
        out = torch.full(shape, torch.nan, dtype=self.dtype)
        cpu.perturbed_linear(
            out, base, difference, weight, z, self.directions, self.weight_id, self.bias_id, signed_eps,
            self.activation, self.transposed,
        )  # fmt: skip
        return out, self.expected(*tensors)


WAYS = {
    "signs": Case(),
    "gaussian": Case(distribution="gaussian"),
    "sphere": Case(distribution="sphere"),
    "laplace": Case(distribution="laplace"),
    "low-rank": Case(rank=3),
    "low-rank-gaussian": Case(rank=2, distribution="gaussian"),
}
CASES = {
    "one-sided": Case(sides=1),
    "one-direction": Case(num=1, sides=1),
    "rows-wider-than-features": Case(strided=True),
    "rows-wider-than-features-bfloat16": Case(strided=True, dtype=torch.bfloat16),
    "frozen-weight": Case(weight_id=-1),
    "frozen-bias": Case(bias_id=-1),
    "whole-squares": Case(samples=64, inputs=64, outputs=48),
    "less-than-a-square": Case(samples=5, inputs=3, outputs=2),
    "one-result": Case(outputs=1),
    "several-runs": Case(samples=1100, inputs=40, outputs=24, num=1, activation="tanh"),
    "more-rows-than-totals": Case(outputs=1100, inputs=33, samples=33, activation="relu"),
    "frozen-weight-gaussian": Case(weight_id=-1, distribution="gaussian"),
    "frozen-weight-low-rank": Case(weight_id=-1, rank=2),
    "several-tiles": Case(inputs=2100, outputs=200, samples=6, num=1, distribution="gaussian"),
    "tiny-eps": Case(eps=1e-7, activation="gelu_tanh"),
} | {name: Case(activation=name) for name in ("relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu")}
for name, case in WAYS.items():
    CASES[name] = case
    CASES[f"{name}-transposed"] = replace(case, transposed=True)
    CASES[f"{name}-bfloat16"] = replace(case, dtype=torch.bfloat16, activation="silu")
    CASES[f"{name}-transposed-bfloat16"] = replace(case, transposed=True, dtype=torch.bfloat16)
    CASES[f"{name}-transposed-feature-major"] = replace(case, transposed=True, natural=False)
    CASES[f"{name}-transposed-feature-major-bfloat16"] = replace(
        case, transposed=True, natural=False, dtype=torch.bfloat16
    )
    CASES[f"{name}-transposed-first-layer"] = replace(case, transposed=True, carried=False)
CASES["several-tiles-transposed"] = replace(CASES["several-tiles"], transposed=True)
CASES["several-tiles-transposed-feature-major"] = replace(CASES["several-tiles-transposed"], natural=False)
CASES["transposed-frozen-weight"] = Case(weight_id=-1, transposed=True)
CASES["transposed-several-runs"] = replace(CASES["several-runs"], transposed=True)
CASES["transposed-frozen-weight-first-layer"] = Case(weight_id=-1, transposed=True, carried=False)


CASES["whole-squares-bfloat16"] = Case(samples=64, inputs=64, outputs=64, dtype=torch.bfloat16)
CASES["several-runs-bfloat16"] = replace(CASES["several-runs"], dtype=torch.bfloat16)
CASES["directions-in-several-pieces"] = Case(samples=40, inputs=64, outputs=65, num=9)


RUNS = {name: (case, BY_TORCH) for name, case in CASES.items()} | {
    f"{name}-{way}": (case, way)
    for name, case in CASES.items()
    if case.natural and case.carried and case.directions.signs and case.rank is None
    for way in (BY_ITSELF, IN_PAIRS)
    if way == BY_ITSELF or case.dtype == torch.bfloat16
}


@pytest.mark.parametrize(("case", "way"), RUNS.values(), ids=RUNS)
def test_agrees_with_float64(case, way, monkeypatch):
    choose(way, monkeypatch)
    out, expected = case.run()
    error = (out.double() - expected).norm() / expected.norm()
    # float32 sums of many terms; bfloat16 rounds inputs, product and result to 8 bits, each 2⁻⁹ relative.
    bound = 2e-6 if case.dtype == torch.float32 else 3 * 2**-9
    assert error <= bound * max(1.0, (case.inputs / 71) ** 0.5)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    "name", ["signs", "one-sided", "several-runs", "more-rows-than-totals", "frozen-weight"]
)
def test_tables_of_signs_agree_with_float64(name, transposed, monkeypatch):
    """They take a layer that no squares are made for."""
    monkeypatch.setattr(natural, "most_parts", lambda: 0)
    out, expected = replace(CASES[name], transposed=transposed).run()
    assert (out - expected).norm() <= 2e-6 * expected.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("distribution", "way"),
    [
        ("signs", BY_TORCH), ("signs", BY_ITSELF), ("signs", IN_PAIRS), ("gaussian", BY_TORCH),
        ("low-rank", BY_TORCH),
    ],
)  # fmt: skip
@pytest.mark.parametrize("transposed", [False, True])
def test_neither_threads_nor_chunks_change_a_bit(dtype, distribution, way, transposed, monkeypatch):
    choose(way, monkeypatch)
    case = replace(
        WAYS[distribution], samples=600, dtype=dtype, transposed=transposed, activation="gelu", num=4
    )
    base, difference, weight, z, signed_eps = case.tensors()
    threads = torch.get_num_threads()

    def run(first, last):
        some = slice(first * case.sides, last * case.sides)
        out = torch.full((some.stop - some.start, case.samples, case.outputs), torch.nan, dtype=dtype)
        cpu.perturbed_linear(
            out, base, difference[some], weight, z, case.directions[first:last], 4, 5, signed_eps[some], "gelu",
            transposed,
        )  # fmt: skip
        return out

    try:
        torch.set_num_threads(2)
        several, parts = run(0, 4), torch.cat([run(0, 1), run(1, 4)])
        torch.set_num_threads(1)
        alone = run(0, 4)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(several, alone)
    assert torch.equal(several, parts)


@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("way", [BY_TORCH, BY_ITSELF, IN_PAIRS])
def test_weights_in_bfloat16_are_what_they_are_in_float32(way, transposed, monkeypatch):
    choose(way, monkeypatch)
    case = Case(dtype=torch.bfloat16, transposed=transposed)
    base, difference, weight, z, signed_eps = case.tensors()
    found = []
    for given in (weight.bfloat16(), weight.bfloat16().float()):
        out = torch.full((6, case.samples, case.outputs), torch.nan, dtype=case.dtype)
        cpu.perturbed_linear(
            out, base, difference, given, z, case.directions, 4, 5, signed_eps, "none", transposed
        )
        found.append(out)
    assert torch.equal(*found)


@pytest.mark.parametrize("way", [BY_TORCH, BY_ITSELF])
def test_error_is_at_most_twice_that_of_torch(way, monkeypatch):
    choose(way, monkeypatch)
    case = Case(samples=300, inputs=256, outputs=256, eps=1e-3)
    base, difference, weight, _, signed_eps = case.tensors()
    u = zo.sample(case.directions, 4, weight.shape).repeat_interleave(2, 0)
    v = zo.sample(case.directions, 5, (256,)).repeat_interleave(2, 0)
    plain = difference @ weight.T + signed_eps[:, None, None] * ((base + difference) @ u.mT + v[:, None])
    ours, exact = case.run()
    assert (ours - exact).norm() <= 2 * (plain - exact).norm()


@pytest.mark.parametrize("transposed", [False, True])
def test_walks_what_is_sampled(transposed):
    """With W = 0, δ = 0 and the rows of a unit matrix as samples, the result is z itself."""
    directions, shape = zo.Directions(5, 2, 2), (70, 50)
    z = zo.sample(directions, 9, shape)
    inner, outer = shape if transposed else shape[::-1]
    out = torch.full((2, inner, outer), torch.nan)
    cpu.perturbed_linear(
        out, torch.eye(inner), torch.zeros(2, inner, inner), torch.zeros(shape), None, directions, 9, -1,
        torch.ones(2), "none", transposed,
    )  # fmt: skip
    assert torch.equal(out, z if transposed else z.mT)


def test_the_result_lies_as_the_difference_does():
    case = Case()
    base, difference, weight, _, signed_eps = case.tensors()

    def result(given, **options):
        return ops.perturbed_linear(base, given, weight, case.directions, signed_eps, weight_id=4, **options)

    assert result(difference, donate=True).is_contiguous()
    assert result(difference, donate=True).data_ptr() != difference.data_ptr()
    assert result(None).mT.is_contiguous()
    lying = difference.transpose(1, 2).contiguous().transpose(1, 2)
    assert result(lying).mT.is_contiguous()
    assert result(lying, donate=True).data_ptr() == lying.data_ptr()


def test_a_difference_is_left_as_it_came():
    case = Case(activation="relu")
    base, difference, weight, z, signed_eps = case.tensors()
    before = difference.clone()
    ops.perturbed_linear(
        base, difference, weight, case.directions, signed_eps, weight_id=4, base_output=z, activation="relu",
        donate=True,
    )  # fmt: skip
    assert torch.equal(difference, before)
