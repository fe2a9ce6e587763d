"""Functions that are followed in pieces: torch's value, to rounding, and the float64 finite difference."""

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import of_rule

import zo_triton as zo

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(3, 4, generator=GENERATOR)
B = torch.randn(3, 4, generator=GENERATOR)
ROW = torch.randn(4, generator=GENERATOR)
THREES = torch.randn(4, 3, generator=GENERATOR)
CUBE = torch.randn(2, 3, 4, generator=GENERATOR)
IMAGE = torch.randn(2, 3, 5, 5, generator=GENERATOR)
TABLE = torch.randn(6, 4, generator=GENERATOR)
SIGNS = torch.tensor([[1.0, -1.0, 1.0, 1.0], [-1.0, 1.0, -1.0, 1.0], [1.0, 1.0, -1.0, -1.0]])
COUNTS = torch.tensor([[0.0, 1.0, 2.0, 3.0], [4.0, 0.0, 1.0, 2.0], [7.0, 1.0, 0.0, 5.0]])
LABELS = torch.tensor([1, 3, 0])
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0])
BAGS = torch.tensor([[0, 2, 5], [3, 3, 1]])
STREAM, STARTS = torch.tensor([0, 2, 5, 3, 3, 1, 4]), torch.tensor([0, 3, 3, 5])
TWICE = torch.tensor([0, 2, 0])


def like(x, constant):
    """A constant in the dtype of the tensor that it meets."""
    return constant.to(x.dtype)


