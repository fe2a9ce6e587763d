"""Stochastic rounding: right in the mean, the same bits on every engine, and no value that breaks it."""

import math
from itertools import product

import numpy as np
import pytest
import torch

import zo_triton as zo
from zo_triton import ops
from zo_triton.directions import PART_ROUNDING, tensor_word
from zo_triton.philox import philox
from zo_triton.reference.rounding import rounding_words

DTYPES = [torch.bfloat16, torch.float16]
D = zo.Directions(2**63 + 5, 7, 3, rounds=7)
EVERY = torch.arange(2**16, dtype=torch.int32).to(torch.uint16)
"""Every bit pattern of a 16-bit format: zeros, denormals, the largest values, infinities and NaNs."""


def pattern(tensor):
    return tensor.view(torch.int16)


def moved(engine, tensor, update, directions=D, tensor_id=5):
    result = tensor.clone()
    with zo.use_engine(engine):
        ops.stochastic_add(result, update, directions, tensor_id)
    return result


@pytest.mark.filterwarnings("ignore:invalid value encountered:RuntimeWarning")  # NumPy's, in the interpreter
@pytest.mark.parametrize("size", [0.0, 1e-45, 1e-39, 1e-6, 1.0, 1e6, 3e38, math.inf, math.nan])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_every_value_is_rounded_alike_on_all_engines(dtype, size):
    update = torch.randn(2**16, generator=torch.Generator().manual_seed(1)).clamp(-1, 1) * size
    wanted = moved("reference", EVERY.view(dtype), update)
    for engine in ("cpu", "triton"):
        assert torch.equal(pattern(moved(engine, EVERY.view(dtype), update)), pattern(wanted))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_sum_becomes_one_of_its_two_neighbours(dtype):
    """Against float64: no value moves further than to the next one, and none that fits moves at all."""
    finite = EVERY.view(dtype)[EVERY.view(dtype).isfinite()]
    relative = 1e-2 * torch.randn(finite.numel(), generator=torch.Generator().manual_seed(2))
    update = relative * finite.float().abs()
    exact = finite.double() + update.double()
    found, nearest = moved("cpu", finite, update), exact.to(dtype)
    steps = pattern(found.abs()).int() - pattern(nearest.abs().clamp(max=torch.finfo(dtype).max)).int()
    assert steps.abs().max() == 1
    assert torch.equal(found[nearest.double() == exact], nearest[nearest.double() == exact])
    assert found.isfinite().all()
    assert torch.equal(found.signbit(), exact.signbit())


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_the_largest_value_stays_finite(dtype, sign):
    largest = torch.full((64,), sign * torch.finfo(dtype).max, dtype=dtype)
    for size in (1e-3, 0.9, 1e3):
        update = largest.float() * size if size < 1 else torch.full((64,), sign * 3e38)
        assert torch.equal(moved("cpu", largest, update), largest)


def test_infinity_and_nan_pass_and_signs_of_zero_are_those_of_the_sum():
    given = torch.tensor([math.inf, -math.inf, math.nan, -0.0, 0.0, 1.0], dtype=torch.float16)
    update = torch.tensor([1.0, 1.0, 0.0, -0.0, -0.0, math.nan])
    found = moved("cpu", given, update)
    assert found[:2].tolist() == [math.inf, -math.inf]
    assert found[[2, 5]].isnan().all()
    assert found[3:5].signbit().tolist() == [True, False]


STEPS, COUNT = 10_000, 4096


def walk(dtype, start, update, add):
    """The mean move of equal weights after 10⁴ steps of one update, over the exact one's standard error."""
    weight, move = torch.full((COUNT,), start, dtype=dtype), torch.full((COUNT,), update)
    for step in range(STEPS):
        add(weight, move, zo.Directions(3, step, 1))
    change = weight.double() - start
    spacing = 2.0 ** math.floor(math.log2(abs(start))) * torch.finfo(dtype).eps
    exact = STEPS * float(move[0].double())
    # The steps are independent: each goes up by the spacing with probability |update|/spacing.
    deviation = math.sqrt(abs(exact) * (spacing - abs(update)) / COUNT)
    return (change.mean().item() - exact) / deviation


