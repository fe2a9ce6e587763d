"""The convolution's Δz of every evaluation against the float64 reference."""

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch.library import opcheck

import zo_triton as zo
from zo_triton import cpu, ops, reference
from zo_triton.cpu import conv2d
from zo_triton.cpu.patches import plan


@dataclass
class Case:
    """One layer and its directions; the reason stands in the id."""

    image: tuple[int, int, int, int] = (3, 5, 11, 13)
    outputs: int = 7
    kernel: tuple[int, int] = (3, 5)
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (1, 2)
    dilation: tuple[int, int] = (1, 1)
    groups: int = 1
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
    memory_format: torch.memory_format = torch.contiguous_format

    @property
    def window(self):
        return {
            "stride": self.stride,
            "padding": self.padding,
            "dilation": self.dilation,
            "groups": self.groups,
        }

    @property
    def directions(self):
        return zo.Directions(2**40 + 3, 11, self.num + 2, self.distribution, rank=self.rank)[2:]

    def tensors(self):
        generator = torch.Generator().manual_seed(0)
        base = torch.randn(self.image, generator=generator).to(memory_format=self.memory_format)
        shape = self.outputs, self.image[1] // self.groups, *self.kernel
        weight = torch.randn(shape, generator=generator) / (shape[1] * shape[2] * shape[3]) ** 0.5
        weight = weight.to(memory_format=self.memory_format)
        difference = None
        if self.carried:
            difference = torch.randn(self.num * self.sides, *self.image, generator=generator) * self.eps
            difference = difference.to(self.dtype)
            if self.memory_format == torch.channels_last:
                difference = difference.permute(0, 1, 3, 4, 2).contiguous().permute(0, 1, 4, 2, 3)
        signs = torch.tensor([1.0, -1.0])[: self.sides].repeat(self.num)
        return base, difference, weight, F.conv2d(base, weight, **self.window), self.eps * signs

    def arguments(self, out_strided=False):
        base, difference, weight, z, signed_eps = self.tensors()
        out = torch.full((signed_eps.numel(), *z.shape), torch.nan, dtype=self.dtype)
        if out_strided:
            out = out.transpose(2, 4).contiguous().transpose(2, 4)
        return (
            out, base, difference, weight, None if self.activation == "none" else z, self.directions,
            self.weight_id, self.bias_id, signed_eps, *[list(pair) for pair in list(self.window.values())[:3]],
            self.groups, self.activation,
        )  # fmt: skip


CASES = {
    "primes": Case(),
    "primes-central": Case(sides=2, activation="relu"),
    "primes-first-layer": Case(carried=False, activation="relu"),
    "primes-first-layer-central": Case(carried=False, sides=2),
    "one-of-everything": Case((1, 1, 1, 1), 1, (1, 1), padding=(0, 0), num=1),
    "one-direction-shared-out-by-samples": Case(num=1, sides=2),
    "one-direction-of-a-first-layer": Case(num=1, sides=2, carried=False, activation="relu"),
    "one-by-one": Case((2, 37, 5, 3), 33, (1, 1), padding=(0, 0)),
    "one-by-one-first-layer": Case((2, 37, 5, 3), 33, (1, 1), padding=(0, 0), carried=False),
    "stride-2": Case((2, 3, 9, 8), 5, (3, 3), (2, 2), (1, 1)),
    "stride-beyond-the-window": Case((2, 3, 10, 11), 5, (2, 2), (3, 4), (0, 1)),
    "dilation-2-uneven": Case((2, 4, 11, 9), 5, (3, 2), (1, 2), (2, 0), (2, 3)),
    "groups-2": Case((2, 6, 6, 5), 14, padding=(1, 2), groups=2),
    "groups-2-first-layer": Case((2, 6, 6, 5), 14, groups=2, carried=False),
    "depthwise": Case((2, 19, 7, 6), 19, (3, 3), padding=(1, 1), groups=19, sides=2),
    "depthwise-first-layer": Case((2, 19, 7, 6), 19, (3, 3), padding=(1, 1), groups=19, carried=False),
    "depthwise-frozen-weight": Case((2, 19, 7, 6), 19, (3, 3), padding=(1, 1), groups=19, weight_id=-1),
    "window-beyond-the-input": Case((67, 2, 1, 1), 5, (3, 3), padding=(1, 1), activation="relu"),
    "several-samples-a-block": Case((37, 3, 8, 8), 6, (3, 3), padding=(1, 1), activation="relu"),
    "several-bands-a-sample": Case((2, 2, 41, 37), 4, (3, 3), padding=(1, 1), carried=False),
    "several-direction-groups": Case(num=9, outputs=47, carried=False),
    "channels-last": Case(memory_format=torch.channels_last, activation="relu", sides=2),
    "frozen-weight": Case(weight_id=-1, activation="relu"),
    "frozen-weight-first-layer": Case(weight_id=-1, carried=False),
    "frozen-bias": Case(bias_id=-1),
    "tiny-eps": Case(eps=1e-7, activation="tanh"),
    "gaussian": Case(distribution="gaussian", sides=2, activation="relu"),
    "gaussian-first-layer": Case(distribution="gaussian", carried=False),
    "gaussian-frozen-weight": Case(distribution="gaussian", weight_id=-1, carried=False, sides=2),
    "gaussian-frozen-weight-of-one-channel": Case(
        outputs=1, distribution="gaussian", weight_id=-1, carried=False, activation="relu"
    ),
    "low-rank-frozen-weight-of-one-channel": Case(outputs=1, rank=2, weight_id=-1, sides=2),
    "uniform": Case(distribution="uniform"),
    "laplace": Case(distribution="laplace"),
    "sphere": Case(distribution="sphere"),
    "low-rank": Case(rank=3, sides=2),
    "low-rank-gaussian-first-layer": Case(distribution="gaussian", rank=1, carried=False),
    "bfloat16": Case(dtype=torch.bfloat16, sides=2, activation="relu"),
    "bfloat16-first-layer": Case(dtype=torch.bfloat16, carried=False, activation="silu"),
    "bfloat16-gaussian": Case(dtype=torch.bfloat16, distribution="gaussian", activation="tanh"),
    "bfloat16-low-rank": Case(dtype=torch.bfloat16, rank=2),
} | {name: Case(activation=name) for name in ("relu", "tanh", "sigmoid", "gelu", "gelu_tanh", "silu")}


