"""Functions without a rule."""

import warnings

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, relative_error

import zo_triton as zo
from zo_triton.difference import MissingRuleError, differences, fallback

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(3, 4, generator=GENERATOR)
SQUARE = torch.randn(4, 4, generator=GENERATOR)
DIRECTIONS = zo.Directions(seed=1, step=2, num=3, distribution="gaussian")


@pytest.fixture(autouse=True)
def fresh():
    fallback._warned.clear()
    with zo.use_engine("reference"):
        yield


CASES = {
    "vmapped": (lambda a, b: torch.erfinv(a * 0.2) @ b, "torch.Tensor.erfinv|torch.erfinv"),
    "python_function": (
        lambda a, b: F.multilabel_margin_loss(a @ b, torch.tensor([[0, 2, -1, 1]] * 3)),
        "torch.nn.functional.multilabel_margin_loss",
    ),
    "several_arguments": (lambda a, b: torch.logaddexp2(a @ b, a), "torch.logaddexp2"),
    "several_results": (lambda a, b: torch.linalg.qr(a @ b, mode="r")[1], "torch.linalg.qr"),
    "nested_arguments": (lambda a, b: torch.cartesian_prod(a[0], b[0]), "torch.*cartesian_prod"),
    "vmap_takes_it_for_something_else": (
        lambda a, b: torch.as_strided_scatter(a @ b, a[:2, :2], (2, 2), (1, 2), storage_offset=0),
        "torch.as_strided_scatter",
    ),
    "an_argument_that_the_rule_passes_over": (
        lambda a, b: F.batch_norm(a, b[0], b[1].abs() + 1),
        "torch.nn.functional.batch_norm",
    ),
    "another_mode": (
        lambda a, b: F.grid_sample(
            (a @ b)[None, None], a[None, :, :2, None].mT * 0.3, mode="bilinear", align_corners=False
        ),
        "torch.nn.functional.grid_sample",
    ),
    "vmap_cannot": (lambda a, b: torch.histc(a @ b, 3) * 0 + (a @ b).renorm(2, 0, 1.0)[:, :3], "torch"),
    "arguments_without_a_closed_form": (
        lambda a, b: torch.quantile(a @ b, 0.4, interpolation="higher"),
        "torch.quantile",
    ),
    "by_keyword": (
        lambda a, b: torch.as_strided_copy(input=a @ b, size=(2, 2), stride=(1, 2)),
        "torch.as_strided_copy",
    ),
    "rounded_division": (
        lambda a, b: torch.div(a, b[0].abs() + 1) % (b[0].abs() + 0.3),
        "torch.Tensor.remainder",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_values_are_subtracted_with_one_warning(name):
    function, named = CASES[name]
    with pytest.warns(UserWarning, match=f"no difference rule for ({named})"):
        value, found = differences(lambda: function(A, SQUARE), [A, SQUARE], DIRECTIONS, 1e-4, sides=2)
    assert torch.equal(value, function(A, SQUARE))
    assert (
        relative_error(found, expected_differences(function, [A, SQUARE], DIRECTIONS, 1e-4, sides=2)) < 1e-5
    )
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        differences(lambda: function(A, SQUARE), [A, SQUARE], DIRECTIONS, 1e-4)


SPARSE = {
    "coordinates": (lambda a, s: s.to_sparse() @ a.mT, "torch.Tensor.(matmul|__matmul__)"),
    "rows": (lambda a, s: s.to_sparse_csr() @ a.mT, "torch.Tensor.(matmul|__matmul__)"),
    "linear": (lambda a, s: F.linear(s.to_sparse(), a), "torch.nn.functional.linear"),
    "sum": (lambda a, s: a.mT + s[:, :3].to_sparse(), "torch.Tensor.(add|__add__)"),
    "own_product": (lambda a, s: torch.sparse.mm(s.to_sparse(), a.mT), ".*_sparse_mm|torch.sparse.mm"),
}


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize("name", SPARSE)
def test_a_sparse_operand_is_subtracted(name):
    function, named = SPARSE[name]

    def of(a):
        return function(a, SQUARE.relu().to(a.dtype))

    with pytest.warns(UserWarning, match=f"no difference rule for ({named})"):
        _, found = differences(lambda: of(A), [A], DIRECTIONS, 1e-4)
    assert relative_error(found, expected_differences(of, [A], DIRECTIONS, 1e-4)) < 1e-5


@pytest.mark.filterwarnings("ignore:Sparse")
@pytest.mark.parametrize(
    "function",
    [
        lambda a: (a * 2).to_sparse().to_dense(),
        lambda a: (a * 2).to_sparse_csr() @ SQUARE,
        lambda a: A.to_sparse() * a,
        lambda a: torch.sparse_coo_tensor(torch.tensor([[0, 1, 2]]), a[:, 0], (3,)).to_dense(),
    ],
)
def test_a_sparse_result_is_refused_by_name(function):
    with pytest.raises(
        ValueError, match=r"returns a tensor of layout torch.sparse_.*; write it with plain torch functions"
    ):
        differences(lambda: function(A), [A], DIRECTIONS, 1e-4)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
def test_a_nested_result_is_refused_by_name():
    with pytest.raises(
        ValueError, match="returns a nested tensor, which holds no differences; write it with"
    ):
        differences(
            lambda: torch.nested.as_nested_tensor([A[:1] * 2, A[1:] * 2]).to_padded_tensor(0.0),
            [A],
            DIRECTIONS,
            1e-4,
        )


def test_strict_names_the_function_and_the_remedy():
    with pytest.raises(
        MissingRuleError, match=r"no difference rule for torch.erfinv .*strict=False"
    ) as caught:
        differences(lambda: torch.erfinv(A * 0.2).sum(), [A], DIRECTIONS, 1e-3, strict=True)
    assert isinstance(caught.value, ValueError)


def test_functions_that_return_no_real_tensor_need_no_rule():
    def closure():
        assert A.is_contiguous()
        assert A.stride() == (4, 1)
        (A > 0).sum()
        torch.bincount(A.argmax(1))
        torch.is_same_size(A, A)
        torch.sign(A).long()
        return A.sum()

    with warnings.catch_warnings():
        warnings.filterwarnings("error", message=".*torch.(bincount|argmax|is_same_size)")
        warnings.filterwarnings("ignore", message=".*sign")
        differences(closure, [A], DIRECTIONS, 1e-3)


def test_random_functions_share_one_draw():
    def closure():
        torch.manual_seed(7)
        return F.alpha_dropout(A * 2, 0.5, training=True)

    with pytest.warns(UserWarning, match="alpha_dropout"):
        value, found = differences(closure, [A], DIRECTIONS, 1e-3)
    state = torch.get_rng_state()
    assert torch.equal(value, closure())
    assert torch.equal(state, torch.get_rng_state())
    dropped = value == value.min()
    assert 0 < int(dropped.sum()) < 12
    assert torch.equal(found == 0, dropped.expand_as(found))


def test_running_statistics_follow_the_base_alone():
    mean, variance = torch.zeros(4), torch.ones(4)
    expected_mean, expected_variance = mean.clone(), variance.clone()
    rest = (True, 0.1, 1e-5, False)
    torch.batch_norm(A @ SQUARE, None, None, expected_mean, expected_variance, *rest)
    with pytest.warns(UserWarning, match="batch_norm"):
        _, found = differences(
            lambda: torch.batch_norm(A @ SQUARE, None, None, mean, variance, *rest),
            [A, SQUARE],
            DIRECTIONS,
            1e-3,
        )
    assert torch.equal(mean, expected_mean)
    assert torch.equal(variance, expected_variance)

    def function(a, b):
        return F.batch_norm(a @ b, None, None, training=True)

    assert relative_error(found, expected_differences(function, [A, SQUARE], DIRECTIONS, 1e-3)) < 1e-5