CASES = {
    "prod": (lambda a: a.prod(), (A,)),
    "prod_along": (lambda a: torch.prod(a, 0), (A,)),
    "prod_keeps": (lambda a: a.prod(1, keepdim=True), (A,)),
    "prod_of_nothing": (lambda a: a[:, :0].prod(1) + a[:, 0], (A,)),
    "prod_of_a_number": (lambda a: a[0].prod(0), (ROW,)),
    "diff": (lambda a: torch.diff(a), (A,)),
    "second_diff": (lambda a: a.diff(2, 0), (A,)),
    "diff_with_ends": (lambda a, b: torch.diff(a, dim=-1, prepend=b[:, :1], append=b), (A, B)),
    "no_diff": (lambda a, b: torch.diff(a, 0, -1, b, b), (A, B)),
    "diff_of_too_few": (lambda a: a.diff(9).sum() + a, (A,)),
    "trapezoid": (lambda a: torch.trapezoid(a), (A,)),
    "trapz_of_a_width": (lambda a: torch.trapezoid(a, dx=0.3, dim=0), (A,)),
    "trapezoid_of_places": (lambda a, b: torch.trapezoid(a, b, dim=-1), (CUBE, ROW)),
    "trapezoid_of_every_place": (lambda a, b: torch.trapezoid(a, b, dim=1), (A, B)),
    "trapezoid_along_the_first": (lambda a, b: torch.trapezoid(a, b, dim=0), (A, ROW[:3].clone())),
    "cumulative_trapezoid": (lambda a: torch.cumulative_trapezoid(a, dim=1), (A,)),
    "dist": (lambda a, b: torch.dist(a, b), (A, B)),
    "dist_of_one": (lambda a, b: a.dist(b, 1), (A, B)),
    "cross": (lambda a, b: torch.linalg.cross(a, b), (THREES, THREES + 1)),
    "cross_along_the_first": (lambda a, b: torch.cross(a, b, dim=0), (A, A + B)),
    "addr": (lambda a, u, v: torch.addr(a, u[:3], v, beta=0.5, alpha=2), (A, ROW, ROW + 1)),
    "addr_of_no_matrix": (lambda a, u: torch.addr(a * torch.nan, u[:3], u, beta=0), (A, ROW)),
    "addbmm": (lambda c, a, b: torch.addbmm(c, a, b.mT, alpha=3), (torch.ones(3, 3), CUBE, CUBE + 1)),
    "multi_dot": (lambda a, b: torch.linalg.multi_dot([a, b.mT, a]), (A, B)),
    "vecdot": (lambda a, b: torch.linalg.vecdot(a, b, dim=0), (A, B)),
    "diagonal": (lambda a: torch.linalg.diagonal(a, offset=1), (CUBE,)),
    "linalg_matmul": (lambda a, b: torch.linalg.matmul(a, b.mT), (A, B)),
    "local_response_norm": (lambda a: F.local_response_norm(a, 2), (IMAGE,)),
    "margin_ranking": (lambda a, b: F.margin_ranking_loss(a, b, like(a, SIGNS), 0.1), (A, B)),
    "margin_ranking_none": (
        lambda a, b: F.margin_ranking_loss(a, b, like(a, SIGNS), reduction="none"),
        (A, B),
    ),
    "hinge_embedding": (lambda a: F.hinge_embedding_loss(a, like(a, SIGNS)), (A,)),
    "hinge_embedding_across": (lambda a: F.hinge_embedding_loss(a, like(a, SIGNS), 0.3), (A / 50,)),
    "soft_margin": (lambda a: F.soft_margin_loss(a, like(a, SIGNS), reduction="sum"), (A,)),
    "poisson": (lambda a: F.poisson_nll_loss(a, like(a, COUNTS), full=True), (A,)),
    "poisson_of_moving_counts": (
        lambda a, b: F.poisson_nll_loss(a, b.square() * 2, full=True, reduction="none"),
        (A, B),
    ),
    "poisson_of_rates": (lambda a: F.poisson_nll_loss(a.abs() + 0.1, like(a, COUNTS), log_input=False), (A,)),
    "triplet": (lambda a, b: F.triplet_margin_loss(a, b, like(a, SIGNS), swap=True), (A, B)),
    "multi_margin": (lambda a: F.multi_margin_loss(a, LABELS, weight=like(a, WEIGHT)), (A,)),
    "multi_margin_squares": (lambda a: F.multi_margin_loss(a, LABELS, p=2, reduction="none"), (A,)),
    "multi_margin_of_one": (lambda a: F.multi_margin_loss(a, LABELS[2]), (ROW,)),
    "multi_margin_of_one_in_a_row": (lambda a: F.multi_margin_loss(a, LABELS[2:], reduction="none"), (ROW,)),
    "multilabel_soft_margin": (lambda a: F.multilabel_soft_margin_loss(a, like(a, SIGNS.clamp(min=0))), (A,)),
    "bags": (lambda t: F.embedding_bag(BAGS, t), (TABLE,)),
    "bags_sum": (lambda t: F.embedding_bag(BAGS, t, mode="sum", padding_idx=-1), (TABLE,)),
    "bags_mean_without_padding": (lambda t: F.embedding_bag(BAGS, t, padding_idx=3), (TABLE,)),
    "bags_max": (lambda t: F.embedding_bag(BAGS, t, mode="max"), (TABLE,)),
    "bags_weighted": (
        lambda t, w: F.embedding_bag(BAGS, t, mode="sum", per_sample_weights=w[:2, :3]),
        (TABLE, A),
    ),
    "bags_in_a_stream": (lambda t: F.embedding_bag(STREAM, t, STARTS), (TABLE,)),
    "bags_with_an_end": (
        lambda t: F.embedding_bag(
            STREAM, t, torch.tensor([0, 3, 3, 7]), mode="sum", include_last_offset=True
        ),
        (TABLE,),
    ),
    "module_of_bags": (
        lambda t: torch.func.functional_call(torch.nn.EmbeddingBag(6, 4), {"weight": t}, (STREAM, STARTS)),
        (TABLE,),
    ),
    "grid_sample": (
        lambda a: F.grid_sample(a, like(a, CUBE[..., :2, None].mT * 0.5), align_corners=False),
        (IMAGE,),
    ),
    "index_put_adds": (lambda a, b: a.index_put((TWICE,), b, accumulate=True), (A, B)),
    "kthvalue": (lambda a: a.kthvalue(2).values, (A,)),
    "kthvalue_keeps": (lambda a: torch.kthvalue(a, 3, 0, True)[0], (A,)),
    "median": (lambda a: a.median(), (A,)),
    "median_along": (lambda a: torch.median(a, 1).values, (A,)),
    "quantile": (lambda a: torch.quantile(a, 0.3), (A,)),
    "quantiles_along": (lambda a: a.quantile(torch.tensor([0.0, 0.4, 1.0]).to(a), dim=1, keepdim=True), (A,)),
    "quantile_of_a_number": (lambda a: a[0].quantile(0.5, dim=0, keepdim=True), (ROW,)),
    "quantile_along_the_first": (lambda a: a.quantile(0.5, dim=0), (A,)),
}


@pytest.mark.parametrize("eps", [1e-2, 1e-5])
@pytest.mark.parametrize("name", CASES)
def test_values_and_differences(name, eps):
    function, params = CASES[name]
    value, _, error = of_rule(function, params, eps, sides=2)
    torch.testing.assert_close(value, function(*params), rtol=2e-6, atol=2e-6)
    assert error < 2e-5


@pytest.mark.parametrize("name", ["kthvalue", "median", "median_along", "quantile", "quantiles_along"])
def test_ranks_change_hands(name):
    function, _ = CASES[name]
    assert of_rule(function, (A.round(decimals=1),), 0.5, sides=2)[2] < 1e-5


