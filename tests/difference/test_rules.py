"""Every rule against f(θ + sεz) − f(θ) in float64, one line a case."""

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import of_rule, relative_error

import zo_triton as zo

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(3, 4, generator=GENERATOR)
B = torch.randn(3, 4, generator=GENERATOR)
ROW = torch.randn(4, generator=GENERATOR)
SQUARE = torch.randn(4, 4, generator=GENERATOR)
CUBE = torch.randn(2, 3, 4, generator=GENERATOR)
POSITIVE = torch.rand(3, 4, generator=GENERATOR) + 0.5
IMAGE = torch.randn(2, 3, 5, 5, generator=GENERATOR)
KERNEL = torch.randn(4, 3, 3, 3, generator=GENERATOR)
FOUR = torch.randn(4, generator=GENERATOR)
LABELS = torch.tensor([1, 3, 0])
IGNORED = torch.tensor([1, -100, 0])
GRID_LABELS = torch.tensor([[0, 1, 2, 2], [2, 1, 0, 1]])
SHARES = torch.softmax(torch.randn(3, 4, generator=GENERATOR), 1)
WEIGHT = torch.tensor([0.5, 2.0, 1.0, 3.0])
NUMBER = torch.tensor(1.3)
REGULAR = SQUARE + 4 * torch.eye(4)


def like(x, constant):
    """A constant in the dtype of the tensor that it meets."""
    return constant.to(x.dtype)