def relative_error(found, expected):
    return (found.double() - expected.double()).norm() / expected.double().norm()


@pytest.fixture(autouse=True)
def _one_thread(one_thread):
    """Everything here is tiny."""


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_agrees_with_the_reference(case):
    out, *rest = case.arguments()
    cpu.perturbed_conv2d(out, *rest)
    expected = torch.empty_like(out)
    reference.perturbed_conv2d(expected, *rest)
    # float32 sums of up to 75 terms; bfloat16 rounds inputs, product and result to 8 bits, each 2⁻⁹ relative.
    assert relative_error(out, expected) <= (2e-6 if case.dtype == torch.float32 else 3 * 2**-9)


@pytest.mark.parametrize(
    "name", ["primes", "groups-2", "depthwise", "stride-2", "dilation-2-uneven", "one-by-one"]
)
def test_error_is_at_most_twice_that_of_torch(name):
    case = CASES[name]
    base, difference, weight, _, signed_eps = case.tensors()
    signs, bias = (zo.sample(case.directions, i, s) for i, s in ((4, weight.shape), (5, (case.outputs,))))

    def plain(dtype):
        results = []
        for p, step in enumerate(signed_eps.to(dtype)):
            k, delta = p // case.sides, difference[p].to(dtype)
            moved = F.conv2d(base.to(dtype) + delta, signs[k].to(dtype), bias[k].to(dtype), **case.window)
            results.append(F.conv2d(delta, weight.to(dtype), **case.window) + step * moved)
        return torch.stack(results)

    exact = plain(torch.float64)
    ours = ops.perturbed_conv2d(
        base, difference, weight, case.directions, signed_eps, weight_id=4, bias_id=5, **case.window
    )
    assert (ours - exact).norm() <= 2 * (plain(torch.float32) - exact).norm()


@pytest.mark.parametrize("name", ["primes-central", "primes-first-layer-central", "gaussian"])
def test_a_chunk_of_directions_has_the_same_values(name):
    case = CASES[name]
    base, difference, weight, z, signed_eps = case.tensors()

    def run(directions, chosen):
        some = None if difference is None else difference[chosen]
        return ops.perturbed_conv2d(
            base, some, weight, directions, signed_eps[chosen], weight_id=4, bias_id=5, base_output=z,
            activation=case.activation, **case.window,
        )  # fmt: skip

    whole = run(case.directions, slice(None))
    part = slice(case.sides, 3 * case.sides)
    assert relative_error(run(case.directions[1:3], part), whole[part]) <= 1e-6


@pytest.mark.parametrize(
    "name", ["primes-central", "primes-first-layer", "one-direction-shared-out-by-samples"]
)
def test_threads_and_parts_change_nothing(name, monkeypatch):
    out, *rest = CASES[name].arguments()
    cpu.perturbed_conv2d(out, *rest)
    torch.set_num_threads(2)
    # One sample a part.
    monkeypatch.setattr(conv2d, "PART_ELEMENTS", 1)
    again = torch.full_like(out, torch.nan)
    cpu.perturbed_conv2d(again, *rest)
    assert relative_error(again, out) <= 1e-6


def test_out_may_lie_in_any_order():
    case = CASES["primes-central"]
    out, *rest = case.arguments(out_strided=True)
    assert not out.is_contiguous()
    cpu.perturbed_conv2d(out, *rest)
    expected, *_ = case.arguments()
    cpu.perturbed_conv2d(expected, *rest)
    assert torch.equal(out, expected)


def test_the_override_reaches_this_engine():
    case = CASES["primes"]
    base, difference, weight, _, signed_eps = case.tensors()
    found = {}
    for engine in ("cpu", "reference"):
        with zo.use_engine(engine):
            found[engine] = ops.perturbed_conv2d(
                base, difference, weight, case.directions, signed_eps, weight_id=4, **case.window
            )
    assert found["cpu"].shape == (3, 3, 7, 11, 13)
    assert relative_error(found["cpu"], found["reference"]) <= 2e-6


def test_an_empty_batch_is_left_alone():
    base, weight = torch.empty(0, 3, 5, 5), torch.ones(2, 3, 3, 3)
    found = ops.perturbed_conv2d(base, None, weight, zo.Directions(0, 0, 4), torch.ones(4), weight_id=0)
    assert found.shape == (4, 0, 2, 3, 3)


def test_opcheck():
    out, base, difference, weight, z, directions, *rest = CASES["primes-central"].arguments()
    arguments = (out, base, difference, weight, z, directions.encode(), *rest)
    opcheck(torch.ops.zo_triton.perturbed_conv2d.default, arguments)


def test_blocks_cover_large_images_in_bands_and_small_ones_together():
    def geometry(samples, size):
        return plan((samples, 1, size, size), (size, size), (1, 1), (1, 1), (0, 0), (1, 1), 1)[0]

    assert (geometry(64, 8).samples, geometry(64, 8).band) == (8, 8)
    assert (geometry(3, 8).samples, geometry(64, 1).samples) == (3, 64)
    large = geometry(2, 100)
    assert large.samples == 1
    assert large.band * 100 <= 600
