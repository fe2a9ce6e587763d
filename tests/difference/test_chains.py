"""Rules that run together as programs of rows, against their formulas on tensors and against float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from chain_programs import DIRECTIONS, error_of, new_gelu, numbers, on_cpu
from difference_oracle import expected_differences, relative_error
from test_rules import CASES

import zo_triton as zo
from zo_triton.difference.chains import pending


def rms_norm(x, weight):
    variance = x.to(x.dtype).pow(2).mean(-1, keepdim=True)
    return weight * (x * torch.rsqrt(variance + 1e-6))


def layer_norm(x, weight, bias):
    return F.layer_norm(x, (x.shape[-1],), weight, bias)


def standardised(x):
    centred = x - x.mean(-1, keepdim=True)
    return centred / (centred.square().sum(-1, keepdim=True) / x.shape[-1] + 1e-5).sqrt()


@pytest.mark.parametrize(("eps", "sides"), [(1e-5, 1), (1e-2, 2), (0.3, 1)])
@pytest.mark.parametrize("name", [name for name in CASES if "topk" not in name])
def test_rules_on_the_cpu_engine(name, eps, sides):
    """Every rule of the table but topk, whose choice an ε of 0.3 changes, in a program or not."""
    function, params = CASES[name]
    found = on_cpu(function, params, eps, sides=sides)
    expected = expected_differences(function, params, DIRECTIONS, eps, sides)
    assert relative_error(found, expected) < 2e-5 or expected.abs().max() == 0


SHAPES = [(), (1,), (7,), (3, 1), (1, 5), (2, 3, 16), (5, 33), (130, 8), (3, 1500), (2, 5000), (1, 1)]


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_shapes(shape, programs):
    """Rows shorter than a vector, of no whole number of them, longer than a block; a number alone."""
    assert error_of(lambda x: new_gelu(2 * x).exp(), (numbers(*shape),)) < 1e-5
    assert len(programs) == 1


@pytest.mark.parametrize("shape", [shape for shape in SHAPES if shape], ids=str)
def test_norms(shape, programs):
    x, weight, bias = numbers(*shape), numbers(shape[-1]), numbers(shape[-1])
    for function, params in ((rms_norm, (x, weight)), (layer_norm, (x, weight, bias)), (standardised, (x,))):
        if shape[-1] == 1 and function is not rms_norm:
            continue  # all of its values are zero
        programs.clear()
        assert error_of(function, params, 1e-3) < 1e-4
        assert len(programs) == 1


BROADCAST = {
    "row": ((6, 40), (40,)),
    "column": ((6, 40), (6, 1)),
    "number": ((6, 40), ()),
    "outer": ((6, 1), (1, 40)),
    "middle": ((2, 5, 3, 8), (5, 1, 8)),
    "first_is_smaller": ((8,), (2, 3, 8)),
    "batches_and_columns": ((4, 1, 9), (3, 1)),
}


@pytest.mark.parametrize("name", BROADCAST)
def test_broadcasting(name):
    params = [numbers(*shape) for shape in BROADCAST[name]]
    assert error_of(lambda a, b: (a * b + a.sin()).tanh() - b, params) < 1e-5
    assert error_of(lambda a, b: standardised(a * b + b), params, 1e-3) < 1e-4


STRIDED = {
    "transposed": lambda x: x.transpose(1, 2),
    "permuted": lambda x: x.permute(2, 0, 1),
    "sliced": lambda x: x[1:, ::2, 3:11],
    "every_second_feature": lambda x: x[..., ::2],
    "expanded": lambda x: x[:, :1].expand(-1, 6, -1),
    "a_feature": lambda x: x[..., 2],
    "a_row": lambda x: x[1, 3],
}


@pytest.mark.parametrize("name", STRIDED)
def test_views(name):
    """Of a base and its differences that lie in any order in memory."""
    view = STRIDED[name]
    assert error_of(lambda x: new_gelu(view(x + 1) * 0.5), (numbers(3, 6, 14),)) < 1e-5
    assert error_of(lambda x: standardised(view(x.exp())), (numbers(3, 6, 14),), 1e-3) < 1e-4


def test_many_operations_are_one_program(programs):
    """What dies unasked is never computed; what lives on is computed along with what is asked for."""
    assert error_of(lambda x: new_gelu(x + 1), (numbers(4, 8),)) < 1e-5
    assert len(programs) == 1
    programs.clear()

    def residual(x, weight):
        stream = x + 1.5
        return rms_norm(stream, weight).flatten() + stream.flatten()

    assert error_of(residual, (numbers(4, 8), numbers(8))) < 1e-5
    assert len(programs) == 2  # the norm with the stream, and the sum


@pytest.mark.parametrize(("rows", "columns"), [(40, 17), (300, 130), (5, 1500)])
def test_a_result_takes_the_memory_of_what_nobody_reads_again(rows, columns, monkeypatch):
    """The layer's difference, once its base is gone, and not while that may still be asked for."""
    taken, given = [], pending._Linked._given

    def noting(self):
        taken.append(given(self))
        return taken[-1]

    monkeypatch.setattr(pending._Linked, "_given", noting)
    params = numbers(rows, 33), 0.2 * numbers(33, columns)
    assert error_of(lambda x, weight: new_gelu(x @ weight), params) < 1e-5
    assert [leaf >= 0 for leaf in taken] == [True]
    taken.clear()

    def kept(x, weight):
        hidden = x @ weight
        return new_gelu(hidden).cumsum(0), hidden.sin()

    assert error_of(lambda *params: torch.stack(kept(*params)), params) < 1e-5
    assert [leaf >= 0 for leaf in taken] == [False]


