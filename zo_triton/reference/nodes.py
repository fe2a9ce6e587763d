"""Activation perturbation in float64: random signs on the outputs of layers, and the gradient that they measure.

An application of a layer gives [N, Q]: N samples, each with Q nodes in the order of memory. Its signs ξ [K, N, Q]
are the field's as a matrix [N, Q] with the application's number as tensor id; with ``hadamard`` one sign s for all
directions, times the Hadamard matrix's entry for the row of the direction and the column ``first`` + q.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton import hadamard
from zo_triton.directions import PART_NODES, Directions, tensor_word
from zo_triton.reference.field import sample_matrix
from zo_triton.reference.operations import ACTIVATIONS


def node_sample(out: Tensor, directions: Directions, application: int, first: int) -> None:
    """``out[k] = ξ_k``: out [K, N, Q], any floating dtype."""
    for k in range(directions.num):
        out[k] = _signs(directions, directions.first + k, application, first, *out.shape[1:]).to(
            out.device, out.dtype
        )


def node_epilogue(
    out: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    application: int,
    first: int,
    signed_eps: Tensor,
    activation: str,
) -> None:
    """``out[p] = f(z + out[p] + signed_eps[p]·ξ_k) - f(z)`` in place.

    Args:
        out: [P, N, *], the pre-activation's difference without the noise; Q is the product of the axes after N.
        base_output: z, [N, *] float32, the base pre-activation; None without an activation.
        directions: Names the K directions; evaluation p walks direction p // sides.
        application: Number of the layer's application in the closure.
        first: Column index of its first node.
        signed_eps: [P] float32.
        activation: One of :data:`ACTIVATIONS`.
    """
    sides = signed_eps.numel() // directions.num
    samples = out.shape[1]
    for p in range(out.shape[0]):
        noise = _signs(
            directions, directions.first + p // sides, application, first, samples, out[p].numel() // samples
        )
        change = out[p].double() + float(signed_eps[p]) * noise.to(out.device).view(out.shape[1:])
        if activation != "none":
            assert base_output is not None
            function, z = ACTIVATIONS[activation], base_output.double().view(out.shape[1:])
            change = function(z + change) - function(z)
        out[p] = change.to(out.dtype)


def node_linear(
    out: Tensor,
    difference: Tensor,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    application: int,
    first: int,
    samples: int,
    signed_eps: Tensor,
    activation: str,
    transposed: bool = False,
) -> None:
    """Difference of ``activation(x Wᵀ + noise)`` for every evaluation.

    Args:
        out: [P, R, out_features]: R rows, R / samples of each sample, one sample's after another's.
        difference: δ, [P, R, in_features].
        weight: W, [out_features, in_features], or if ``transposed`` the other way round.
        base_output: [R, out_features], or None without an activation.
        directions: Names the K directions.
        application: Number of the layer's application in the closure.
        first: Column index of its first node.
        samples: N.
        signed_eps: [P] float32.
        activation: One of :data:`ACTIVATIONS`.
        transposed: The weight is stored as [in_features, out_features].
    """
    product = torch.matmul if transposed else F.linear
    _layer(
        out, difference, weight, base_output, directions, application, first, samples, signed_eps, activation,
        product,
    )  # fmt: skip


def node_conv2d(
    out: Tensor,
    difference: Tensor,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    application: int,
    first: int,
    signed_eps: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
) -> None:
    """Difference of ``activation(conv2d(x, W) + noise)`` for every evaluation, zeros as padding.

    Args as in :func:`node_linear`, but out [P, N, O, H', W'], difference [P, N, C, H, W], base_output [N, O, H',
    W'] and weight [O, C/groups, kernel height, kernel width]; stride, padding and dilation of rows and columns as
    in torch.
    """
    convolve = partial(F.conv2d, stride=stride, padding=padding, dilation=dilation, groups=groups)
    _layer(
        out, difference, weight, base_output, directions, application, first, out.shape[1], signed_eps, activation,
        convolve,
    )  # fmt: skip


def _layer(
    out: Tensor,
    difference: Tensor,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    application: int,
    first: int,
    samples: int,
    signed_eps: Tensor,
    activation: str,
    product: Callable[[Tensor, Tensor], Tensor],
) -> None:
    sides = signed_eps.numel() // directions.num
    for p in range(out.shape[0]):
        change = product(difference[p].double(), weight.double()).reshape(1, samples, -1)
        base = None if base_output is None else base_output.reshape(samples, -1)
        step = signed_eps[p : p + 1]
        node_epilogue(
            change, base, directions.one(directions.first + p // sides), application, first, step, activation
        )
        out[p] = change.view(out.shape[1:]).to(out.dtype)


def node_gradient(
    out: Tensor, coefficients: Tensor, directions: Directions, application: int, first: int, samples: int
) -> None:
    """``out[s] = Σ_k coefficients[k, s]·ξ_k[s]``, each node's share of what was measured.

    Args:
        out: [S, N·Q / S] float32: S = N, or N·T where each of a sample's T tokens has coefficients of its own and
            its Q nodes are the tokens' one after the other.
        coefficients: [K, S] float32.
        directions: Names the K directions.
        application: Number of the layer's application in the closure.
        first: Column index of its first node.
        samples: N.
    """
    total = torch.zeros(out.shape, dtype=torch.float64, device="cpu")
    for k in range(directions.num):
        signs = _signs(directions, directions.first + k, application, first, samples, out.numel() // samples)
        total += coefficients[k].double().cpu()[:, None] * signs.view(out.shape)
    out.copy_(total.to(out.device, out.dtype))


def _signs(
    directions: Directions, index: int, application: int, first: int, samples: int, nodes: int
) -> Tensor:
    """ξ of one direction, [N, Q] float64."""
    signs = sample_matrix(directions, index, tensor_word(application, PART_NODES), samples, nodes)
    if directions.order is not None:
        columns = np.arange(first, first + nodes)
        signs = signs * hadamard.entries(directions.one(index), columns)
    return torch.from_numpy(np.ascontiguousarray(signs))
