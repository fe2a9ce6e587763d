"""Differences through a whole MLP and its loss in one call, where an engine offers it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.ops.arguments import check_arrays, check_evaluations, check_memory, check_network
from zo_triton.ops.engines import engine_for, load_engine
from zo_triton.ops.registry import call

MLP_WEIGHTS, MLP_HIDDEN_WEIGHTS = 1 << 17, 1 << 14
"""How many weights a network may have, in all and beyond its first layer, to be evaluated in one call.

Beyond that it goes a layer at a time: a wide layer's W @ δ belongs to a real GEMM. The limits are a choice, not
yet measured.
"""


def offers_mlp(device: torch.device, directions: Directions, weights: Sequence[Tensor]) -> bool:
    """Whether :func:`mlp_differences` is there for such a network and the better choice.

    An engine with a rule of its own, ``mlp_fits``, decides by that: Triton's goes by what the registers hold.
    """
    if not directions.signs or directions.rank is not None:
        return False
    engine = load_engine(engine_for(device))
    if hasattr(engine, "mlp_fits"):
        return bool(engine.mlp_fits(weights))
    sizes = [weight.numel() for weight in weights]
    if sum(sizes) > MLP_WEIGHTS or sum(sizes[1:]) > MLP_HIDDEN_WEIGHTS:
        return False
    return hasattr(engine, "mlp_differences")


def mlp_differences(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    weight_ids: Sequence[int],
    bias_ids: Sequence[int],
    activations: Sequence[str],
    target: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Each sample's loss difference through a whole MLP, all directions in one call.

    Cross-entropy for class indices; for a float target the squared error Σ_c Δ(2r+Δ), r being the residual.

    Args:
        inputs: The base input of each layer, [N, in_l] float32.
        outputs: The base pre-activation of each layer, [N, out_l] float32; the last are the logits.
        weights: [out_l, in_l] float32 each.
        weight_ids: Tensor id of each weight, -1 if it is not trained.
        bias_ids: Tensor id of each bias, -1 if there is none or it is not trained.
        activations: What follows each layer; "none" after the last.
        target: [N] int64 class indices in [0, C), or [N, C] float32.
        directions: Names the K directions, full-rank signs.
        signed_eps: [P] float32, sε of each evaluation.
        label_smoothing: Share of the uniform distribution mixed into the target.

    Returns:
        [P, N] float32.

    Raises:
        ValueError: Shapes do not fit, on the CPU's engine also: a label is not in [0, C); or ``hadamard``
            directions lack the columns of a tensor (:meth:`Directions.over`).
    """
    directions.check_bound([*weight_ids, *bias_ids])
    check_network(inputs, outputs, weights, target)
    evaluations = check_evaluations(signed_eps, directions)
    out = torch.empty(evaluations, inputs[0].shape[0], device=inputs[0].device, dtype=torch.float32)
    call(
        "mlp_differences", out.device, out, list(inputs), list(outputs), list(weights), list(weight_ids),
        list(bias_ids), list(activations), target, directions, signed_eps, label_smoothing,
    )  # fmt: skip
    return out


def offers_mlp_step(device: torch.device, directions: Directions, weights: Sequence[Tensor]) -> bool:
    """Whether :func:`mlp_measure` and :func:`mlp_update` are there for such a ReLU network."""
    return offers_mlp(device, directions, weights) and hasattr(load_engine(engine_for(device)), "mlp_measure")


def mlp_measure(
    tensors: Sequence[np.ndarray],
    x: np.ndarray,
    target: np.ndarray,
    directions: Directions,
    signed_eps: np.ndarray,
    compute_dtype: torch.dtype = torch.float32,
) -> tuple[float, np.ndarray]:
    """Mean loss of a ReLU network and its difference for every evaluation, base included.

    Arrays rather than tensors: this is for networks that are done before torch has looked at its arguments.

    Args:
        tensors: Weight [out_l, in_l] and bias [1, out_l] of each layer in turn, float32; ids 0, 1, 2 …
        x: [N, in] float32.
        target: [N] int64 in [0, C) for cross-entropy; [N, C] float32 for the squared error averaged over samples
            and outputs.
        directions: K full-rank sign directions.
        signed_eps: [P] float32, sε of each evaluation.
        compute_dtype: Differences are float32 always; bfloat16 allows U·a, the product of a layer's signs and
            its base input, in 16-bit fixed point, which is nearer to float32 than bfloat16 is.

    Returns:
        The loss, and float32 [P].

    Raises:
        ValueError: Shapes do not fit, or ``hadamard`` directions lack the columns of a tensor
            (:meth:`Directions.over`).
    """
    directions.check_bound(range(len(tensors)))
    check_arrays(tensors, x, target)
    if signed_eps.size not in (directions.num, 2 * directions.num):
        raise ValueError(f"signed_eps must be [K] or [2K] for K = {directions.num}, got {signed_eps.shape}.")
    fixed = compute_dtype == torch.bfloat16
    return load_engine("cpu").mlp_measure(list(tensors), x, target, directions, signed_eps, fixed)


def mlp_update(
    tensors: Sequence[np.ndarray],
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    rule: tuple[float, ...],
    coefficients: np.ndarray,
    directions: Directions,
) -> None:
    """Moves every tensor along Σ_k a_k z_k by Adam or by SGD with momentum, without writing the sum out.

    Args:
        tensors: As in :func:`mlp_measure`, changed in place.
        first: First moments or momentum buffers, like the tensors, changed in place.
        second: Second moments, changed in place by Adam only.
        rule: (lr, β₁ or momentum, β₂ or -1 for SGD, √(second bias correction), eps, weight decay), lr being
            already divided by Adam's first bias correction.
        coefficients: a_k, float32 [K].
        directions: K full-rank sign directions.

    Raises:
        ValueError: Shapes do not fit, or ``hadamard`` directions lack the columns of a tensor
            (:meth:`Directions.over`).
    """
    directions.check_bound(range(len(tensors)))
    check_memory(tensors, first, second)
    if coefficients.shape != (directions.num,):
        raise ValueError(f"coefficients must be [{directions.num}], got {coefficients.shape}.")
    load_engine("cpu").mlp_update(list(tensors), first, second, rule, coefficients, directions)