def rotated(x, turned):
    angles = torch.linspace(0, 3, x.shape[-2])[:, None] * torch.ones(x.shape[-1])
    return (x * angles.cos() + turned(x) * angles.sin()) * 1.0


@pytest.mark.parametrize("shape", [(6, 2), (2, 3, 40, 64), (3, 2100), (2, 40000)], ids=str)
def test_a_rotary_embedding_is_one_program(shape, programs):
    """Also where its rows take more than a block; longer ones than a program holds are joined as tensors."""

    def turned(x):
        half = x.shape[-1] // 2
        return torch.cat((-x[..., half:], x[..., :half]), -1)

    def function(x):
        return rotated((2 * x).transpose(0, -2), turned)

    assert error_of(function, (numbers(*shape),)) < 1e-5
    assert len(programs) == (2 if shape[-1] < 10000 else 3)  # what is rotated, in memory, comes first


NOT_TURNED = {
    "the_first_half_negated": lambda x, h: torch.cat((x[..., h:], -x[..., :h]), -1),
    "in_their_own_order": lambda x, h: torch.cat((-x[..., :h], x[..., h:]), -1),
    "of_another_tensor": lambda x, h: torch.cat((-x[..., h:], x.square()[..., :h]), -1),
    "of_another_row": lambda x, h: torch.cat((-x[..., h:], x.flip(0)[..., :h]), -1),
    "a_part_is_constant": lambda x, h: torch.cat((-x[..., h:], torch.ones_like(x[..., :h])), -1),
    "along_rows": lambda x, h: torch.cat((-x[3:], x[:3]), 0),
    "uneven": lambda x, h: torch.cat((-x[..., h + 1 :], x[..., : h + 1]), -1),
    "every_second_feature": lambda x, h: torch.cat((-x[..., 1::2], x[..., ::2]), -1),
    "a_part_of_the_features": lambda x, h: torch.cat((-x[..., 4:6], x[..., 2:4], x[..., :2], x[..., 6:]), -1),
}


@pytest.mark.parametrize("name", NOT_TURNED)
def test_other_concatenations(name):
    turned = NOT_TURNED[name]
    assert error_of(lambda x: rotated(x.exp(), lambda x: turned(x, 4)), (numbers(6, 8),)) < 1e-5


def test_long_chains_are_cut(programs):
    def function(x):
        for _ in range(100):
            x = (x * 1.01).sin() if x is None else x * 0.99 + 0.01 * x.abs()
        return x

    assert error_of(function, (numbers(4, 8),)) < 1e-5
    assert 2 <= len(programs) <= 200


def test_only_a_part_is_asked_for():
    """An intermediate result is read after the final one, and another never."""

    def function(x):
        first = x.exp()
        second = first * x
        third = second + first
        return torch.cat([third.flatten(), second.flatten(), first.flatten()])

    assert error_of(function, (numbers(3, 5),)) < 1e-5


def test_where_masks_and_bounds():
    mask = numbers(4, 9) > 0

    def function(x, y):
        z = torch.where(mask, x, y * 2).masked_fill(~mask[:, :1], 0.5)
        return torch.maximum(z.clamp(-0.7, 0.9), y) + F.leaky_relu(z) * z.abs()

    assert error_of(function, (numbers(4, 9), numbers(9))) < 1e-5


