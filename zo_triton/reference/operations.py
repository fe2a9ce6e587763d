"""The fused operations in float64, by the plainest algorithm: draw z, form W + sεz, subtract function values.

All engines share these signatures. Shapes: N samples, P = K·sides evaluations, evaluation p walks
``signed_eps[p]·z_k`` along direction k = p // sides. ``dtype`` is the compute dtype: with bfloat16, z *is* the
bfloat16-rounded value (with low rank, each factor is). A tensor id of -1 means "not trained".
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.directions import (
    PART_LEFT,
    PART_RIGHT,
    PART_WHOLE,
    Directions,
    matrix_shape,
    tensor_word,
)
from zo_triton.reference.field import sample_matrix

ACTIVATIONS = {
    "none": lambda x: x,
    "relu": torch.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "silu": F.silu,
}


def sample(
    out: Tensor, directions: Directions, tensor_id: int, dtype: torch.dtype, rows: Tensor | None = None
) -> None:
    """``out[k] = z_k``; out [K, *shape], any floating dtype.

    With ``rows``, int64 [R], ``out[k] = z_k[rows]``: out [K, R, *shape[1:]] of a tensor of two or more dimensions.
    """
    shape = out.shape[1:]
    if rows is not None:
        # A row's values don't depend on how many follow it: the last one wanted ends the tensor here.
        shape = torch.Size((max(rows.tolist(), default=-1) + 1, *shape[1:]))
    for k in range(directions.num):
        z = _direction(directions, directions.first + k, tensor_id, shape, dtype).reshape(shape)
        out[k] = (z if rows is None else z[rows.cpu()]).to(out.device, out.dtype)


def accumulate(
    tensors: list[Tensor],
    tensor_ids: list[int],
    coefficients: Tensor,
    directions: Directions,
    dtype: torch.dtype,
) -> None:
    """``tensor += Σ_k coefficients[k]·z_k`` in place for each tensor; coefficients [K] float32."""
    for tensor, tensor_id in zip(tensors, tensor_ids, strict=True):
        total = torch.zeros(tensor.shape, dtype=torch.float64, device="cpu")
        for k in range(directions.num):
            z = _direction(directions, directions.first + k, tensor_id, tensor.shape, dtype)
            total += float(coefficients[k]) * z.reshape(tensor.shape)
        tensor.copy_((tensor.double() + total.to(tensor.device)).to(tensor.dtype))


def gram(
    out: Tensor, tensors: list[Tensor], tensor_ids: list[int], directions: Directions, dtype: torch.dtype
) -> None:
    """``out[k, l] = Σ_tensors z_k·z_l``; out [K, K] float64. Only the tensors' shapes are read."""
    out.zero_()
    for tensor, tensor_id in zip(tensors, tensor_ids, strict=True):
        z = torch.empty(directions.num, *tensor.shape, dtype=torch.float64, device="cpu")
        sample(z, directions, tensor_id, dtype)
        z = z.reshape(directions.num, -1)
        out += (z @ z.T).to(out.device)


def perturbed_linear(
    out: Tensor,
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    activation: str,
    transposed: bool = False,
) -> None:
    """Difference of ``activation(x Wᵀ + v)`` for every evaluation; of ``activation(x W + v)`` if ``transposed``.

    Args:
        out: [P, N, out_features]; its dtype is the compute dtype.
        base: [N, in_features], the unperturbed input, float32.
        difference: [P, N, in_features] in the compute dtype, or None where the input carries none.
        weight: [out_features, in_features], or [in_features, out_features] if ``transposed``.
        base_output: [N, out_features], the unperturbed pre-activation; needed unless activation is "none".
        directions: Names the K directions.
        weight_id: The weight's tensor id, -1 if it is not trained.
        bias_id: The bias's tensor id, -1 if there is none or it is not trained.
        signed_eps: [P] float32, s·ε·scale of each evaluation.
        activation: One of :data:`ACTIVATIONS`.
        transposed: The weight, and so its direction, is stored as [in_features, out_features].
    """
    product = torch.matmul if transposed else F.linear
    _layer_difference(
        out, base, difference, weight, base_output, directions, weight_id, bias_id, signed_eps, activation, product
    )  # fmt: skip


def perturbed_conv2d(
    out: Tensor,
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
) -> None:
    """Difference of ``activation(conv2d(x, W) + v)`` for every evaluation, zeros as padding.

    Args as in :func:`perturbed_linear`, but out [P, N, O, H', W'], base [N, C, H, W], difference
    [P, N, C, H, W], base_output [N, O, H', W'] and weight [O, C/groups, kernel height, kernel width], which is the
    field's matrix [O, C/groups · height · width]; stride, padding and dilation of rows and columns as in torch.
    """
    convolve = partial(F.conv2d, stride=stride, padding=padding, dilation=dilation, groups=groups)
    _layer_difference(
        out, base, difference, weight, base_output, directions, weight_id, bias_id, signed_eps, activation, convolve
    )  # fmt: skip


