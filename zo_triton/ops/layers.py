"""Differences through one layer, for all evaluations in one call.

Each function allocates the op's ``out`` in the layout that is fastest on the engine.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import handle_torch_function, has_torch_function

from zo_triton._memory import empty, in_natural_order
from zo_triton.directions import Directions
from zo_triton.ops.arguments import (
    check_base_output,
    check_difference,
    check_evaluations,
    check_shape,
    check_target,
    check_window,
)
from zo_triton.ops.engines import engine_for, load_engine
from zo_triton.ops.images import image_memory
from zo_triton.ops.registry import call


def linear(input: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """``F.linear`` of the base, on the threads of the engine that will evaluate its differences.

    Args:
        input: [*, in_features].
        weight: [out_features, in_features].
        bias: [out_features], or None.

    Returns:
        [*, out_features].
    """
    found = None
    if input.device.type == "cpu" and engine_for(input.device) == "cpu":
        found = load_engine("cpu").linear(input, weight, bias)
    return F.linear(input, weight, bias) if found is None else found


def perturbed_linear(
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    *,
    weight_id: int = -1,
    bias_id: int = -1,
    base_output: Tensor | None = None,
    activation: str = "none",
    dtype: torch.dtype = torch.float32,
    donate: bool = False,
    transposed: bool = False,
) -> Tensor:
    """Difference of ``activation(x Wᵀ + v)`` for every evaluation in one launch.

    Δz = δWᵀ + sε·(a+δ)Uᵀ + sε·v, then the activation's exact difference. Where the parameter is stored as
    [in_features, out_features] and not transposed in the product, so are W and U: δW + sε·(a+δ)U.

    Args:
        base: a, [N, in_features] float32.
        difference: δ, [P, N, in_features] in ``dtype``, or None.
        weight: W, [out_features, in_features], or [in_features, out_features] if ``transposed``: the matrix as
            the field sees it.
        directions: Names the K directions; P = K or 2K.
        signed_eps: [P] float32, sε of each evaluation, times the direction's scale.
        weight_id: The weight's tensor id; -1 if it is not trained.
        bias_id: The bias's tensor id; -1 if there is none or it is not trained.
        base_output: [N, out_features], the base pre-activation; needed with an activation.
        activation: none, relu, tanh, sigmoid, gelu, gelu_tanh or silu.
        dtype: The compute dtype, float32 or bfloat16.
        donate: The caller will not read ``difference`` again: its memory may carry the result.
        transposed: The weight is stored as [in_features, out_features].

    Returns:
        [P, N, out_features] in ``dtype``. On the CPU's engine it lies in memory in the order that ``difference``
        has, torch's own or [P, out_features, N]; without one in the latter.

    Raises:
        TypeError: The difference is not in ``dtype``.
        ValueError: Shapes do not fit the base, or ``hadamard`` directions lack the columns of weight or bias
            (:meth:`Directions.over`).
    """
    directions.check_bound([weight_id, bias_id])
    evaluations = check_evaluations(signed_eps, directions)
    samples, features = base.shape[0], weight.shape[1 if transposed else 0]
    if weight.shape[0 if transposed else 1] != base.shape[1]:
        wanted = "[in_features, out_features]" if transposed else "[out_features, in_features]"
        raise ValueError(
            f"weight must be {wanted} for a base of {base.shape[1]} features, got shape {tuple(weight.shape)} with "
            f"transposed={transposed}."
        )
    check_difference(difference, (evaluations, *base.shape), dtype)
    check_base_output(base_output, activation, (samples, features))
    if engine_for(base.device) != "cpu":
        out = empty((evaluations, samples, features), dtype, base.device)
    elif difference is not None and in_natural_order(difference):
        out = empty((evaluations, samples, features), dtype)
    else:
        out = _feature_major(difference if donate else None, (evaluations, samples, features), dtype)
    call(
        "perturbed_linear",
        base.device,
        out,
        base,
        difference,
        weight,
        base_output,
        directions,
        weight_id,
        bias_id,
        signed_eps,
        activation,
        transposed,
    )
    return out


def perturbed_conv2d(
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    weight_id: int = -1,
    bias_id: int = -1,
    base_output: Tensor | None = None,
    activation: str = "none",
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """Difference of ``activation(conv2d(x, W) + v)`` for every evaluation in one launch, zeros as padding.

    Δz = δ*W + sε·(a+δ)*U + sε·v, then the activation's exact difference.

    Args:
        base: a, [N, C, H, W] float32.
        difference: δ, [P, N, C, H, W] in ``dtype``, or None.
        weight: W, [O, C / groups, kernel height, kernel width].
        directions: Names the K directions; P = K or 2K.
        signed_eps: [P] float32, sε of each evaluation, times the direction's scale.
        stride: Of the window, rows and columns.
        padding: Zeros on each side, rows and columns.
        dilation: Of the kernel, rows and columns.
        groups: Into which the channels fall.
        weight_id: The weight's tensor id; -1 if it is not trained.
        bias_id: The bias's tensor id; -1 if there is none or it is not trained.
        base_output: [N, O, H', W'], the base pre-activation; needed with an activation.
        activation: none, relu, tanh, sigmoid, gelu, gelu_tanh or silu.
        dtype: The compute dtype, float32 or bfloat16.
        out: Memory for the result, if there is some to be used again.

    Returns:
        [P, N, O, H', W'] in ``dtype``; on Triton's engine with the channels last where torch's own convolution has
        them there.

    Raises:
        TypeError: The difference is not in ``dtype``.
        ValueError: Shapes do not fit the base, or ``hadamard`` directions lack the columns of weight or bias
            (:meth:`Directions.over`).
    """
    directions.check_bound([weight_id, bias_id])
    check_window(weight, base.shape[1], stride, padding, dilation, groups)
    height, width = (
        (size + 2 * pad - spread * (kernel - 1) - 1) // step + 1
        for size, pad, spread, kernel, step in zip(
            base.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True
        )
    )
    shape = (check_evaluations(signed_eps, directions), base.shape[0], weight.shape[0], height, width)
    check_difference(difference, (shape[0], *base.shape), dtype)
    check_base_output(base_output, activation, shape[1:])
    if out is None:
        out = image_memory(shape, dtype, base, weight)
    check_shape("out", out, shape)
    call(
        "perturbed_conv2d", base.device, out, base, difference, weight, base_output, directions, weight_id,
        bias_id, signed_eps, list(stride), list(padding), list(dilation), groups, activation,
    )  # fmt: skip
    return out


def activation_difference(base: Tensor, difference: Tensor, activation: str) -> Tensor:
    """``f(base + difference) - f(base)`` by an exact formula, no cancellation; [P, *base.shape]."""
    if has_torch_function((base, difference)):
        return handle_torch_function(
            activation_difference, (base, difference), base, difference, activation=activation
        )
    check_shape("difference", difference, (difference.shape[0], *base.shape))
    out = torch.empty_like(difference)
    call("activation_difference", out.device, out, base, difference, activation)
    return out


def largest_difference(difference: Tensor, gaps: Tensor, places: Tensor) -> Tensor:
    """Difference of the maximum over windows, measured from the base's own maxima m.

    max_j(a_j + δ_j) - m = max_j(δ_j + (a_j - m)): nothing cancels, whoever wins after the perturbation.

    Args:
        difference: δ, [P, M, S]: M planes of S elements.
        gaps: a_j - m, [M, J, R] float32 for the J elements of each of R windows.
        places: [J, R] int64 in [0, S), where in the plane they are; one may stand there twice.

    Returns:
        [P, M, R] in the dtype of ``difference``.

    Raises:
        ValueError: Shapes do not fit; on the CPU's engine also: a place is not in the plane.
    """
    check_shape("gaps", gaps, (difference.shape[1], *places.shape))
    shape = (*difference.shape[:2], places.shape[1])
    out = empty(shape, difference.dtype, difference.device)
    call("largest_difference", out.device, out, difference, gaps, places)
    return out


def cross_entropy_difference(
    logits: Tensor, difference: Tensor, target: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Each sample's cross-entropy difference: logits [N, C], difference [P, N, C], target [N] → [P, N] float32.

    Raises:
        ValueError: Shapes do not fit; on the CPU's engine also: a label is not in [0, C).
    """
    check_shape("logits", logits, difference.shape[1:])
    check_target(target, logits.shape)
    out = torch.empty(difference.shape[:2], dtype=torch.float32, device=difference.device)
    call("cross_entropy_difference", out.device, out, logits, difference, target, label_smoothing)
    return out


def _feature_major(donated: Tensor | None, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """A [P, N, F] tensor that lies in memory as [P, F, N], which the CPU engine reads and writes in order.

    In that order a layer's result fits into the front of its input's memory if it is no wider: the engine
    reads one evaluation whole before it writes it.
    """
    evaluations, samples, features = shape
    if donated is not None and donated.dtype == dtype and donated.shape[2] >= features:
        lying = donated.transpose(1, 2)
        if lying.stride()[1:] == (samples, 1):
            return lying[:, :features].transpose(1, 2)
    return empty((evaluations, features, samples), dtype).transpose(1, 2)
