"""A call by places, by names or by NumPy's names, as torch allows it, has the same difference."""

import inspect

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import of_rule

from zo_triton.difference.registry import HANDLERS

GENERATOR = torch.Generator().manual_seed(0)
A = torch.rand(3, 4, generator=GENERATOR) + 0.3
B = torch.rand(3, 4, generator=GENERATOR) + 0.3
CUBE = torch.rand(2, 3, 4, generator=GENERATOR) + 0.3
IMAGE = torch.rand(2, 3, 6, 6, generator=GENERATOR)
ROWS = torch.tensor([[0, 2, 1, 0]])


# function: the arguments after the first, by name; the first is A unless given
CALLS = [
    (torch.sum, A, {"dim": 1, "keepdim": True}),
    (torch.mean, A, {"dim": (0, 1), "keepdim": True}),
    (torch.amax, A, {"dim": 1, "keepdim": True}),
    (torch.amin, A, {"dim": (0,), "keepdim": False}),
    (torch.cumsum, A, {"dim": 1}),
    (torch.cumprod, A, {"dim": 1}),
    (torch.logcumsumexp, A, {"dim": 0}),
    (torch.logsumexp, A, {"dim": 1, "keepdim": True}),
    (torch.softmax, A, {"dim": 1}),
    (torch.log_softmax, A, {"dim": 0}),
    (torch.transpose, CUBE, {"dim0": 0, "dim1": 2}),
    (torch.swapaxes, CUBE, {"axis0": 0, "axis1": 2}),
    (torch.permute, CUBE, {"dims": (2, 0, 1)}),
    (torch.movedim, CUBE, {"source": 0, "destination": 2}),
    (torch.flatten, CUBE, {"start_dim": 1, "end_dim": 2}),
    (torch.unflatten, A, {"dim": 1, "sizes": (2, 2)}),
    (torch.reshape, A, {"shape": (2, 6)}),
    (torch.squeeze, A[:, :1].clone(), {"dim": 1}),
    (torch.unsqueeze, A, {"dim": 1}),
    (torch.select, A, {"dim": 1, "index": 2}),
    (torch.narrow, A, {"dim": 1, "start": 1, "length": 2}),
    (torch.gather, A, {"dim": 1, "index": ROWS}),
    (torch.index_select, A, {"dim": 1, "index": ROWS[0]}),
    (torch.flip, A, {"dims": (1,)}),
    (torch.roll, A, {"shifts": 1, "dims": 1}),
    (torch.tile, A, {"dims": (2, 1)}),
    (torch.repeat_interleave, A, {"repeats": 2, "dim": 1}),
    (torch.diagonal, A, {"offset": 1, "dim1": 1, "dim2": 0}),
    (torch.tril, A, {"diagonal": -1}),
    (torch.broadcast_to, A, {"size": (2, 3, 4)}),
    (torch.add, A, {"other": B, "alpha": 2}),
    (torch.sub, A, {"other": B, "alpha": 2}),
    (torch.mul, A, {"other": B}),
    (torch.div, A, {"other": B}),
    (torch.pow, A, {"exponent": 3}),
    (torch.maximum, A, {"other": B}),
    (torch.logaddexp, A, {"other": B}),
    (torch.lerp, A, {"end": B, "weight": 0.3}),
    (torch.addcmul, A, {"tensor1": B, "tensor2": B, "value": 0.5}),
    (torch.masked_fill, A, {"mask": B > 0.8, "value": 0.5}),
    (torch.clamp, A, {"min": 0.5, "max": 0.9}),
    (torch.clamp_min, A, {"min": 0.6}),
    (torch.where, B > 0.8, {"input": A, "other": B}),
    (torch.matmul, A, {"other": B.mT.clone()}),
    (torch.mm, A, {"mat2": B.mT.clone()}),
    (torch.mv, A, {"vec": B[0].clone()}),
    (torch.bmm, CUBE, {"mat2": CUBE.mT.clone()}),
    (torch.addmm, B @ B.mT, {"mat1": A, "mat2": B.mT.clone(), "beta": 2, "alpha": 3}),
    (torch.outer, A[0].clone(), {"vec2": B[1].clone()}),
    (torch.var, A, {"dim": 1, "correction": 0, "keepdim": True}),
    (torch.std, A, {"dim": 1, "correction": 1}),
    (torch.norm, A, {"p": 2, "dim": 1, "keepdim": True, "out": None}),
    (torch.cdist, A, {"x2": B, "p": 1.0}),
    (torch.linalg.vector_norm, A, {"ord": 2, "dim": 1, "keepdim": True}),
    (torch.linalg.norm, A, {"ord": 2, "dim": 1}),
    (torch.linalg.inv, A[:, :3] + torch.eye(3), {"out": None}),
    (F.linear, A, {"weight": B, "bias": B[:, 0].clone()}),
    (F.layer_norm, A, {"normalized_shape": (4,), "weight": B[0].clone(), "bias": B[1].clone(), "eps": 1e-3}),
    (F.group_norm, IMAGE, {"num_groups": 3, "weight": B[:, 0].clone(), "bias": None, "eps": 1e-3}),
    (F.rms_norm, A, {"normalized_shape": (4,), "weight": B[0].clone(), "eps": 1e-3}),
    (F.conv2d, IMAGE, {"weight": IMAGE[:, :, :2, :2].clone(), "bias": None, "stride": 2, "padding": 1}),
    (F.pad, A, {"pad": (1, 1), "mode": "constant", "value": 2.0}),
    (F.pad, IMAGE, {"pad": (1, 1, 1, 1), "mode": "reflect"}),
    (F.interpolate, IMAGE, {"size": None, "scale_factor": 2.0, "mode": "bilinear", "align_corners": False}),
    (F.max_pool2d, IMAGE, {"kernel_size": 2, "stride": 2, "padding": 1}),
    (F.avg_pool2d, IMAGE, {"kernel_size": 2, "stride": 1, "padding": 1, "ceil_mode": True}),
    (F.adaptive_avg_pool2d, IMAGE, {"output_size": 2}),
    (F.unfold, IMAGE, {"kernel_size": 2, "dilation": 1, "padding": 1, "stride": 2}),
    (F.elu, A, {"alpha": 0.7, "inplace": False}),
    (F.celu, A, {"alpha": 0.7, "inplace": False}),
    (F.leaky_relu, -A, {"negative_slope": 0.2, "inplace": False}),
    (F.hardtanh, A, {"min_val": -0.5, "max_val": 0.9}),
    (F.softplus, A, {"beta": 2.0, "threshold": 10.0}),
    (F.gelu, A, {"approximate": "tanh"}),
    (F.glu, A, {"dim": 1}),
    (F.normalize, A, {"p": 2.0, "dim": 1, "eps": 1e-6, "out": None}),
    (F.cosine_similarity, A, {"x2": B, "dim": 1, "eps": 1e-6}),
    (F.mse_loss, A, {"target": B, "size_average": None, "reduce": None, "reduction": "sum"}),
    (F.l1_loss, A, {"target": B, "size_average": None, "reduce": None, "reduction": "none"}),
    (F.cross_entropy, A, {"target": ROWS[0, :3], "reduction": "sum"}),
    (F.dropout, A, {"p": 0.5, "training": False, "inplace": False}),
    (F.scaled_dot_product_attention, CUBE, {"key": CUBE, "value": CUBE, "attn_mask": None, "dropout_p": 0.0}),
]  # fmt: skip
FIRST = {
    torch.where: "condition", torch.linalg.vector_norm: "x", torch.linalg.inv: "A",
    torch.cdist: "x1", F.cosine_similarity: "x1", F.scaled_dot_product_attention: "query",
}  # fmt: skip
NUMPY = {"dim": "axis", "keepdim": "keepdims", "other": "x2"}
ORIGINAL = {"x2": "other"}