def test_writes_in_place():
    """What a program will read is overwritten before anybody has asked for its result."""

    def function(x):
        scale = torch.ones(6, dtype=x.dtype)
        first = x * 2
        second = first.exp() * scale
        scale.mul_(3)
        first.add_(x)
        first[:, 0] = 1.0
        third = first * second
        third *= x
        return third + first

    assert error_of(function, (numbers(4, 6),)) < 1e-5


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 100.0, -100.0, 0.0])
@pytest.mark.parametrize(
    "function",
    [torch.exp, torch.expm1, torch.tanh, torch.sigmoid, F.silu, F.softplus, torch.log1p, torch.abs, F.relu],
    ids=lambda function: function.__name__,
)
def test_extreme_bases(function, value):
    """The same as the formula on tensors, finite or not, and the neighbours are left alone."""
    x = numbers(40).abs()
    x[7] = value

    def closure(x):
        return function(1 * x)

    expected = _on_tensors(closure, (x,), 0.1)
    found = on_cpu(closure, (x,), 0.1)
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-30, equal_nan=True)


def _on_tensors(function, params, eps, **options):
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("zo_triton.ops.offers_rows", lambda device: False)
        return on_cpu(function, params, eps, **options)


def test_chunks_and_threads_change_nothing():
    """Bit for bit, where nothing else than a program runs."""
    x, weight = numbers(300, 48), numbers(48)

    def closure(x, weight):
        return new_gelu(rms_norm(x + 1, weight)).flatten()

    whole = on_cpu(closure, (x, weight))
    for chunk in (1, 2):
        assert torch.equal(on_cpu(closure, (x, weight), chunk=chunk), whole)
    torch.set_num_threads(3)
    try:
        assert torch.equal(on_cpu(closure, (x, weight)), whole)
    finally:
        torch.set_num_threads(1)


def test_an_unknown_function_ends_a_chain():
    assert error_of(lambda x: torch.lgamma((x * x + 1).exp()) * x, (numbers(3, 4),)) < 1e-5


def test_shared_operands_and_empty_tensors():
    assert error_of(lambda x: (x * x) * (x * x) + x, (numbers(3, 4),)) < 1e-5
    found = on_cpu(lambda x: torch.cat([(x[:, :0] * 2).exp().sum(1), x.sum(1)]), (numbers(3, 4),))
    assert found.shape == (3, 6)


def test_other_types_run_on_tensors(programs):
    x = numbers(3, 4)
    assert error_of(lambda x: (x.double() * 2).exp().float(), (x,)) < 1e-5
    assert error_of(lambda x: (x.half() * 2).exp().float(), (x,), 1e-1) < 3e-2
    assert not programs


def test_one_value_a_row_beside_numbers():
    """A row's statistic that is bounded, compared and chosen is still one value a row."""

    def function(x):
        spread = x.square().mean(-1, keepdim=True)
        chosen = torch.where(spread > 0.9, spread.clamp(0.5, 1.5), 0.3)
        return torch.cat([chosen, x / chosen], 1)

    assert error_of(function, (numbers(40, 300),), 1e-3) < 1e-5


def gated(x, weight, bias):
    hidden = layer_norm(x, weight, bias)
    return F.silu(hidden) * (hidden + x).float() - x


IN_BFLOAT16 = {
    "gelu": (lambda x: new_gelu(x + 1), [(5, 33)]),
    "rms_norm": (lambda x, w: rms_norm(1.5 * x, w), [(6, 40), (40,)]),
    "rms_norm_of_a_row": (lambda x, w: F.rms_norm(x, (7,), w), [(7,), (7,)]),
    "layer_norm": (lambda x, w, b: layer_norm(x.exp(), w, b), [(3, 1500), (1500,), (1500,)]),
    "gated": (gated, [(2, 3, 16), (16,), (16,)]),
    "longer_than_a_block": (lambda x: x.sin() * x, [(2, 5000)]),
    "columns": (lambda a, b: standardised(a * b + b), [(6, 40), (6, 1)]),
    "strided": (lambda x: new_gelu(x.transpose(1, 2)[..., ::2] * 0.5), [(3, 6, 14)]),
    "number": (lambda x: (x * 2).tanh(), [()]),
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["base_float32", "base_bfloat16"])
@pytest.mark.parametrize("name", IN_BFLOAT16)
def test_bfloat16(name, dtype, programs):
    """No less exact than operation after operation; what a program keeps to itself is not rounded."""
    function, shapes = IN_BFLOAT16[name]
    params = [numbers(*shape).to(dtype) for shape in shapes]
    found = on_cpu(function, params, 1e-3, compute_dtype=torch.bfloat16)
    assert programs
    ordinary = _on_tensors(function, params, 1e-3, compute_dtype=torch.bfloat16)
    expected = expected_differences(function, params, DIRECTIONS, 1e-3, dtype=torch.bfloat16)
    error, usual = ((each - expected).norm() / expected.norm() for each in (found, ordinary))
    assert error <= max(1.05 * usual, 2**-9)  # of a rounded base both have its error