@pytest.mark.parametrize("start", [1.25, -1.25])
@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_an_update_of_a_millionth_moves_the_mean_as_it_should(one_thread, dtype, start):
    def stochastic(weight, move, directions):
        ops.stochastic_add(weight, move, directions, 0)

    def nearest(weight, move, directions):
        weight.copy_(weight.float() + move)

    for toward in (1, -1):
        update = toward * 1e-6 * abs(start)
        assert abs(walk(dtype, start, update, stochastic)) < 4.5
    assert abs(walk(dtype, start, 1e-6 * abs(start), nearest)) > 50


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_denormals_move_in_the_mean_as_well(dtype):
    """The spacing is the same for all of them; a quarter of it is added to each."""
    spacing = torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    given = torch.arange(100, dtype=torch.int16).repeat(200).view(dtype)
    update = torch.full((given.numel(),), 0.25 * spacing)
    ups = (moved("cpu", given, update).double() - given.double()) / spacing
    assert set(ups.tolist()) == {0.0, 1.0}
    assert abs(ups.mean().item() - 0.25) < 4.5 * math.sqrt(0.25 * 0.75 / given.numel())


def test_the_words_are_the_field_s_own_and_no_direction_s():
    """Word i mod 4 of block i div 4 in the part that no direction draws from: for 3 elements and for 4099."""
    key = D.seed & 0xFFFFFFFF, D.seed >> 32
    words = rounding_words(D, 5, 4099)
    for i in (0, 1, 2, 3, 4, 4098):
        counter = np.array([i // 4, tensor_word(5, PART_ROUNDING), 0, D.step], np.uint32)
        assert words[i] == philox(counter, key, D.rounds)[i % 4]
    assert np.array_equal(rounding_words(D, 5, 3), words[:3])
    # A quarter of the spacing is added to ones: those go up whose word is below a quarter of 2³².
    ones = torch.ones(4099, dtype=torch.bfloat16)
    up = moved("cpu", ones, torch.full((4099,), 2.0**-9)) > 1
    assert torch.equal(up, torch.from_numpy(words < 2**30))


def test_seed_step_and_tensor_change_the_words_and_nothing_else_does():
    ones, update = torch.ones(512, dtype=torch.bfloat16), torch.full((512,), 2.0**-8)
    first = moved("cpu", ones, update, zo.Directions(1, 2, 3), 4)
    for other, tensor_id in product(
        [zo.Directions(1, 2, 8, "gaussian"), zo.Directions(1, 2, 3, rank=2)[1:2]], [4]
    ):
        assert torch.equal(moved("cpu", ones, update, other, tensor_id), first)
    for other, tensor_id in [
        (zo.Directions(2, 2, 3), 4), (zo.Directions(1, 3, 3), 4), (zo.Directions(1, 2, 3), 5),
    ]:  # fmt: skip
        agree = (moved("cpu", ones, update, other, tensor_id) == first).float().mean().item()
        assert abs(agree - 0.5) < 4.5 * 0.5 / math.sqrt(512)


@pytest.mark.parametrize("engine", ["reference", "cpu", "triton"])
def test_strides_change_no_value(engine):
    given = torch.linspace(-2, 2, 7 * 5 * 3).view(7, 5, 3).bfloat16()
    update = torch.full((7, 5, 3), 1e-3)
    wanted = moved("reference", given, update)
    turned = given.permute(2, 0, 1).contiguous().permute(1, 2, 0)
    assert not turned.is_contiguous()
    with zo.use_engine(engine):
        ops.stochastic_add(turned, update.mT.contiguous().mT, D, 5)
    assert torch.equal(turned, wanted)


def test_nothing_to_round():
    empty = torch.empty(0, 3, dtype=torch.float16)
    for engine in ("reference", "cpu", "triton"):
        assert moved(engine, empty, torch.empty(0, 3)).shape == (0, 3)


@pytest.mark.parametrize(
    ("tensor", "update", "error", "message"),
    [
        (torch.ones(3), torch.ones(3), TypeError, r"got torch\.float32 and torch\.float32"),
        (torch.ones(3).half(), torch.ones(3).half(), TypeError, r"got torch\.float16 and torch\.float16"),
        (torch.ones(3).half(), torch.ones(1), ValueError, r"shape \(3,\), got \(1,\)"),
        (
            torch.ones(1).half().expand(2**34 + 1),
            torch.ones(1).expand(2**34 + 1),
            ValueError,
            "has more than 2\\*\\*34",
        ),
    ],
)
def test_what_is_refused(tensor, update, error, message):
    with pytest.raises(error, match=message):
        ops.stochastic_add(tensor, update, D, 0)
