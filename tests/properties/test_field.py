"""One field whatever asks for it: engines, slices, rows, strides, sums and inner products agree."""

import torch
from hypothesis import given
from hypothesis import strategies as st
from inputs import LAYOUTS, directions, laid_out, shapes, share, values

import zo_triton as zo
from zo_triton import ops

IDS = st.integers(0, 2**30 - 1)
COMPUTE = st.sampled_from([torch.float32, torch.bfloat16])


def sample(engine, which, tensor_id, shape, dtype):
    with zo.use_engine(engine):
        return zo.sample(which, tensor_id, shape, dtype)


def check_same(found, wanted, which, dtype):
    """Signs bit for bit; real values to 1e-5, or to one bfloat16 rounding that fell the other way."""
    if which.signs and which.rank is None:
        assert torch.equal(found, wanted)
    else:
        slack = 2.0**-7 if dtype == torch.bfloat16 else 2e-6
        torch.testing.assert_close(
            found.double(), wanted.double(), rtol=slack, atol=2e-5 if slack < 1e-3 else 5e-2
        )


@st.composite
def places(draw, **limits):
    shape = draw(shapes(**limits))
    return shape, draw(directions(shape))


@given(places(), IDS, COMPUTE)
def test_the_cpu_draws_what_the_reference_draws(place, tensor_id, dtype):
    shape, which = place
    if which.distribution == "sphere" and torch.Size(shape).numel() == 0:
        return
    found, wanted = (sample(engine, which, tensor_id, shape, dtype) for engine in ("cpu", "reference"))
    check_same(found, wanted, which, dtype)


@share(0.1)
@given(places(most=2), IDS, COMPUTE)
def test_the_kernels_draw_what_the_reference_draws(place, tensor_id, dtype):
    shape, which = place
    if which.distribution == "sphere":
        return
    found, wanted = (sample(engine, which, tensor_id, shape, dtype) for engine in ("triton", "reference"))
    check_same(found, wanted, which, dtype)


@given(places(), IDS, st.data())
def test_slices_and_rows_are_parts_of_the_whole(place, tensor_id, data):
    shape, which = place
    if which.distribution == "sphere":
        return
    whole = zo.sample(which, tensor_id, shape)
    start = data.draw(st.integers(0, which.num - 1))
    stop = data.draw(st.integers(start + 1, which.num))
    assert torch.equal(zo.sample(which[start:stop], tensor_id, shape), whole[start:stop])
    if len(shape) >= 2 and shape[0]:
        rows = torch.tensor(data.draw(st.lists(st.integers(0, shape[0] - 1), max_size=6)), dtype=torch.int64)
        assert torch.equal(zo.sample(which, tensor_id, shape, rows=rows), whole[:, rows])


@given(
    places(), IDS, COMPUTE, st.sampled_from(LAYOUTS[:5]), st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from(["cpu", "reference"]), st.integers(0, 99),
)  # fmt: skip
def test_accumulate_adds_the_samples(place, tensor_id, dtype, layout, kind, engine, seed):
    shape, which = place
    if which.distribution == "sphere":
        return
    coefficients = values((which.num,), seed)
    given_values = values(shape, seed + 1, kind)
    tensor = laid_out(given_values, layout)
    with zo.use_engine(engine):
        z = zo.sample(which, tensor_id, shape, dtype).double()
        zo.accumulate([tensor], [tensor_id], coefficients, which, dtype)
    wanted = given_values.double() + torch.einsum("k,k...->...", coefficients.double(), z)
    # The low-rank product of the samples was rounded to their dtype, the sum was not.
    slack = 0.05 if dtype == torch.bfloat16 and which.rank else 2e-5
    torch.testing.assert_close(tensor.double(), wanted, rtol=slack, atol=slack)


@given(places(), COMPUTE, st.sampled_from(["cpu", "reference"]))
def test_gram_is_the_samples_inner_products(place, dtype, engine):
    shape, which = place
    if which.distribution == "sphere":
        return
    with zo.use_engine(engine):
        z = zo.sample(which, 3, shape, dtype).double().reshape(which.num, -1)
        found = zo.gram([torch.empty(shape)], [3], which, dtype)
    slack = 0.05 if dtype == torch.bfloat16 and which.rank else 1e-5
    torch.testing.assert_close(found, z @ z.T, rtol=slack, atol=slack * max(1, z.shape[1]) ** 0.5)


@given(
    st.lists(st.integers(0, 2**16 - 1), max_size=40), st.data(), directions(), IDS,
    st.sampled_from([torch.float16, torch.bfloat16]),
)  # fmt: skip
def test_stochastic_addition_has_one_answer(patterns, data, which, tensor_id, dtype):
    """Any bit pattern plus any float32, NaN, infinities and denormals among both."""
    given_values = torch.tensor(patterns, dtype=torch.int32).to(torch.uint16).view(dtype)
    numbers = st.floats(width=32)
    update = torch.tensor([data.draw(numbers) for _ in patterns], dtype=torch.float32)
    found = []
    for engine in ("cpu", "reference"):
        moved = given_values.clone()
        with zo.use_engine(engine):
            ops.stochastic_add(moved, update, which, tensor_id)
        found.append(moved)
    assert torch.equal(found[0].view(torch.int16), found[1].view(torch.int16))
    exact = given_values.double() + update.double()
    assert torch.equal(found[0].isfinite(), exact.isfinite())


def test_a_sphere_of_no_elements_is_empty():
    assert zo.sample(zo.Directions(0, 0, 2, "sphere"), 0, (0, 3)).shape == (2, 0, 3)
