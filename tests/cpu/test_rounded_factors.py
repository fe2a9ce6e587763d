"""Where torch allows it, all factors of products are rounded to bfloat16, whatever sizes come together."""

from functools import partial

import pytest
import torch
import torch.nn.functional as F
from factors import BACKEND, exactly, normal, squares, supported
from torch import nn
from torch.overrides import TorchFunctionMode

import zo_triton as zo
from zo_triton import cpu, reference
from zo_triton._precision import convolution_factor, factor, rounds_factors
from zo_triton.cpu import natural, natural_tiles
from zo_triton.cpu.squares import most_parts
from zo_triton.cpu.tiles import PARTS
from zo_triton.reference.operations import ACTIVATIONS

pytestmark = pytest.mark.usefixtures("_precision")


@pytest.mark.parametrize("precision", ["highest", "high"])
def test_only_medium_rounds(precision):
    torch.set_float32_matmul_precision(precision)
    tensor = normal(5)
    assert not rounds_factors()
    assert factor(tensor) is tensor
    assert convolution_factor(tensor) is tensor


@supported
def test_each_of_torchs_two_switches_is_heeded():
    tensor = normal(1000)
    torch.set_float32_matmul_precision("medium")
    assert torch.equal(factor(tensor), tensor.bfloat16().float())
    assert convolution_factor(tensor) is tensor
    torch.set_float32_matmul_precision("highest")
    BACKEND.matmul.fp32_precision = BACKEND.conv.fp32_precision = "bf16"
    assert torch.equal(factor(tensor), tensor.bfloat16().float())
    assert torch.equal(convolution_factor(tensor), tensor.bfloat16().float())


@supported
def test_nothing_is_rounded_where_torch_may_not_use_onednn():
    BACKEND.matmul.fp32_precision = BACKEND.conv.fp32_precision = "bf16"
    tensor = normal(1000)
    # BACKEND.enabled = ... is refused once torch.testing has been imported, BACKEND.flags changes the precision too
    torch._C._set_mkldnn_enabled(False)
    try:
        assert factor(tensor) is tensor
        assert convolution_factor(tensor) is tensor
    finally:
        torch._C._set_mkldnn_enabled(True)
    assert factor(tensor) is not tensor


@supported
@pytest.mark.usefixtures("medium")
def test_other_dtypes_enter_as_they_are():
    for dtype in (torch.float64, torch.bfloat16):
        tensor = normal(5).to(dtype)
        assert factor(tensor) is tensor


CASES = {
    "primes": {},
    "transposed": {"transposed": True},
    "two-sided-gelu": {"sides": 2, "activation": "gelu"},
    "frozen-weight": {"weight_id": -1},
    "frozen-bias": {"bias_id": -1},
    "whole-squares": {"shape": (64, 64, 96)},
    "less-than-a-square": {"shape": (5, 3, 2)},
    "several-runs": {"shape": (700, 40, 24)},
    "eps-below-float16": {"eps": 2.0**-100},
    "gaussian": {"distribution": "gaussian"},
    "laplace-transposed-two-sided": {
        "distribution": "laplace",
        "transposed": True,
        "sides": 2,
        "shape": (700, 40, 24),
    },
}


def layer(
    shape=(45, 71, 37),
    sides=1,
    activation="none",
    weight_id=4,
    bias_id=5,
    transposed=False,
    eps=1e-2,
    num=3,
    distribution="rademacher",
):
    """A layer's arguments, and its difference in float64 with rounded factors."""
    samples, inputs, outputs = shape
    directions = zo.Directions(2**40 + 3, 11, num, distribution)
    base, weight = normal(samples, inputs), normal(outputs, inputs, seed=1) / inputs**0.5
    difference = eps * normal(num * sides, samples, inputs, seed=2)
    signed_eps = eps * torch.tensor([1.0, -1.0])[:sides].repeat(num)
    z = base @ weight.T
    out = torch.full((num * sides, samples, outputs), torch.nan)
    stored = weight.T.contiguous() if transposed else weight

    def drawn(tensor_id, like):
        values = torch.zeros(num, *like, dtype=torch.float64)
        if tensor_id >= 0:
            reference.sample(values, directions, tensor_id, torch.float32)
        return values.repeat_interleave(sides, 0)

    u, v = drawn(weight_id, stored.shape), drawn(bias_id, (outputs,))
    u = u if transposed else u.mT
    steps = signed_eps[:, None, None]
    change = exactly(difference) @ exactly(weight).T + exactly(steps * (base + difference)) @ exactly(u)
    change += steps.double() * v[:, None]
    function = ACTIVATIONS[activation]
    # Where the step is far below float64's resolution the activation is its identity.
    expected = change if activation == "none" else function(z.double() + change) - function(z.double())
    given = (base, difference, stored, z, directions, weight_id, bias_id, signed_eps, activation, transposed)
    return out, given, expected