def spellings(function, given):
    """``(args, kwargs)`` by names, by more and more places, by NumPy's names, with an ``out`` of None."""
    names = list(given)
    for places in range(len(names) + 1):
        yield tuple(given.values())[:places], {name: given[name] for name in names[places:]}
    if not inspect.isfunction(function):
        yield (next(iter(given.values())),), {NUMPY.get(name, name): given[name] for name in names[1:]}
        yield tuple(given.values())[:1], {**{name: given[name] for name in names[1:]}, "out": None}


def identity(call):
    function, _, given = call
    return f"{function.__name__}-{'-'.join(given)}"


@pytest.mark.parametrize("call", CALLS, ids=identity)
def test_every_spelling_gives_the_same(call):
    function, first, given = call
    assert function in HANDLERS
    given = {FIRST.get(function, "input"): first, **given}
    carried = [
        name for name, value in given.items() if isinstance(value, torch.Tensor) and value.is_floating_point()
    ]
    params = [given[name].clone() for name in carried]
    tried = 0
    for args, kwargs in spellings(function, given):
        names = list(given)[: len(args)]

        def spelled(*tensors, args=args, kwargs=kwargs, names=names):
            moved = dict(zip(carried, tensors, strict=True))
            placed = [moved.get(name, value) for name, value in zip(names, args, strict=True)]
            spelled_out = {
                name: moved.get(name, moved.get(ORIGINAL.get(name), value)) for name, value in kwargs.items()
            }
            return function(*placed, **spelled_out)

        try:
            spelled(*params)
        except TypeError:  # torch does not take it so
            continue
        tried += 1
        assert of_rule(spelled, params, 1e-3)[2] < 1e-5
    assert tried >= 2


@pytest.mark.parametrize("reduction", ["batchmean", "sum"])
def test_a_batch_of_no_dimension(reduction):
    def function(input):
        return F.kl_div(input, B[0, 0], reduction=reduction)

    assert of_rule(function, [A[0, 0].clone()], 1e-3)[2] < 1e-5