def test_bfloat16_results_are_rounded_to_nearest():
    """A product with a number is what torch makes of it, not a number and infinities included."""
    x = numbers(1000)
    x[:5] = torch.tensor([math.nan, math.inf, -math.inf, 3e38, 1e-40])

    def closure(x):
        return x.abs() * 3

    found = on_cpu(closure, (x,), compute_dtype=torch.bfloat16)
    whole = on_cpu(closure, (x,), scales=torch.ones(3))
    assert found.dtype == torch.float32
    with zo.use_engine("cpu"):
        z = zo.sample(DIRECTIONS, 0, x.shape, torch.bfloat16).float() * torch.tensor(1e-2)
    along = torch.where(x < 0, -z, z)
    expected = torch.maximum(along, -2 * x.abs() - along) * 3
    torch.testing.assert_close(found, expected.bfloat16().float(), rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(whole, expected, rtol=2e-2, atol=1e-3, equal_nan=True)


def test_of_a_wide_difference_wide_ones_are_made():
    """As after a loss: what reads a float32 difference is float32, though the compute dtype is bfloat16."""
    x, y = numbers(8, 40), numbers(8)

    def closure(x, y):
        return F.cross_entropy(x * 2, torch.arange(8), reduction="none") * 1.1 + y

    expected = expected_differences(closure, (x, y), DIRECTIONS, 1e-2, dtype=torch.bfloat16)
    found = on_cpu(closure, (x, y), compute_dtype=torch.bfloat16)
    assert relative_error(found, expected) < 2**-7
    assert (found != found.bfloat16()).any()


def test_chunks_and_casts_change_nothing_in_bfloat16(programs):
    x, weight = numbers(30, 48).bfloat16(), numbers(48).bfloat16()

    def closure(x, weight):
        hidden = (x + 1).float()
        spread = hidden.pow(2).mean(-1, keepdim=True)
        return weight * (hidden * torch.rsqrt(spread + 1e-6)).to(x.dtype)

    whole = on_cpu(closure, (x, weight), compute_dtype=torch.bfloat16)
    assert len(programs) == 1
    assert torch.equal(on_cpu(closure, (x, weight), compute_dtype=torch.bfloat16, chunk=1), whole)
    expected = expected_differences(closure, (x, weight), DIRECTIONS, 1e-2, dtype=torch.bfloat16)
    assert relative_error(whole, expected) < 2**-7


def test_rows_of_one_value_before_longer_rows():
    """A sum along rows of one value stays one, where a longer row makes the program's rows longer."""
    x, z = numbers(6, 1), numbers(6, 7)
    assert error_of(lambda x, z: (x.tanh().mean(-1, keepdim=True) * z).exp(), (x, z)) < 1e-5
    assert (
        error_of(lambda x, z: (z.tanh().mean(-1, keepdim=True).sum(-1, keepdim=True) * z).exp(), (x, z))
        < 1e-5
    )
    assert error_of(lambda x, z: (F.rms_norm(x.tanh(), (1,), eps=1.0) * z).exp(), (x, z)) < 1e-5


@pytest.mark.parametrize("columns", [1, 2, 8, 33])
def test_a_sum_along_rows_that_nothing_else_reads(columns):
    """No elementwise operation beside it says how long the rows are."""
    w = numbers(6, columns)
    for reduce in (torch.sum, torch.mean):
        assert error_of(lambda w, reduce=reduce: reduce(w, -1, keepdim=True), (w,)) < 1e-5
        assert error_of(lambda w, reduce=reduce: reduce(w.softmax(-1), -1, keepdim=True) + w, (w,)) < 1e-5
        # The difference is there already when the sum comes.
        assert error_of(lambda w, reduce=reduce: reduce(w.cumsum(0), -1, keepdim=True).exp(), (w,)) < 1e-5