# id: (function of the parameters, the parameters)
CASES = {
    # elementwise
    "add": (lambda a, b: a + b, (A, B)),
    "add_alpha": (lambda a, b: torch.add(a, b, alpha=-2), (A, B)),
    "add_broadcasts_row": (lambda a, b: a + b, (A, ROW)),
    "add_row_first": (lambda a, b: b + a, (A, ROW)),
    "add_constant_of_more_dimensions": (lambda a: a + like(a, CUBE), (ROW,)),
    "add_number_left": (lambda a: 1.5 + a, (A,)),
    "sub": (lambda a, b: a - b, (ROW, A)),
    "sub_from_number": (lambda a: 2 - a, (A,)),
    "mul": (lambda a, b: a * b, (A, B)),
    "mul_by_itself": (lambda a: a * a, (A,)),
    "mul_broadcasts_column": (lambda a, b: a * b[:, :1], (A, B)),
    "mul_outer": (lambda a, b: a[:, None] * b, (ROW, FOUR)),
    "mul_number": (lambda a: 3 * a, (A,)),
    "div": (lambda a, b: a / b, (A, POSITIVE)),
    "div_by_number": (lambda a: a / 7, (A,)),
    "div_into_number": (lambda a: 2 / a, (POSITIVE,)),
    "square": (lambda a: a**2, (A,)),
    "cube": (lambda a: a.pow(3), (A,)),
    "fifth_power": (lambda a: torch.pow(a, 5), (A,)),
    "real_power": (lambda a: a**1.7, (POSITIVE,)),
    "inverse_square_of_either_sign": (lambda a: a**-2, (A,)),
    "inverse_cube_of_either_sign": (lambda a: a.pow(-3.0), (A,)),
    "tenth_power_of_either_sign": (lambda a: a**10, (A,)),
    "inverse_root": (lambda a: a**-0.5, (POSITIVE,)),
    "number_to_a_power": (lambda a: 3.0**a, (A,)),
    "exp": (lambda a: a.exp(), (A,)),
    "expm1": (lambda a: torch.expm1(a), (A,)),
    "log": (lambda a: a.log(), (POSITIVE,)),
    "log1p": (lambda a: a.log1p(), (POSITIVE,)),
    "log2": (lambda a: a.log2(), (POSITIVE,)),
    "log10": (lambda a: a.log10(), (POSITIVE,)),
    "sqrt": (lambda a: a.sqrt(), (POSITIVE,)),
    "rsqrt": (lambda a: a.rsqrt(), (POSITIVE,)),
    "reciprocal": (lambda a: a.reciprocal(), (POSITIVE,)),
    "abs": (lambda a: abs(a), (A,)),
    "neg": (lambda a: -a, (A,)),
    "sin": (lambda a: a.sin(), (A,)),
    "cos": (lambda a: a.cos(), (A,)),
    "erf": (lambda a: torch.erf(a), (A,)),
    "erfc": (lambda a: torch.special.erfc(a), (A,)),
    "lgamma": (lambda a: torch.lgamma(a), (POSITIVE,)),
    "lgamma_of_negative_numbers": (lambda a: torch.special.gammaln(a - 3.2), (SHARES,)),
    "asin": (lambda a: torch.asin(a), (SHARES,)),
    "acos": (lambda a: (-a).arccos(), (SHARES,)),
    "atan": (lambda a: torch.atan(a), (A,)),
    "asinh": (lambda a: a.arcsinh(), (A,)),
    "atanh": (lambda a: torch.atanh(a), (SHARES,)),
    "acosh": (lambda a: torch.acosh(a + 1), (POSITIVE,)),
    "digamma": (lambda a: torch.digamma(a), (POSITIVE,)),
    "i0": (lambda a: torch.special.i0(a), (A,)),
    "exp2": (lambda a: torch.exp2(a), (A,)),
    "degrees_and_back": (lambda a: torch.deg2rad(a) + torch.rad2deg(a), (A,)),
    "hypot": (lambda a, b: torch.hypot(a, b), (A, B)),
    "hypot_of_a_constant": (lambda a: torch.hypot(like(a, B), a), (A,)),
    "atan2": (lambda a, b: torch.atan2(a, b), (A, B)),
    "atan2_across_the_cut": (lambda a: torch.atan2(a * 0.0 + 1e-3 - a[:, :1].abs() * 2e-3, like(a, B)), (A,)),
    "trained_exponent": (lambda a, b: a**b, (POSITIVE, B)),
    "exponent_alone_is_trained": (lambda b: like(b, POSITIVE).pow(b), (B,)),
    "exponents_in_a_tensor": (lambda a: a.pow(torch.tensor([2.0, 3.0, 0.0, 1.0]).to(a)), (A,)),
    "nan_to_num": (lambda a: torch.nan_to_num(a * like(a, torch.tensor([1.0, torch.inf, 1.0, 1.0]))), (A,)),
    "frac": (lambda a: torch.frac(a * 3), (A,)),
    "remainder": (lambda a: a % 0.7, (A,)),
    "remainder_by_infinity": (lambda a: a.abs() % torch.inf, (A,)),
    "remainder_by_a_tensor": (lambda a: torch.remainder(a[:, :1], like(a, ROW)), (A,)),
    "fmod": (lambda a: torch.fmod(a, 0.7), (A,)),
    "clamp": (lambda a: a.clamp(-0.5, 0.5), (A,)),
    "clamp_min": (lambda a: a.clamp(min=0.1), (A,)),
    "clamp_max_tensor": (lambda a: a.clamp(max=like(a, ROW)), (A,)),
    "clamp_by_a_mask": (lambda a: a.clamp(max=B > 0).clamp_min(False), (A,)),
    "hardtanh": (lambda a: F.hardtanh(a), (A,)),
    "hardtanh_of_bools": (lambda a: F.hardtanh(a, False, True), (A,)),
    "threshold_of_bools": (lambda a: F.threshold(a, False, True), (A,)),
    "relu6": (lambda a: F.relu6(4 * a), (A,)),
    "leaky_relu": (lambda a: F.leaky_relu(a, 0.2), (A,)),
    "softplus": (lambda a: F.softplus(a, beta=2.0), (A,)),
    "logsigmoid": (lambda a: F.logsigmoid(a), (A,)),
    "maximum": (lambda a, b: torch.maximum(a, b), (A, B)),
    "minimum_with_constant": (lambda a: torch.minimum(a, like(a, ROW)), (A,)),
    "where": (lambda a, b: torch.where(like(a, B) > 0, a, b), (A, ROW)),
    "masked_fill": (lambda a: a.masked_fill(like(a, B) > 0, 0.0), (A,)),
    "lerp": (lambda a, b: torch.lerp(a, b, 0.3), (A, B)),
    "masked_fill_by_a_carried_number": (lambda a, b: a.masked_fill(like(a, B) > 0, b), (A, NUMBER)),
    "lerp_by_a_carried_weight": (lambda a, b, w: torch.lerp(a, b, w), (A, B, SHARES)),
    "clamp_between_carried_bounds": (lambda a, b: torch.clamp(a, min=b - 0.3, max=b + 0.2), (A, ROW)),
    "clamp_a_constant": (lambda b: torch.clamp(like(b, A), min=b), (ROW,)),
    "softplus_past_its_threshold": (lambda a: F.softplus(a, 3, 0.2), (A,)),
    "logaddexp": (lambda a, b: torch.logaddexp(a, b), (A, ROW)),
    "fmax": (lambda a, b: torch.fmax(a, b), (A, B)),
    # activations that no linear layer precedes
    "relu": (lambda a: F.relu(a), (A,)),
    "relu_method": (lambda a: a.relu(), (A,)),
    "tanh": (lambda a: torch.tanh(a), (A,)),
    "sigmoid": (lambda a: a.sigmoid(), (A,)),
    "gelu": (lambda a: F.gelu(a), (A,)),
    "gelu_tanh": (lambda a: F.gelu(a, approximate="tanh"), (A,)),
    "silu": (lambda a: F.silu(a), (A,)),
    # shape
    "view": (lambda a: a.view(2, 6), (A,)),
    "reshape_of_transpose": (lambda a: a.t().reshape(-1), (A,)),
    "flatten": (lambda a: torch.flatten(a, 1), (CUBE,)),
    "unflatten": (lambda a: a.unflatten(1, (2, 2)), (A,)),
    "squeeze": (lambda a: a[None].squeeze(0), (A,)),
    "unsqueeze_last": (lambda a: a.unsqueeze(-1), (A,)),
    "transpose": (lambda a: a.transpose(0, 2), (CUBE,)),
    "transpose_negative": (lambda a: a.transpose(-1, 0), (CUBE,)),
    "permute": (lambda a: a.permute(2, 0, -2), (CUBE,)),
    "t": (lambda a: a.t() * 2, (A,)),
    "matrix_transpose": (lambda a: a.mT, (CUBE,)),
    "expand": (lambda a: a.expand(3, 4), (ROW,)),
    "contiguous_clone": (lambda a: a.t().contiguous().clone(), (A,)),
    "index_number": (lambda a: a[1], (A,)),
    "index_none_slice_ellipsis": (lambda a: a[None, 1:, ..., :2], (CUBE,)),
    "index_list": (lambda a: a[[2, 0]], (A,)),
    "index_tensors_apart": (lambda a: a[torch.tensor([0, 1]), :, torch.tensor([3, 1])], (CUBE,)),
    "index_mask": (lambda a: a[like(a, B) > 0], (A,)),
    "select_narrow": (lambda a: a.select(1, 2).narrow(0, 1, 1), (CUBE,)),
    "chunk": (lambda a: a.chunk(2, 1)[1], (A,)),
    "split": (lambda a: a.split([1, 2])[1], (A,)),
    "unbind": (lambda a: a.unbind(-1)[2], (A,)),
    "iterate": (lambda a: list(a)[2], (A,)),
    "cat_with_constant": (lambda a: torch.cat([like(a, B), a], 1), (A,)),
    "cat_with_a_legacy_empty_part": (lambda a: torch.cat([a.new_zeros(0), a, a.new_zeros(0)], -2), (CUBE,)),
    "cat_with_a_carried_empty_part": (lambda a, b: torch.cat([b[:0], a, a * b], -1), (A, ROW)),
    "cat_of_vectors_one_empty": (lambda a: torch.cat([a[:0], a, a[:1]]), (ROW,)),
    "stack": (lambda a, b: torch.stack([a, b], -1), (A, B)),
    "hstack": (lambda a, b: torch.hstack([a, b]), (A, SQUARE[:3].clone())),
    "hstack_vectors": (lambda a, b: torch.hstack([a, b]), (ROW, NUMBER)),
    "vstack": (lambda a, b: torch.vstack([a, b]), (A, ROW)),
    "dstack": (lambda a, b: torch.dstack([a, b]), (A, B)),
    "column_stack": (lambda a, b: torch.column_stack([a, b]), (SQUARE, ROW)),
    "block_diag": (lambda a, b: torch.block_diag(a, b), (A, ROW)),
    "atleast_several": (lambda a, b: torch.cat(torch.atleast_2d(a, b)), (A, ROW)),
    "broadcast_tensors": (lambda a, b: torch.stack(torch.broadcast_tensors(a, b)), (A, ROW)),
    "unfold_method": (lambda a: a.unfold(1, 3, 1), (CUBE,)),
    "as_strided": (lambda a: (a * 2).as_strided((2, 3), (1, 4), 1), (A,)),
    "as_strided_part": (lambda a: (a * 2)[1:].as_strided((2, 2), (4, 1)), (A,)),
    "select_scatter": (lambda a, b: a.select_scatter(b, 0, 1), (A, ROW)),
    "slice_scatter": (lambda a, b: a.slice_scatter(b[None], 0, 2), (A, ROW)),
    "flip": (lambda a: a.flip(1), (A,)),
    "roll": (lambda a: torch.roll(a, 1, 0), (A,)),
    "repeat": (lambda a: a.repeat(2, 3), (A,)),
    "gather": (lambda a: a.gather(1, LABELS[:, None]), (A,)),
    "index_select": (lambda a: a.index_select(1, LABELS), (A,)),
    "pad": (lambda a: F.pad(a, (1, 2), value=5.0), (A,)),
    "detach": (lambda a: a.detach() * 2, (A,)),
    "data": (lambda a: a.data * 2, (A,)),
    "movedim": (lambda a: a.movedim(0, -1), (CUBE,)),
    # reductions
    "sum": (lambda a: a.sum(), (A,)),
    "sum_dims": (lambda a: a.sum((0, -1)), (CUBE,)),
    "sum_keepdim": (lambda a: a.sum(1, keepdim=True), (CUBE,)),
    "mean": (lambda a: a.mean(), (A,)),
    "mean_dim": (lambda a: torch.mean(a, dim=-2), (CUBE,)),
    "sum_of_a_number": (lambda a: a[1].sum(), (ROW,)),
    # scans and order
    "cumprod": (lambda a: a.cumprod(1), (A,)),
    "logcumsumexp": (lambda a: torch.logcumsumexp(3 * a, -1), (A,)),
    "cummax": (lambda a: a.cummax(1).values, (A,)),
    "cummin": (lambda a: torch.cummin(a, 0)[0], (A,)),
    "sort": (lambda a: a.sort(0, descending=True)[0], (A,)),
    "msort": (lambda a: torch.msort(a), (A,)),
    "topk": (lambda a: a.topk(2, 0).values, (A,)),
    "topk_smallest": (lambda a: torch.topk(a, 3, largest=False)[0], (A,)),
    # numbers, which have no axis
    "transpose_of_a_number": (lambda a: a.transpose(0, -1) * 2, (NUMBER,)),
    "norm_of_a_number": (lambda a: torch.norm(a) + a.norm(1), (NUMBER,)),
    "mean_of_a_number": (lambda a: a.mean(0) + a.sum(), (NUMBER,)),
    "logsumexp_of_a_number": (lambda a: a.logsumexp(0), (NUMBER,)),
    "softmax_of_a_number": (lambda a: torch.softmax(a, 0) * a, (NUMBER,)),
    "prelu_of_a_number": (lambda a, w: F.prelu(-a, w), (NUMBER, NUMBER + 0.5)),
    "dropout_of_a_number": (lambda a: F.dropout(a, 0.5, training=False) + F.dropout(a, 0.0), (NUMBER,)),
    # softmax
    "softmax": (lambda a: F.softmax(a, dim=1), (A,)),
    "softmax_first_axis": (lambda a: a.softmax(0), (A,)),
    "log_softmax": (lambda a: torch.log_softmax(a, -1), (A,)),
    "softmin": (lambda a: F.softmin(a, dim=1), (A,)),
    "logsumexp": (lambda a: a.logsumexp(1), (A,)),
    # products
    "linear": (lambda a, b: F.linear(like(a, B), a, b), (SQUARE, ROW)),
    "linear_carried_input": (lambda a, w: F.linear(a * 2, w), (A, SQUARE)),
    "linear_frozen_weight": (lambda a: F.linear(a * 2, like(a, SQUARE), like(a, ROW)), (A,)),
    "linear_only_bias_trained": (lambda b: F.linear(like(b, A), like(b, SQUARE), b), (ROW,)),
    "linear_carried_weight_and_bias": (lambda w, b: F.linear(like(w, A), w * 2, b * 3), (SQUARE, ROW)),
    "linear_everything_carried": (lambda a, w, b: F.linear(a * 2, w * 2, b), (A, SQUARE, ROW)),
    "linear_of_a_parameter": (lambda a, w: F.linear(a, w), (A, SQUARE)),
    "linear_more_dimensions": (lambda a, w: F.linear(a + 0, w), (CUBE, SQUARE)),
    "linear_one_vector": (lambda a, w: F.linear(a + 0, w), (ROW, SQUARE)),
    "linear_weight_data": (lambda w: F.linear(like(w, A), w.data), (SQUARE,)),
    "linear_weight_slice": (lambda w: F.linear(like(w, A), w[:2]), (SQUARE,)),
    "matmul": (lambda a, b: a @ b, (A, SQUARE)),
    "matmul_transposed_weight": (lambda a, w: torch.tanh(a * 2) @ w.T, (A, SQUARE)),
    "matmul_batched_by_matrix": (lambda a, b: a @ b, (CUBE, SQUARE)),
    "matmul_matrix_by_batched": (lambda a, b: torch.matmul(a, b.mT), (SQUARE, CUBE)),
    "matmul_vectors": (lambda a, b: a @ b, (ROW, FOUR)),
    "matmul_matrix_by_vector": (lambda a, b: a @ b, (A, ROW)),
    "matmul_vector_by_batched": (lambda a, b: a @ b.mT, (ROW, CUBE)),
    "mm": (lambda a, b: torch.mm(a, b), (A, SQUARE)),
    "addmm": (lambda c, a, b: torch.addmm(c, a, b, beta=2, alpha=3), (ROW, A, SQUARE)),
    "bmm": (lambda a: torch.bmm(a, a.mT), (CUBE,)),
    "einsum": (lambda a, b: torch.einsum("ij,kj->ik", a, b), (A, SQUARE)),
    "solve": (lambda a, b: torch.linalg.solve(a, b), (REGULAR, SQUARE)),
    "solve_from_the_right": (lambda a, b: torch.linalg.solve(a, b, left=False), (REGULAR, A)),
    "solve_only_matrix": (lambda a: torch.linalg.solve(a, like(a, SQUARE)), (REGULAR,)),
    "solve_triangular": (lambda a, b: torch.linalg.solve_triangular(a, b, upper=True), (REGULAR, SQUARE)),
    "solve_unitriangular": (
        lambda a, b: torch.linalg.solve_triangular(a, b, upper=False, left=False, unitriangular=True),
        (REGULAR, A),
    ),
    "inverse": (lambda a: torch.linalg.inv(a), (REGULAR,)),
    "cdist": (lambda a, b: torch.cdist(a, b), (A, SQUARE)),
    "cdist_1": (lambda a, b: torch.cdist(a, b, p=1), (CUBE, A)),
    "pairwise_distance": (lambda a, b: F.pairwise_distance(a, b), (A, B)),
    "conv2d": (lambda x, w, b: F.conv2d(x, w, b, padding=1), (IMAGE, KERNEL, FOUR)),
    "conv2d_only_bias": (lambda b: F.conv2d(like(b, IMAGE), like(b, KERNEL), b), (FOUR,)),
    # losses
    "cross_entropy": (lambda a: F.cross_entropy(a, LABELS), (A,)),
    "cross_entropy_none": (lambda a: F.cross_entropy(a, LABELS, reduction="none"), (A,)),
    "cross_entropy_sum_smoothed": (
        lambda a: F.cross_entropy(a, LABELS, reduction="sum", label_smoothing=0.1),
        (A,),
    ),
    "cross_entropy_ignored": (lambda a: F.cross_entropy(a, IGNORED), (A,)),
    "cross_entropy_ignored_none": (lambda a: F.cross_entropy(a, IGNORED, reduction="none"), (A,)),
    "cross_entropy_weighted": (lambda a: F.cross_entropy(a, IGNORED, weight=like(a, WEIGHT)), (A,)),
    "cross_entropy_weighted_smoothed": (
        lambda a: F.cross_entropy(a, IGNORED, weight=like(a, WEIGHT), label_smoothing=0.2),
        (A,),
    ),
    "cross_entropy_shares": (lambda a: F.cross_entropy(a, like(a, SHARES)), (A,)),
    "cross_entropy_shares_weighted": (
        lambda a: F.cross_entropy(a, like(a, SHARES), weight=like(a, WEIGHT), label_smoothing=0.1),
        (A,),
    ),
    "cross_entropy_grid": (lambda a: F.cross_entropy(a, GRID_LABELS), (CUBE,)),
    "cross_entropy_one_sample": (lambda a: F.cross_entropy(a, LABELS[0]), (ROW,)),
    "nll_loss": (lambda a: F.nll_loss(F.log_softmax(a, 1), LABELS), (A,)),
    "nll_loss_weighted_ignored": (lambda a: F.nll_loss(a, IGNORED, weight=like(a, WEIGHT)), (A,)),
    "nll_loss_grid_none": (lambda a: F.nll_loss(a, GRID_LABELS, reduction="none"), (CUBE,)),
    "mse_loss": (lambda a: F.mse_loss(a, like(a, B)), (A,)),
    "mse_loss_both_carry": (lambda a, b: F.mse_loss(a, b, reduction="sum"), (A, B)),
    "mse_loss_none": (lambda a: F.mse_loss(like(a, B), a, reduction="none"), (A,)),
}


