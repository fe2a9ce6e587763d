"""Activation perturbation: random signs on layers' outputs, and the gradient that they measure."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from zo_triton._memory import empty
from zo_triton.directions import Directions
from zo_triton.ops.arguments import check_base_output, check_evaluations, check_window
from zo_triton.ops.images import image_memory
from zo_triton.ops.registry import call

NODE_DISTRIBUTIONS = ("hadamard", "rademacher")
"""What nodes can be perturbed by."""


class Node(NamedTuple):
    """Where an application's noise is drawn.

    Attributes:
        application: Its number among the closure's perturbed applications of layers.
        first: Column index of its first node, for ``hadamard``.
        samples: N; the application's output has as many equal parts, one sample's after another's.
    """

    application: int
    first: int
    samples: int


def node_sample(
    directions: Directions, node: Node, positions: int, device: torch.device | str = "cpu"
) -> Tensor:
    """The noise itself, ±1: for references and small layers.

    Args:
        directions: Names the K directions, ``hadamard`` or ``rademacher`` at full rank.
        node: Which application's.
        positions: Q, nodes of a sample.
        device: Where to draw.

    Returns:
        [K, N, Q] float32.
    """
    out = empty((directions.num, node.samples, positions), torch.float32, device)
    call("node_sample", out.device, out, directions, node.application, node.first)
    return out


def node_epilogue(
    difference: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    node: Node,
    *,
    base_output: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    """Adds sε·ξ to a layer's difference, in place, and puts it through an activation.

    Args:
        difference: [P, N, *] contiguous, float32 or bfloat16; overwritten.
        directions: Names the K directions; P = K or 2K.
        signed_eps: [P] float32, sε of each evaluation.
        node: Which application's noise.
        base_output: [N, *] float32, the base pre-activation; needed with an activation.
        activation: none, relu, tanh, sigmoid, gelu, gelu_tanh or silu.

    Returns:
        ``difference``.

    Raises:
        ValueError: Shapes do not fit.
    """
    _check(difference, directions, signed_eps, Node(0, 0, difference.shape[1]))
    check_base_output(base_output, activation, difference.shape[1:])
    call(
        "node_epilogue", difference.device, difference, base_output, directions, node.application, node.first,
        signed_eps, activation,
    )  # fmt: skip
    return difference


def node_linear(
    difference: Tensor,
    weight: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    node: Node,
    *,
    base_output: Tensor | None = None,
    activation: str = "none",
    transposed: bool = False,
) -> Tensor:
    """Difference of ``activation(x Wᵀ + noise)`` for every evaluation in one launch: δWᵀ + sε·ξ, one product each.

    Args:
        difference: δ, [P, R, in_features] float32 or bfloat16; R / N rows of each sample, one sample's after
            another's.
        weight: W, [out_features, in_features] float32, or [in_features, out_features] if ``transposed``.
        directions: Names the K directions; P = K or 2K.
        signed_eps: [P] float32, sε of each evaluation.
        node: Which application's noise.
        base_output: [R, out_features] float32, the base pre-activation; needed with an activation.
        activation: none, relu, tanh, sigmoid, gelu, gelu_tanh or silu.
        transposed: The weight is stored as [in_features, out_features].

    Returns:
        [P, R, out_features] in the difference's dtype.

    Raises:
        ValueError: Shapes do not fit.
    """
    _check(difference, directions, signed_eps, node)
    features = weight.shape[1 if transposed else 0]
    check_base_output(base_output, activation, (difference.shape[1], features))
    out = empty((*difference.shape[:2], features), difference.dtype, difference.device)
    call(
        "node_linear", out.device, out, difference, weight, base_output, directions, node.application, node.first,
        node.samples, signed_eps, activation, transposed,
    )  # fmt: skip
    return out


def node_conv2d(
    difference: Tensor,
    weight: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    node: Node,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    base_output: Tensor | None = None,
    activation: str = "none",
) -> Tensor:
    """Difference of ``activation(conv2d(x, W) + noise)`` for every evaluation in one launch, zeros as padding.

    Args:
        difference: δ, [P, N, C, H, W] float32 or bfloat16.
        weight: W, [O, C / groups, kernel height, kernel width] float32.
        directions: Names the K directions; P = K or 2K.
        signed_eps: [P] float32, sε of each evaluation.
        node: Which application's noise.
        stride: Of the window, rows and columns.
        padding: Zeros on each side, rows and columns.
        dilation: Of the kernel, rows and columns.
        groups: Into which the channels fall.
        base_output: [N, O, H', W'] float32, the base pre-activation; needed with an activation.
        activation: none, relu, tanh, sigmoid, gelu, gelu_tanh or silu.

    Returns:
        [P, N, O, H', W'] in the difference's dtype.

    Raises:
        ValueError: Shapes do not fit.
    """
    _check(difference, directions, signed_eps, node)
    check_window(weight, difference.shape[2], stride, padding, dilation, groups)
    height, width = (
        (size + 2 * pad - spread * (kernel - 1) - 1) // step + 1
        for size, pad, spread, kernel, step in zip(
            difference.shape[3:], padding, dilation, weight.shape[2:], stride, strict=True
        )
    )
    shape = (*difference.shape[:2], weight.shape[0], height, width)
    check_base_output(base_output, activation, shape[1:])
    out = image_memory(shape, difference.dtype, difference[0], weight)
    call(
        "node_conv2d", out.device, out, difference, weight, base_output, directions, node.application, node.first,
        signed_eps, list(stride), list(padding), list(dilation), groups, activation,
    )  # fmt: skip
    return out


def node_gradient(coefficients: Tensor, directions: Directions, node: Node, positions: int) -> Tensor:
    """Each node's share of what was measured, Σ_k coefficients[k, s]·ξ_k, without storing any ξ.

    With ``hadamard`` the sums over k are one fast Walsh–Hadamard transform of the coefficients.

    Args:
        coefficients: [K, S] float32; S = N, or N·T where each of a sample's T tokens has coefficients of its own
            and its nodes are the tokens' one after the other.
        directions: Names the K directions.
        node: Which application's noise.
        positions: Q, nodes of a sample.

    Returns:
        [S, N·Q / S] float32.

    Raises:
        ValueError: The coefficients are not of K directions, or S does not fit N and Q.
    """
    num, rows = coefficients.shape
    if num != directions.num or rows % node.samples or (rows and node.samples * positions % rows):
        raise ValueError(
            f"coefficients must be [K, S] for K = {directions.num} directions, S a multiple of {node.samples} "
            f"samples that divides their {positions} nodes each, got {tuple(coefficients.shape)}."
        )
    out = empty((rows, node.samples * positions // rows), torch.float32, coefficients.device)
    call(
        "node_gradient", out.device, out, coefficients, directions, node.application, node.first, node.samples
    )
    return out


def _check(difference: Tensor, directions: Directions, signed_eps: Tensor, node: Node) -> None:
    evaluations = check_evaluations(signed_eps, directions)
    if difference.shape[0] != evaluations or difference.shape[1] % max(1, node.samples):
        raise ValueError(
            f"difference must have {evaluations} evaluations and as many rows for each of {node.samples} samples, "
            f"got shape {tuple(difference.shape)}."
        )
