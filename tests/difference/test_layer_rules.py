"""The rules behind layers (convolution, pooling, normalisation, attention …) against float64, one line a case."""

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import of_rule

GENERATOR = torch.Generator().manual_seed(0)


def random(*shape):
    return torch.randn(*shape, generator=GENERATOR)


SERIES, SHORT = random(2, 4, 9), random(2, 3, 5)
IMAGE, WIDE = random(2, 4, 7, 6), random(2, 4, 8, 8)
VOLUME = random(1, 2, 4, 3, 5)
KERNEL1, KERNEL2, KERNEL3 = random(6, 4, 3), random(6, 4, 3, 2), random(2, 2, 2, 1, 2)
GROUPED, DEPTHWISE, POINT = random(6, 2, 3, 3), random(4, 1, 3, 3), random(3, 4, 1, 1)
TURNED1, TURNED2 = random(4, 3, 3), random(4, 2, 3, 3)
SIX, FOUR, THREE = random(6), random(4), random(3)
A, B = random(3, 4), random(3, 4)
POSITIVE = A.abs() + 0.5
SHARES = torch.sigmoid(B)
HEADS = random(2, 3, 5, 4)
KEYS, VALUES = random(2, 3, 6, 4), random(2, 3, 6, 2)
FEW_KEYS, FEW_VALUES = random(2, 1, 6, 4), random(2, 1, 6, 4)
MASK = torch.rand(5, 6, generator=GENERATOR) > 0.3
BLIND = MASK & (torch.arange(5) != 2)[:, None]
SCORES = random(3, 5, 6)
ROWS = torch.tensor([2, 0, 2])
MEAN, VARIANCE = random(4), random(4).abs() + 0.1
ENDS = torch.tensor([1, 1, 3], dtype=torch.int32)
IDENTITIES = torch.tensor([[1, 0, 2], [2, 2, 0]])


def like(x, constant):
    return constant.to(x.dtype)


def batch_norm(x, *rest, **settings):
    return F.batch_norm(x, like(x, MEAN.clone()), like(x, VARIANCE.clone()), *rest, **settings)


def grouped_product(x, w):
    """torch's own knows no float64."""
    if x.dtype != torch.float64:
        return torch._grouped_mm(x, w, ENDS)
    return torch.cat([x[:1] @ w[0], x[1:1] @ w[1], x[1:] @ w[2]])


