"""The largest stable learning rate η* under activation perturbation: where a run's second moment stops growing.

For the loss (1/2N)·Σ_n|f_n - y_n|² of a network linearised at its nodes, r = f - y steps by r ← r - (η/N)·K̂·r. With
P_n = J·B_nᵀ [N·o, D], S = E rrᵀ, A_n = F_nᵀ·S_nn·F_n, the node gradients' second moment, V their overlaps and ∘ the
elementwise product

    S ← (I - (η/N)·Θ)·S·(I - (η/N)·Θ) + (η/N)²·Σ_n P_n·(diag(V·diag A_n) + V∘A_n)·P_nᵀ,    Θ the NTK:

a sample's noise is fed by its own residual alone, so only the N diagonal blocks of S feed back. η* is where all
that noise begets in later steps is just that noise again: a spectral radius of 1 (own derivation, confirmed by
simulation). For a linear model of o outputs, its samples' shares of each eigenvector taken to be alike, this is

    Σ_i ηcλ_i / (2 - ηλ_i) = 1,    c = ν/N,    λ the eigenvalues of XXᵀ/N,

ν the largest eigenvalue of V: (o - 1)/K for independent signs, and 0 for enough orthogonal ones, whose limit is
gradient descent's 2/λ_max. Weight perturbation has about o/K in place of c (:func:`zo_triton.nzk.max_stable_lr`,
each λ standing o times): there every sample's residual makes noise for all samples.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from scipy.optimize import brentq

from zo_triton.nzk.arrays import as_matrix, check_count
from zo_triton.nzk.nodes import NodeModel
from zo_triton.overlap import overlaps

ITERATIONS = 10_000
"""Of the power method at most; a hundred are the rule."""


def max_stable_lr_nodes(model: NodeModel, num_directions: int, order: int | None = None) -> float:
    """η* of a network perturbed at its nodes, squared loss, linearised at its present parameters.

    Args:
        model: The linearised network, without parameters that are perturbed themselves.
        num_directions: K.
        order: M of ``hadamard`` directions, None for independent signs.

    Returns:
        η* of the loss (1/2N)·Σ|f - y|², N samples; inf if the NTK is zero.

    Raises:
        ValueError: There are other parameters, or as :func:`zo_triton.overlap.pair_overlap`.
    """
    if model.others.shape[2]:
        raise ValueError(
            f"the limit is known for networks without other parameters, this one has {model.others.shape[2]}; "
            "linearise it with the layers alone trained."
        )
    samples, width, _ = model.slopes.shape
    pairs = model.overlaps(num_directions, order)
    values, modes = np.linalg.eigh(model.ntk / samples)
    values = np.where(values > 1e-12 * max(values[-1], 0.0), values, 0.0)
    if values[-1] <= 0:
        return float("inf")
    layers = model.jacobian.reshape(samples * width, -1)
    # [N, modes, D]: what a node's error does to each mode, and [N, D, modes]: what each mode does to a node.
    moved = np.einsum("mi,mw,ndw->nid", modes, layers, model.inputs, optimize=True)
    seen = np.einsum("nod,noi->ndi", model.slopes, modes.reshape(samples, width, -1))
    sums, products = np.add.outer(values, values), np.outer(values, values)

    def feed(moments: np.ndarray, lr: float) -> np.ndarray:
        """The node gradients' second moments [N, D, D] that these ones beget in all later steps."""
        noise = pairs * moments
        diagonal = np.einsum("nii->ni", moments) @ pairs
        noise += diagonal[:, :, None] * np.eye(diagonal.shape[1])
        begun = np.einsum("nid,nde,nje->ij", moved, noise, moved, optimize=True) * (lr / samples) ** 2
        decay = lr * sums - lr**2 * products
        total = np.divide(begun, decay, out=np.zeros_like(begun), where=sums > 0)
        return seen @ total @ np.swapaxes(seen, 1, 2)

    return _root(
        values, lambda lr: _radius(lambda moments: feed(moments, lr), seen @ np.swapaxes(seen, 1, 2))
    )


def max_stable_lr_linear(features: Any, outputs: int, num_directions: int, order: int | None = None) -> float:
    """η* of a linear model of several outputs, f_n = W·x_n, perturbed at its outputs.

    Outputs meet in the noise alone: with s_o = E R_oR_oᵀ, R_o [N] the residuals of output o, and G = XXᵀ/N
    s_o ← (I - ηG)·s_o·(I - ηG) + η²·G·diag(Σ_p V_op·s_p)·G. So the feedback is the Kronecker product of a matrix of
    the samples and V, and its radius the product of theirs: exact, as :func:`max_stable_lr_nodes` is.

    Args:
        features: X, [N, d], a column of ones for the bias among them.
        outputs: o.
        num_directions: K.
        order: M of ``hadamard`` directions, None for independent signs.

    Returns:
        η* of the loss (1/2N)·Σ|f - y|²; 2/λ_max where the estimate is exact, inf if every feature is zero.

    Raises:
        TypeError: ``outputs`` is no integer.
        ValueError: It is below 1, or as :func:`zo_triton.overlap.pair_overlap`.

    Example:
        >>> import numpy as np
        >>> X = np.eye(4)
        >>> round(max_stable_lr_linear(X, 10, 16, order=16), 9)  # gradient descent's 2/λ_max, λ = 1/4
        8.0
        >>> round(max_stable_lr_linear(X, 10, 16), 9)  # 2/λ_max / (1 + (o - 1)/K)
        5.12
    """
    rows = as_matrix(features, "features")
    pairs = overlaps(np.arange(check_count(outputs, "outputs")), num_directions, order)
    noise = max(0.0, float(np.linalg.eigvalsh(pairs)[-1]))
    values, modes = np.linalg.eigh(rows @ rows.T / len(rows))
    keep = values > 1e-12 * max(values[-1], 0.0)
    if values[-1] <= 0:
        return float("inf")
    values, modes = values[keep], modes[:, keep]
    together = (modes[:, None, :] * modes[None, :, :]).reshape(-1, len(values))
    sums, products = np.add.outer(values, values), np.outer(values, values)

    def radius(lr: float) -> float:
        gain = lr * noise * products / (sums - lr * products)
        feedback = ((together @ gain) * together).sum(1).reshape(len(rows), len(rows))
        return float(np.abs(np.linalg.eigvals(feedback)).max())

    return _root(values, radius)


def _radius(positive: Callable[[np.ndarray], np.ndarray], start: np.ndarray) -> float:
    """The spectral radius of a map that keeps positive semidefinite matrices so, by power iteration."""
    current, found = start / np.linalg.norm(start), 0.0
    for _ in range(ITERATIONS):
        following = positive(current)
        before, found = found, float(np.linalg.norm(following))
        if found == 0.0 or abs(found - before) < 1e-11 * found:
            break
        current = following / found
    return found


def _root(values: np.ndarray, radius: Callable[[float], float]) -> float:
    """Where the radius, which grows with η up to its pole at gradient descent's limit, is 1."""
    top = 2 / float(values.max())
    if radius(top * (1 - 1e-9)) <= 1:
        return top
    return float(brentq(lambda lr: radius(lr) - 1, top * 1e-12, top * (1 - 1e-9), xtol=1e-300, rtol=1e-12))