@squares
@supported
@pytest.mark.usefixtures("medium")
@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_layers_in_squares_are_those_of_rounded_factors(case, monkeypatch):
    monkeypatch.setattr(natural, "has_matrix_unit", lambda: True)  # also where tables of signs are quicker
    monkeypatch.setattr(natural, "is_native", lambda: False)
    out, given, expected = layer(**case)
    cpu.perturbed_linear(out, *given)
    assert (out - expected).norm() <= 2e-6 * expected.norm()


@squares
@supported
@pytest.mark.usefixtures("medium")
@pytest.mark.parametrize("rank", [None, 2], ids=["signs", "low-rank"])
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(45, 71, 37), (64, 64, 96), (5, 40, 2), (700, 40, 24)], ids=str)
def test_squares_stand_in_for_torchs_product_alone(shape, transposed, sides, rank, monkeypatch):
    """Where tables of signs, or factors, add what the direction does."""
    monkeypatch.setattr(natural, "has_matrix_unit", lambda: False)
    monkeypatch.setattr(natural, "is_native", lambda: False)
    out, (base, difference, weight, z, directions, *rest), _ = layer(
        shape, sides, "gelu", transposed=transposed
    )
    directions, found = zo.Directions(directions.seed, 11, directions.num, rank=rank), []
    products = []
    monkeypatch.setattr(
        natural,
        "product_kernel",
        lambda *given: products.append(given) or natural_tiles.product_kernel(*given),
    )
    for parts in (1, 0):
        monkeypatch.setattr(natural, "most_parts", lambda parts=parts: parts)
        cpu.perturbed_linear(out.fill_(torch.nan), base, difference, weight, z, directions, *rest)
        found.append(out.clone())
    squares, torchs = found
    assert (squares - torchs).norm() <= 1e-6 * torchs.norm()
    assert len(products) > 0


@supported
@pytest.mark.usefixtures("medium")
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("shape", [(45, 71, 37), (64, 64, 96), (5, 40, 2), (700, 40, 24)], ids=str)
def test_pairs_stand_in_for_torchs_product(shape, transposed, sides, monkeypatch):
    """In one call with the signs; a processor without the instruction is slow at them, and no other."""
    out, given, _ = layer(shape, sides, "gelu", transposed=transposed)
    found = []
    monkeypatch.setattr(natural, "most_parts", lambda: 0)
    for native in (True, False):
        monkeypatch.setattr(natural, "is_native", lambda native=native: native)
        cpu.perturbed_linear(out.fill_(torch.nan), *given)
        found.append(out.clone())
    pairs, torchs = found
    assert (pairs - torchs).norm() <= 1e-6 * torchs.norm()


@supported
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize(
    ("setting", "least", "most"), [("highest", 0, 1e-6), ("high", 0, 1e-6), ("medium", 1e-5, 1e-3)]
)
def test_signs_multiply_what_is_rounded_to_fixed_point(setting, least, most, transposed, monkeypatch):
    """A weight of zeros leaves their product alone; bfloat16's rounding would cost 1.7e-3."""
    monkeypatch.setattr(natural, "has_matrix_unit", lambda: False)
    monkeypatch.setattr(natural, "most_parts", lambda: int(setting == "medium" and most_parts() > 0))
    torch.set_float32_matmul_precision(setting)
    out, (base, difference, weight, z, directions, *rest), _ = layer((70, 300, 65), transposed=transposed)
    cpu.perturbed_linear(out, base, difference, torch.zeros_like(weight), z, directions, *rest)
    u, v = zo.sample(directions, 4, weight.shape).double(), zo.sample(directions, 5, (65,)).double()
    expected = 1e-2 * ((base + difference).double() @ (u if transposed else u.mT) + v[:, None])
    assert least <= (out - expected).norm() / expected.norm() <= most


@pytest.fixture(params=["highest", pytest.param("medium", marks=supported)])
def precision(request, monkeypatch):
    torch.set_float32_matmul_precision(request.param)
    monkeypatch.setattr(natural, "most_parts", lambda: PARTS)
    monkeypatch.setattr(natural, "has_matrix_unit", lambda: True)
    monkeypatch.setattr(natural, "is_native", lambda: False)


@squares
@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("wider", [0, 5], ids=["one-row-for-all", "rows-apart"])
def test_layers_read_differences_however_their_rows_lie(wider):
    expected, (base, difference, *rest), _ = layer()
    if wider:
        lying = F.pad(difference, (0, wider))[..., : difference.shape[2]]
    else:
        lying = difference[:, :1].expand_as(difference)
    cpu.perturbed_linear(expected, base, lying.contiguous(), *rest)
    out = torch.full_like(expected, torch.nan)
    cpu.perturbed_linear(out, base, lying, *rest)
    assert torch.equal(out, expected)


@squares
@pytest.mark.usefixtures("precision")
@pytest.mark.parametrize("shape", [(300, 40, 200), (600, 33, 70)], ids=str)
def test_signs_of_some_columns_at_a_time_have_the_same_bits(shape, monkeypatch):
    whole, given, _ = layer(shape)
    cpu.perturbed_linear(whole, *given)
    monkeypatch.setattr(natural_tiles, "NOISE_ELEMENTS", 64 * 64)
    parts = torch.full_like(whole, torch.nan)
    cpu.perturbed_linear(parts, *given)
    assert torch.equal(whole, parts)