def _layer_difference(
    out: Tensor,
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    activation: str,
    product: Callable[[Tensor, Tensor], Tensor],
) -> None:
    """Any layer that is linear in its input and in its weight, ``product(x, weight)`` being its value."""
    sides = signed_eps.numel() // directions.num
    dtype = out.dtype
    for p in range(signed_eps.numel()):
        k, step = directions.first + p // sides, float(signed_eps[p])
        x = base.double()
        moved_x = x if difference is None else x + difference[p].double()
        change = product(moved_x - x, weight.double())
        if weight_id >= 0:
            u = _direction(directions, k, weight_id, weight.shape, dtype).to(base.device)
            change = change + step * product(moved_x, u.reshape(weight.shape))
        if bias_id >= 0:
            v = _direction(directions, k, bias_id, out.shape[2:3], dtype).to(base.device)
            change = change + step * v.view(-1, *[1] * (weight.dim() - 2))
        if activation != "none":
            assert base_output is not None
            function, z = ACTIVATIONS[activation], base_output.double()
            change = function(z + change) - function(z)
        out[p] = change.to(dtype)


def activation_difference(out: Tensor, base: Tensor, difference: Tensor, activation: str) -> None:
    """``out[p] = f(base + difference[p]) - f(base)``; out and difference [P, *base.shape]."""
    function, x = ACTIVATIONS[activation], base.double()
    out.copy_(function(x + difference.double()) - function(x))


def cross_entropy_difference(
    out: Tensor, logits: Tensor, difference: Tensor, target: Tensor, label_smoothing: float
) -> None:
    """Difference of each sample's cross-entropy.

    Args:
        out: [P, N] float32.
        logits: [N, C] base logits.
        difference: [P, N, C].
        target: [N] int64 class indices in [0, C).
        label_smoothing: Share of the uniform distribution mixed into the target.
    """

    def loss(z: Tensor) -> Tensor:
        return F.cross_entropy(z, target, reduction="none", label_smoothing=label_smoothing)

    base = loss(logits.double())
    for p in range(difference.shape[0]):
        out[p] = (loss(logits.double() + difference[p].double()) - base).to(out.dtype)


def largest_difference(out: Tensor, difference: Tensor, gaps: Tensor, places: Tensor) -> None:
    """Difference of the maximum over windows, M planes at a time: the maxima of what lies at the windows' places.

    Args:
        out: [P, M, R].
        difference: [P, M, S].
        gaps: [M, J, R] float32, how far below its window's maximum each of the J elements is: a − m <= 0.
        places: [J, R] int64 in [0, S), the elements of each result's window; one may stand there twice.
    """
    out.copy_((difference.double()[:, :, places] + gaps.double()).amax(2))


def mlp_differences(
    out: Tensor,
    inputs: list[Tensor],
    outputs: list[Tensor],
    weights: list[Tensor],
    weight_ids: list[int],
    bias_ids: list[int],
    activations: list[str],
    target: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    label_smoothing: float,
) -> None:
    """Each sample's loss difference through a whole MLP: cross-entropy, or Σ_c Δ(2r+Δ) with r the residual.

    Args:
        out: [P, N] float32.
        inputs: The base input of each layer, [N, in_l] float32.
        outputs: The base pre-activation of each layer, [N, out_l]; the last are the logits.
        weights: [out_l, in_l] each.
        weight_ids: Tensor id of each weight, -1 if it is not trained.
        bias_ids: Tensor id of each bias, -1 if there is none or it is not trained.
        activations: What follows each layer, one of :data:`ACTIVATIONS`; "none" after the last.
        target: [N] int64 class indices in [0, C), or for the squared error [N, C] float32.
        directions: Names the K directions.
        signed_eps: [P] float32.
        label_smoothing: Share of the uniform distribution mixed into the target.
    """
    difference = None
    for layer, weight in enumerate(weights):
        moved = torch.empty(
            signed_eps.numel(), inputs[layer].shape[0], weight.shape[0], dtype=torch.float64, device="cpu"
        )
        perturbed_linear(
            moved, inputs[layer], difference, weight, outputs[layer], directions,
            weight_ids[layer], bias_ids[layer], signed_eps, activations[layer],
        )  # fmt: skip
        difference = moved
    assert difference is not None
    if target.is_floating_point():
        out.copy_((difference * (2 * (outputs[-1].double() - target.double()) + difference)).sum(-1))
    else:
        cross_entropy_difference(out, outputs[-1], difference, target, label_smoothing)


def _direction(
    directions: Directions, index: int, tensor_id: int, shape: tuple, dtype: torch.dtype
) -> Tensor:
    """One direction in float64 as the matrix [rows, cols], rounded as the compute dtype asks."""
    rows, cols = matrix_shape(shape)

    def draw(part: int, height: int, width: int) -> Tensor:
        z = torch.from_numpy(sample_matrix(directions, index, tensor_word(tensor_id, part), height, width))
        return z.to(torch.bfloat16).double() if dtype == torch.bfloat16 else z

    if not directions.is_low_rank(shape):
        return draw(PART_WHOLE, rows, cols)
    rank = directions.rank or 1
    return draw(PART_LEFT, rows, rank) @ draw(PART_RIGHT, cols, rank).T / rank**0.5