@pytest.mark.parametrize(
    "function",
    [lambda a: a.median(1).values, lambda a: a.kthvalue(2).values, lambda a: a.quantile(0.5, dim=1)],
    ids=["median", "kthvalue", "quantile"],
)
def test_a_row_without_a_median_says_so_and_spoils_no_other(function):
    holed = A.clone()
    holed[1, 2] = torch.nan
    directions = zo.Directions(seed=1, step=0, num=2)
    with zo.use_engine("reference"):
        value, found = zo.differences(lambda: function(holed), [holed], directions, 1e-3, strict=True)
    if value[1].isnan():  # kthvalue takes NaN for the largest
        assert found[:, 1].isnan().all()
    assert found[:, [0, 2]].isfinite().all()


def followed(function, table=TABLE):
    """The value that a step sees, without a difference to speak of."""
    with zo.use_engine("reference"):
        return zo.differences(lambda: function(table), [table], zo.Directions(seed=1, step=0, num=1), 1e-3)[0]


def test_bags_of_many_lengths_are_compared_by_subtraction():
    def function(t):
        return F.embedding_bag(STREAM, t, STARTS, mode="max")

    with pytest.raises(zo.difference.MissingRuleError, match="embedding_bag"):
        of_rule(function, (TABLE,), 1e-3)


@pytest.mark.parametrize(
    ("function", "error", "match"),
    [
        (lambda t: F.embedding_bag(STREAM, t), ValueError, "offsets"),
        (lambda t: F.embedding_bag(BAGS, t, STARTS), ValueError, "input is 2D"),
        (lambda t: F.embedding_bag(BAGS, t, mode="median"), ValueError, "mode has to be one of"),
        (lambda t: F.embedding_bag(STREAM, t, torch.tensor([0, 9])), RuntimeError, "offsets"),
        (lambda t: F.embedding_bag(BAGS, t, padding_idx=8), RuntimeError, "padding_idx"),
        (lambda t: torch.linalg.cross(t, t), RuntimeError, "must have length 3"),
        (lambda t: torch.diff(t, -1), RuntimeError, "order must be non-negative"),
        (lambda t: t.sum().prod(3), IndexError, "Dimension out of range"),
        (lambda t: torch.linalg.multi_dot([t]), RuntimeError, "at least 2 tensors"),
        (lambda t: F.margin_ranking_loss(t, t[0], t), RuntimeError, "same dimension"),
        (lambda t: F.poisson_nll_loss(t, t, reduction="all"), ValueError, "not a valid value for reduction"),
        (lambda t: F.triplet_margin_loss(t, t, t, margin=-1.0), ValueError, "margin must be greater"),
        (lambda t: F.multi_margin_loss(t[:3], LABELS, p=3), ValueError, "p == 1 and p == 2"),
        (lambda t: F.glu(t[:3], 0), RuntimeError, "must be even"),
    ],
)
def test_what_torch_refuses_is_refused_by_torch(function, error, match):
    with pytest.raises(error, match=match):
        function(TABLE)
    with pytest.raises(error, match=match):
        followed(function)


def test_bags_take_table_and_indices_in_the_order_of_old():
    def function(t):
        return F.embedding_bag(t, BAGS)

    with pytest.warns(UserWarning, match="Argument order of nn.functional.embedding_bag"):
        found = followed(function)
    torch.testing.assert_close(found, F.embedding_bag(BAGS, TABLE))


def test_targets_that_cross_one_gain_stirlings_term():
    targets = torch.tensor([0.8, 1.2, 3.0, 0.0])

    def function(b):
        return F.poisson_nll_loss(torch.zeros_like(b), b, full=True, reduction="none")

    assert of_rule(function, (targets,), 0.5)[2] < 1e-5


@pytest.mark.parametrize(
    "function",
    [
        lambda a: a.prod(0), lambda a: a[0, 0].prod(0), lambda a: torch.prod(a, 0, keepdim=True),
        lambda a: a.reshape(-1)[:1].prod(), lambda a: torch.chain_matmul(a),
    ],
    ids=["along", "number", "keeps", "all", "chain"],
)  # fmt: skip
@pytest.mark.filterwarnings("ignore:torch.chain_matmul is deprecated")
def test_a_product_of_one_factor_is_no_view_of_it(function):
    def written_afterwards(a):
        h = a[:1] * 2
        product = function(h)
        h.add_(1)
        return product

    value, _, error = of_rule(written_afterwards, [A], 1e-2)
    assert torch.equal(value, written_afterwards(A))
    assert error < 1e-5


def test_a_product_is_laid_out_as_torch_does():
    turned, strides = CUBE.permute(2, 1, 0), []
    of_rule(lambda a: strides.append(a.permute(2, 1, 0).prod(0).stride()) or a.sum(), [CUBE], 1e-2)
    assert strides[0] == turned.prod(0).stride()