@supported
@pytest.mark.usefixtures("medium")
@pytest.mark.parametrize(
    ("parts", "native"),
    [pytest.param(1, False, marks=squares), (0, False), (0, True)],
    ids=["squares", "torch", "pairs"],
)
def test_neither_threads_nor_chunks_change_a_bit_of_a_layer(parts, native, monkeypatch):
    monkeypatch.setattr(natural, "most_parts", lambda: parts)
    monkeypatch.setattr(natural, "is_native", lambda: native)
    out, given, _ = layer((600, 71, 37), activation="gelu", num=4)
    cpu.perturbed_linear(out, *given)
    base, difference, weight, z, directions, weight_id, bias_id, signed_eps, *rest = given
    before = torch.get_num_threads()
    try:
        for threads in (1, 2):
            torch.set_num_threads(threads)
            for k in range(4):
                one = torch.full_like(out[:1], torch.nan)
                cpu.perturbed_linear(
                    one, base, difference[k : k + 1], weight, z, directions[k : k + 1], weight_id, bias_id,
                    signed_eps[k : k + 1], *rest,
                )  # fmt: skip
                assert torch.equal(one[0], out[k])
    finally:
        torch.set_num_threads(before)


# 12 · 16 · 16 products are too few for torch to round their factors; those of eight evaluations are enough.
MODELS = {
    "signs": (lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)), {}),
    "gaussian": (
        lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)),
        {"distribution": "gaussian"},
    ),
    "low-rank": (lambda: nn.Sequential(nn.Linear(16, 16), nn.ReLU(), nn.Linear(16, 16)), {"rank": 2}),
    "attention": (lambda: nn.TransformerEncoderLayer(16, 2, 16, dropout=0.0, batch_first=True), {}),
}


@supported
@pytest.mark.usefixtures("medium")
@pytest.mark.parametrize(("make", "settings"), MODELS.values(), ids=MODELS)
def test_a_chunk_changes_float32s_rounding_and_no_more(make, settings):
    torch.manual_seed(0)
    model, x, directions = make(), normal(3, 4, 16), zo.Directions(0, 0, 8, **settings)
    run = partial(
        zo.differences, lambda: model(x).square().mean(), list(model.parameters()), directions, 1e-3
    )
    (_, together), (_, apart) = run(), run(chunk=1)
    assert (together - apart).norm() <= 1e-5 * together.norm()


class Rounded(TorchFunctionMode):
    """Layers round their factors: under "medium" torch may, and on some processors does in no product."""

    def __torch_function__(self, function, types, args=(), kwargs=None):
        if function is F.linear:
            inputs, weight, *rest = args
            args = (inputs.bfloat16().float(), weight.bfloat16().float(), *rest)
        return function(*args, **(kwargs or {}))


@supported
def test_rounding_costs_a_difference_less_than_a_subtraction_of_losses():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(64, 128), nn.GELU(), nn.Linear(128, 64)), normal(128, 64)
    params, eps, directions = list(model.parameters()), 1e-3, zo.Directions(0, 0, 8)

    def loss():
        return F.huber_loss(model(x), x)

    def moved(k):
        values = [p.detach() + eps * zo.sample(directions, i, p.shape)[k] for i, p in enumerate(params)]
        names = [name for name, _ in model.named_parameters()]
        return F.huber_loss(torch.func.functional_call(model, dict(zip(names, values, strict=True)), (x,)), x)

    def error(found):
        return float((found - exact).norm() / exact.norm())

    _, exact = zo.differences(loss, params, directions, eps)
    with torch.no_grad(), Rounded():
        subtracted = torch.stack([moved(k) - loss() for k in range(8)])
    torch.set_float32_matmul_precision("medium")
    _, rounded = zo.differences(loss, params, directions, eps)
    assert error(rounded) < 0.02
    assert error(subtracted) > 2 * error(rounded)


@supported
def test_a_log_written_with_rounded_factors_is_replayed_without(tmp_path):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(16, 16), nn.Tanh(), nn.Linear(16, 3))
    initial = {name: value.clone() for name, value in model.state_dict().items()}
    x, y = normal(40, 16), torch.randint(3, (40,))
    opt = zo.ZOSGD(model.named_parameters(), lr=0.02, directions=4, rank=2, aggregator="align")
    torch.set_float32_matmul_precision("medium")
    with zo.ReplayLog.start(tmp_path / "log.zo", opt):
        for _ in range(3):
            opt.step(lambda: F.cross_entropy(model(x), y))
    torch.set_float32_matmul_precision("highest")
    replayed = zo.replay(tmp_path / "log.zo", initial)
    for name, value in model.state_dict().items():
        assert torch.equal(replayed[name], value)