@pytest.mark.parametrize("eps", [1e-2, 1e-5])
@pytest.mark.parametrize("name", CASES)
def test_rule_is_exact(name, eps):
    function, params = CASES[name]
    value, found, error = of_rule(function, params, eps, sides=2)
    torch.testing.assert_close(value, function(*params), rtol=0, atol=0)
    assert found.dtype == torch.float32
    assert error < 1e-5


FRAMES = torch.randn(7, 3, 4, generator=GENERATOR)
REPEATED = torch.tensor([[1, 1, 2], [3, 2, 3], [2, 0, 0]])
SPOKEN, HEARD = torch.tensor([3, 2, 1]), torch.tensor([7, 5, 4])


def ctc(labels=REPEATED, frames=HEARD, spoken=SPOKEN, **settings):
    return lambda a: F.ctc_loss(a.log_softmax(-1), labels, frames, spoken, **settings)


ALIGNMENTS = {
    "repeated_labels_need_a_blank": ctc(),
    "sum": ctc(reduction="sum"),
    "another_blank": ctc(REPEATED.where(REPEATED > 0, 1), blank=0, reduction="none"),
    "labels_one_behind_the_other": ctc(torch.tensor([1, 1, 2, 3, 2, 2])),
    "nothing_was_said": ctc(spoken=torch.tensor([3, 2, 0]), reduction="none"),
    "one_frame": ctc(REPEATED[:, :1], (1, 1, 1), (1, 1, 1)),
    "impossible_and_left_out": ctc(frames=torch.tensor([3, 5, 4]), zero_infinity=True, reduction="none"),
    "one_sample": lambda a: F.ctc_loss(a[:, 0].log_softmax(-1), REPEATED[0], (7,), (3,)),
    "torch_itself": lambda a: torch.ctc_loss(a.log_softmax(-1), REPEATED, HEARD, SPOKEN, 0, 2),
    "last_is_blank": lambda a: F.ctc_loss(a.log_softmax(-1), 3 - REPEATED.clamp(1), HEARD, SPOKEN, blank=3),
}


