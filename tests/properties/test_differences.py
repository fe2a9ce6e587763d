"""Differences equal the float64 finite difference whatever the model's shapes, layouts, directions and chunks."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from inputs import LAYOUTS, directions, laid_out, share, values

import zo_triton as zo

EPS = st.sampled_from([1e-1, 1e-2, 1e-3])
ACTIVATIONS = {"relu": torch.relu, "tanh": torch.tanh, "gelu": F.gelu, "silu": F.silu, "abs": torch.abs}
WIDTHS = st.sampled_from([1, 2, 3, 5, 8])


def expected(function, params, which, eps, sides, scales):
    """[K, sides] float64: the loss at θ ± ε·z less that at θ, the whole of it in float64."""
    thetas = [param.detach().double() for param in params]
    with zo.use_engine("reference"):
        zs = [
            torch.empty(which.num, *param.shape, dtype=torch.float64).copy_(_unscaled(which, i, param))
            for i, param in enumerate(params)
        ]
    base = function(*thetas)
    rows = []
    for k in range(which.num):
        factor = eps * (1.0 if scales is None else float(scales[k]))
        for sign in (1, -1)[:sides]:
            moved = [theta + sign * factor * z[k] for theta, z in zip(thetas, zs, strict=True)]
            rows.append(function(*moved) - base)
    return torch.stack(rows).view(which.num, sides, *base.shape)


def _unscaled(which, tensor_id, param):
    out = torch.empty(which.num, *param.shape)
    zo.ops.registry.call("sample", out.device, out, which, tensor_id, torch.float32, None)
    return out


@st.composite
def networks(draw):
    """Layers of a small MLP or convolution, their parameters in any layout, and a batch that may be empty."""
    seed, count = draw(st.integers(0, 999)), draw(st.integers(1, 3))
    widths = [draw(WIDTHS) for _ in range(count + 1)]
    samples = draw(st.sampled_from([0, 1, 2, 5]))
    convolution = draw(st.booleans())
    params, names = [], []
    for i, (inner, outer) in enumerate(pairwise(widths)):
        shape = (outer, inner, draw(st.sampled_from([1, 3])), 3) if convolution and i == 0 else (outer, inner)
        weight = values(shape, seed + i) / max(1, inner) ** 0.5
        params.append(laid_out(weight, draw(st.sampled_from(LAYOUTS[:5]))))
        params.append(values((outer,), seed + 50 + i) if draw(st.booleans()) else None)
        names.append(draw(st.sampled_from(sorted(ACTIVATIONS))))
    shape = (samples, widths[0], 4, 5) if convolution else (samples, widths[0])
    x = laid_out(values(shape, seed + 99), draw(st.sampled_from(LAYOUTS[:5])))
    if draw(st.booleans()) and samples > 1:
        x = x[:1].expand(shape)

    trained = [param for param in params if param is not None]

    def function(*thetas):
        rest = iter(thetas)
        h = x.to(thetas[0].dtype)
        for i in range(count):
            weight, bias = next(rest), next(rest) if params[2 * i + 1] is not None else None
            if weight.dim() == 4:
                h = F.conv2d(h, weight, bias, padding=(weight.shape[2] // 2, 1)).mean((2, 3))
            else:
                h = F.linear(h, weight, bias)
            h = ACTIVATIONS[names[i]](h)
        return h.square().sum() + h.sum()

    return function, trained


@share(0.5)
@given(networks(), st.data(), EPS, st.integers(1, 2), st.sampled_from(["cpu", "reference"]))
def test_differences_are_the_float64_finite_differences(network, data, eps, sides, engine):
    function, params = network
    which = data.draw(directions(most=5))
    chunk = data.draw(st.none() | st.integers(1, 6))
    if which.distribution == "sphere":
        which = zo.Directions(which.seed, which.step, which.num, "gaussian", which.rounds)
    before = [param.clone() for param in params]
    with zo.use_engine(engine):
        value, found = zo.differences(lambda: function(*params), params, which, eps, sides, chunk=chunk)
    wanted = expected(function, params, which, eps, sides, None)
    found = found.view(wanted.shape).double()
    torch.testing.assert_close(value.double(), function(*[p.double() for p in params]), rtol=1e-4, atol=1e-4)
    # Relative to the largest, and to the rounding of the float32 base that every difference starts from.
    size = float(wanted.abs().max()) + 1e-3 * eps * (1 + float(value.abs()))
    assert float((found - wanted).abs().max()) <= 2e-3 * size
    assert all(torch.equal(param, old) for param, old in zip(params, before, strict=True))


@share(0.3)
@given(networks(), st.data(), st.integers(1, 2))
def test_chunks_change_nothing_beyond_rounding(network, data, sides):
    function, params = network
    which = data.draw(directions(most=6))
    if which.distribution == "sphere":
        which = zo.Directions(which.seed, which.step, which.num, "laplace", which.rounds)
    whole = zo.differences(lambda: function(*params), params, which, 1e-2, sides)[1]
    chunk = data.draw(st.integers(1, 6))
    parts = zo.differences(lambda: function(*params), params, which, 1e-2, sides, chunk=chunk)[1]
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-5 * (1e-3 + float(whole.abs().max())))


@share(0.05)
@given(networks(), st.data())
def test_the_kernels_find_the_same(network, data):
    function, params = network
    which = zo.Directions(data.draw(st.integers(0, 2**64 - 1)), 0, 2)
    if any(param.dim() == 4 for param in params):
        return
    results = []
    for engine in ("triton", "reference"):
        with zo.use_engine(engine):
            results.append(zo.differences(lambda: function(*params), params, which, 1e-2)[1])
    size = float(results[1].abs().max())
    torch.testing.assert_close(results[0], results[1], rtol=1e-3, atol=1e-4 * (size + 1e-3))
