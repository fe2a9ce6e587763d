"""A small MLP whose layers' outputs are perturbed, in one call where the engine has one."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from zo_triton.directions import Directions
from zo_triton.ops.arguments import check_evaluations, check_network
from zo_triton.ops.engines import engine_for, load_engine
from zo_triton.ops.nodes import NODE_DISTRIBUTIONS
from zo_triton.ops.registry import call


def offers_node_mlp(device: torch.device, directions: Directions, widths: Sequence[int]) -> bool:
    """Whether :func:`node_mlp_differences` is the better choice for a network of so many outputs a layer.

    An engine that has a rule, ``node_mlp_fits``, decides by it; others go layer by layer.
    """
    if directions.distribution not in NODE_DISTRIBUTIONS or directions.rank is not None:
        return False
    engine = load_engine(engine_for(device))
    return hasattr(engine, "node_mlp_fits") and bool(engine.node_mlp_fits(widths))


def node_mlp_differences(
    outputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    activations: Sequence[str],
    target: Tensor,
    directions: Directions,
    applications: Sequence[int],
    firsts: Sequence[int],
    signed_eps: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Each sample's loss difference through a whole MLP whose layers' outputs are perturbed, in one call.

    Cross-entropy for class indices; for a float target the squared error Σ_c Δ(2r+Δ), r being the residual. The
    first layer's outputs move by the noise alone: neither its input nor its weight is asked for.

    Args:
        outputs: The base pre-activation of each layer, [N, out_l] float32; the last are the logits.
        weights: [out_l, out_(l-1)] float32 of each layer but the first.
        activations: What follows each layer; "none" after the last.
        target: [N] int64 class indices in [0, C), or [N, C] float32.
        directions: Names the K directions, ``hadamard`` or ``rademacher`` at full rank.
        applications: Number of each layer's application in the closure.
        firsts: Column index of each one's first node, for ``hadamard``.
        signed_eps: [P] float32, sε of each evaluation.
        label_smoothing: Share of the uniform distribution mixed into the target.

    Returns:
        [P, N] float32.

    Raises:
        ValueError: Shapes do not fit.
    """
    check_network(outputs[:-1], outputs[1:], weights, target)
    evaluations = check_evaluations(signed_eps, directions)
    out = torch.empty(evaluations, outputs[0].shape[0], device=outputs[0].device, dtype=torch.float32)
    call(
        "node_mlp_differences", out.device, out, list(outputs), list(weights), list(activations), target,
        directions, list(applications), list(firsts), signed_eps, label_smoothing,
    )  # fmt: skip
    return out