# id: (function of the parameters, the parameters)
CASES = {
    "conv1d": (lambda x, w, b: F.conv1d(x, w, b, stride=2, padding=1), (SERIES, KERNEL1, SIX)),
    "conv1d_first_layer": (lambda w: F.conv1d(like(w, SERIES), w, dilation=2), (KERNEL1,)),
    "conv2d_stride": (lambda x, w, b: F.conv2d(x, w, b, (2, 1), (1, 0)), (IMAGE, KERNEL2, SIX)),
    "conv2d_first_layer": (lambda w, b: F.conv2d(like(w, IMAGE), w, b, (2, 1), (1, 0)), (KERNEL2, SIX)),
    "conv2d_frozen_weight": (lambda x: F.conv2d(x, like(x, KERNEL2), like(x, SIX)), (IMAGE,)),
    "conv2d_groups": (lambda x, w: F.conv2d(x, w, padding="same", groups=2), (IMAGE, GROUPED)),
    "conv2d_groups_first_layer": (lambda w: F.conv2d(like(w, IMAGE), w, groups=2), (GROUPED,)),
    "conv2d_depthwise_dilated": (
        lambda x, w: F.conv2d(x, w, padding=2, dilation=2, groups=4),
        (IMAGE, DEPTHWISE),
    ),
    "conv2d_depthwise_first_layer": (lambda w: F.conv2d(like(w, IMAGE), w, groups=4), (DEPTHWISE,)),
    "conv2d_1x1": (lambda x, w: F.conv2d(x, w), (IMAGE, POINT)),
    "conv2d_channels_last": (
        lambda x, w: F.conv2d(x.to(memory_format=torch.channels_last), w),
        (IMAGE, KERNEL2),
    ),
    "conv2d_of_a_transpose": (lambda x, w: F.conv2d(x.transpose(2, 3), w), (IMAGE, KERNEL2)),
    "conv2d_one_sample": (lambda x, w, b: F.conv2d(x, w, b), (IMAGE[0], KERNEL2, SIX)),
    "conv2d_carried_weight": (lambda x, w, b: F.conv2d(x, w * 2, b * 3), (IMAGE, KERNEL2, SIX)),
    "conv3d": (lambda x, w: F.conv3d(x, w, padding=(1, 0, 1)), (VOLUME, KERNEL3)),
    "conv_transpose1d": (lambda x, w, b: F.conv_transpose1d(x, w, b, 2), (SERIES, TURNED1, THREE)),
    "conv_transpose2d": (
        lambda x, w, b: F.conv_transpose2d(x, w, b, 2, 1, output_padding=1, groups=2),
        (IMAGE, TURNED2, FOUR),
    ),
    "conv_transpose2d_first_layer": (
        lambda w: F.conv_transpose2d(like(w, IMAGE), w, groups=2),
        (TURNED2,),
    ),
    "pad_reflect": (lambda x: F.pad(x, (2, 1), mode="reflect"), (SERIES,)),
    "pad_replicate": (lambda x: F.pad(x, (2, 1, 0, 3), mode="replicate"), (IMAGE,)),
    "pad_circular_one_sample": (lambda x: F.pad(x, (1, 1, 2, 2), mode="circular"), (IMAGE[0],)),
    # pooling
    "max_pool1d": (lambda x: F.max_pool1d(x, 3, 2), (SERIES,)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 2), (IMAGE,)),
    "max_pool2d_overlaps": (lambda x: F.max_pool2d(x, 3, 2, 1), (IMAGE,)),
    "max_pool2d_ceil_dilated": (lambda x: F.max_pool2d(x, (2, 3), 2, 1, (3, 1), ceil_mode=True), (IMAGE,)),
    "max_pool2d_indices": (lambda x: F.max_pool2d(x, 2, return_indices=True)[0], (IMAGE[0],)),
    "max_pool3d": (lambda x: F.max_pool3d(x, 2, 1), (VOLUME,)),
    "adaptive_max_pool2d": (lambda x: F.adaptive_max_pool2d(x, (3, 4)), (IMAGE,)),
    "avg_pool1d": (lambda x: F.avg_pool1d(x, 2), (SERIES,)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), (IMAGE,)),
    "avg_pool3d_one_sample": (lambda x: F.avg_pool3d(x, 2), (VOLUME[0],)),
    "avg_pool3d_in_a_network": (lambda x: F.avg_pool3d(x.tanh(), 2), (VOLUME,)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (3, None)), (IMAGE,)),
    "lp_pool2d": (lambda x: F.lp_pool2d(x.abs() + 1, 2, 2), (WIDE,)),
    "interpolate_antialiased": (
        lambda x: F.interpolate(x.tanh(), scale_factor=0.5, mode="bilinear", antialias=True),
        (IMAGE,),
    ),
    "interpolate": (lambda x: F.interpolate(x, scale_factor=2.0, mode="bilinear"), (IMAGE,)),
    "unfold": (lambda x: F.unfold(x, 2), (IMAGE,)),
    "fold": (lambda x: F.fold(x.flatten(1, 2), (3, 3), 2), (WIDE[:, :, :1, :4],)),
    # normalisation
    "layer_norm": (lambda x, w, b: F.layer_norm(x, (4,), w, b), (A, FOUR, SIX[:4].clone())),
    "layer_norm_two_axes": (lambda x: F.layer_norm(x, (7, 6)), (IMAGE,)),
    "layer_norm_only_weight": (lambda w: F.layer_norm(like(w, A), (4,), w), (FOUR,)),
    "rms_norm": (lambda x, w: F.rms_norm(x, (4,), w, 1e-6), (A, FOUR)),
    "group_norm": (lambda x, w, b: F.group_norm(x, 2, w, b), (IMAGE, FOUR, SIX[:4].clone())),
    "instance_norm": (lambda x, w: F.instance_norm(x, weight=w), (IMAGE, FOUR)),
    "batch_norm": (lambda x, w, b: batch_norm(x, w, b, training=True), (IMAGE, FOUR, SIX[:4].clone())),
    "batch_norm_vectors": (lambda x: F.batch_norm(x, None, None, training=True), (A,)),
    "batch_norm_evaluation": (lambda x, w, b: batch_norm(x, w, b), (IMAGE, FOUR, SIX[:4].clone())),
    "batch_norm_only_weight": (lambda w: batch_norm(like(w, IMAGE), w, training=True), (FOUR,)),
    "normalize": (lambda x: F.normalize(x, dim=-1), (A,)),
    "weight_norm": (lambda v, g: torch._weight_norm(v, g, 0), (A, THREE[:, None].clone())),
    "cosine_similarity": (lambda x, y: F.cosine_similarity(x, y), (A, B)),
    "cosine_similarity_broadcast": (
        lambda x, y: F.cosine_similarity(x, y, dim=0),
        (IMAGE, POSITIVE[:1, :1, None, None].clone()),
    ),
    # attention
    "attention": (F.scaled_dot_product_attention, (HEADS, KEYS, VALUES)),
    "attention_causal": (lambda q: F.scaled_dot_product_attention(q, q, q, is_causal=True), (HEADS,)),
    "attention_masked": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, MASK, scale=0.3),
        (HEADS, KEYS, VALUES),
    ),
    "attention_sees_nothing": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, BLIND),
        (HEADS, KEYS, VALUES),
    ),
    "attention_trained_mask": (
        lambda m: F.scaled_dot_product_attention(*(like(m, t) for t in (HEADS, KEYS, VALUES)), attn_mask=m),
        (SCORES,),
    ),
    "attention_grouped_query": (
        lambda q, k, v: F.scaled_dot_product_attention(q, k, v, enable_gqa=True),
        (HEADS, FEW_KEYS, FEW_VALUES),
    ),
    # tables and products
    "embedding": (lambda w: F.embedding(IDENTITIES, w, padding_idx=0), (A,)),
    "baddbmm": (
        lambda c, a, b: torch.baddbmm(c, a, b, beta=2, alpha=3),
        (random(2, 3, 6), SHORT, random(2, 5, 6)),
    ),
    "grouped_product": (grouped_product, (A, random(3, 4, 8))),
    "addmv": (lambda c, a, b: torch.addmv(c, a, b), (THREE, A, FOUR)),
    "mv": (lambda a, b: a.mv(b), (A, FOUR)),
    "bilinear_einsum": (lambda a, b: torch.einsum("bhqd,bhkd->bhqk", a, b), (HEADS, KEYS)),
    "index_add": (lambda a, b: a.index_add(0, ROWS, b), (A, B)),
    "scatter_add": (lambda a, b: a.scatter_add(0, ROWS[:, None].expand(3, 4), b), (A, B)),
    "addcmul": (lambda a, b: torch.addcmul(a, a, b, value=0.5), (A, B)),
    "addcdiv": (lambda a, b: torch.addcdiv(a, a, b, value=0.5), (A, POSITIVE)),
    # reductions
    "max": (lambda a: a.max(), (A,)),
    "max_axis": (lambda a: a.max(1, keepdim=True).values, (A,)),
    "min_axis": (lambda a: torch.min(a, dim=0)[0], (A,)),
    "max_of_two": (lambda a, b: torch.max(a, b), (A, B)),
    "amax": (lambda a: a.amax((0, -1)), (IMAGE,)),
    "aminmax": (lambda a: torch.stack(list(torch.aminmax(a, dim=1))), (A,)),
    "var": (lambda a: a.var(1), (A,)),
    "var_biased": (lambda a: a.var(-1, unbiased=False, keepdim=True), (A,)),
    "std": (lambda a: torch.std(a, dim=(0, 1), correction=0), (A,)),
    "var_mean": (lambda a: torch.stack(torch.var_mean(a, 1)), (A,)),
    "norm": (lambda a: a.norm(dim=1), (A,)),
    "norm_1": (lambda a: a.norm(1), (A,)),
    "vector_norm_largest": (lambda a: torch.linalg.vector_norm(a, float("inf"), 1), (A,)),
    "linalg_norm": (lambda a: torch.linalg.norm(a), (A,)),
    "cumsum": (lambda a: a.cumsum(1), (A,)),
    "triu": (lambda a: a.triu(1), (A,)),
    # activations
    "elu": (lambda a: F.elu(a, 0.7), (A,)),
    "celu": (lambda a: F.celu(a, 0.7), (A,)),
    "selu": (lambda a: F.selu(a), (A,)),
    "prelu": (lambda a, w: F.prelu(a, w), (IMAGE, FOUR)),
    "prelu_only_weight": (lambda w: F.prelu(like(w, A), w), (FOUR[:1].clone(),)),
    "glu": (lambda a: F.glu(a, 1), (A,)),
    "mish": (lambda a: F.mish(a), (A,)),
    "softsign": (lambda a: F.softsign(a), (A,)),
    "softshrink": (lambda a: F.softshrink(a, 0.3), (A,)),
    "hardshrink": (lambda a: F.hardshrink(a, 0.3), (A,)),
    "hardsigmoid": (lambda a: F.hardsigmoid(4 * a), (A,)),
    "hardswish": (lambda a: F.hardswish(4 * a), (A,)),
    "threshold": (lambda a: F.threshold(a, 0.1, -2.0), (A,)),
    "sinh_cosh": (lambda a: a.sinh() * a.cosh(), (A,)),
    # losses
    "l1_loss": (lambda a, b: F.l1_loss(a, b), (A, B)),
    "smooth_l1_loss": (lambda a: F.smooth_l1_loss(a, like(a, B), beta=0.5), (A,)),
    "huber_loss": (lambda a: F.huber_loss(a, like(a, B), reduction="sum", delta=0.7), (A,)),
    "bce_with_logits": (
        lambda a: F.binary_cross_entropy_with_logits(a, like(a, SHARES), pos_weight=like(a, POSITIVE[0])),
        (A,),
    ),
    "bce": (lambda a: F.binary_cross_entropy(a.sigmoid(), like(a, SHARES), reduction="none"), (A,)),
    "kl_div": (lambda a: F.kl_div(a.log_softmax(1), like(a, SHARES), reduction="batchmean"), (A,)),
}


@pytest.mark.parametrize("eps", [1e-2, 1e-5])
@pytest.mark.parametrize("name", CASES)
def test_rule_is_exact(name, eps):
    function, params = CASES[name]
    value, _, error = of_rule(function, params, eps, sides=2)
    torch.testing.assert_close(value, function(*params))
    assert error < 1e-5


@pytest.mark.parametrize("name", CASES)
def test_rule_in_bfloat16(name):
    """At most eight roundings of 2⁻⁹ stand in a row in these."""
    function, params = CASES[name]
    assert of_rule(function, params, 1e-3, dtype=torch.bfloat16)[2] < 8 * 2**-9


def test_tensors_put_together_in_half_precision_keep_small_differences():
    rows, table = torch.tensor([0, 2, 0]), torch.ones(3, 4, dtype=torch.float16)

    def function(a):
        return torch.zeros_like(a).index_add(0, rows, a)

    assert of_rule(function, (table,), 1e-8)[2] < 1e-5