@pytest.mark.parametrize("eps", [1e-1, 1e-5, 30.0])
@pytest.mark.parametrize("name", ALIGNMENTS)
def test_alignments(name, eps):
    value, _, error = of_rule(ALIGNMENTS[name], (FRAMES,), eps, sides=2)
    torch.testing.assert_close(value, ALIGNMENTS[name](FRAMES), rtol=0, atol=0)
    assert error < 1e-5


def test_an_impossible_alignment_stays_impossible():
    short = ctc(frames=torch.tensor([3, 5, 4]), reduction="none")
    value, found, _ = of_rule(short, (FRAMES,), 1e-3)
    assert value[0] == torch.inf
    assert torch.all(found[:, 0] == 0)
    assert torch.all(found[:, 1:].isfinite() & (found[:, 1:] != 0))


@pytest.mark.parametrize("eps", [1e-12, 1e-2, 0.9, 20.0])
@pytest.mark.parametrize(
    "function", [torch.erf, torch.erfc, torch.lgamma], ids=lambda function: function.__name__
)
def test_special_functions_over_short_and_long_steps(function, eps):
    """Below float64's digits of the argument a difference is still ε times the derivative."""
    where = (A.abs() + 60 if eps == 20.0 else POSITIVE) if function is torch.lgamma else A
    if eps == 1e-12:
        a = where.double().requires_grad_()
        function(a).sum().backward()
        directions = zo.Directions(seed=1, step=0, num=1)
        with zo.use_engine("reference"):
            found = zo.differences(lambda: function(where), [where], directions, eps, strict=True)[1][0]
        assert relative_error(found, a.grad * eps * zo.sample(directions, 0, a.shape)[0]) < 1e-5
    else:
        assert of_rule(function, (where,), eps, sides=1 + (function is not torch.lgamma))[2] < 1e-5


LARGE = {
    "softplus": lambda a: F.softplus(a),
    "logsigmoid": lambda a: F.logsigmoid(a),
    "mish": lambda a: F.mish(a),
    "softmax": lambda a: F.softmax(a, 1),
    "log_softmax": lambda a: F.log_softmax(a, 1),
    "logsumexp": lambda a: a.logsumexp(1),
    "elu": lambda a: F.elu(a, 0.5),
    "celu": lambda a: F.celu(a, 2.0),
    "selu": lambda a: F.selu(a),
    "cross_entropy": lambda a: F.cross_entropy(a, LABELS),
    "bce_with_logits": lambda a: F.binary_cross_entropy_with_logits(a, like(a, SHARES)),
    "attention": lambda a: F.scaled_dot_product_attention(a, a, a),
}


@pytest.mark.parametrize("eps", [1.0, 30.0, 300.0])
@pytest.mark.parametrize("name", LARGE)
def test_large_differences_stay_finite(name, eps):
    """Where exponentials overflow or leave nothing, the difference is still the function's."""
    scale = 30 if name != "attention" else 5
    _, found, error = of_rule(LARGE[name], (A * scale,), eps, sides=2)
    assert found.isfinite().all()
    assert error < (1e-4 if name != "attention" else 1e-2)  # logits near 1000 are rounded by 6e-5 themselves


@pytest.mark.parametrize("in_order", [True, False])
def test_topk_across_changes_of_place(in_order):
    """Values, whoever they belong to afterwards; ties and near ties."""
    scores = torch.tensor([[1.0, 1.0, 0.5, 0.5, 0.49, 0.0], [0.3, 0.31, 0.3, 0.32, 0.3, 0.3]])
    _, _, error = of_rule(lambda a: a.topk(3, 1, sorted=in_order).values.sort(1)[0], (scores,), 0.1, sides=2)
    assert error < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_rule_in_bfloat16(name):
    """Differences are rounded to eight bits: at most four roundings of 2⁻⁹ stand in a row here."""
    function, params = CASES[name]
    _, found, error = of_rule(function, params, 1e-3, dtype=torch.bfloat16)
    assert found.dtype == torch.float32
    assert error < 4 * 2**-9
