"""The update kernel under activation perturbation: a step that perturbs layers' outputs instead of their weights.

A *node* is one element of the output of one application of a layer, for one sample. Sample n has D nodes with the
gradient g_n = F_nᵀ·s_n (F_n = ∂f_n/∂z, s_n the slope of its own loss). B_n = ∂z/∂θ at fixed inputs takes node
gradients to weight gradients: ∇L = N⁻¹·Σ_n B_nᵀg_n. Signs ξ_kn, drawn for each sample alone, measure
ĝ_n = C_n·g_n with C_n = K⁻¹·Σ_k ξ_kn·ξ_knᵀ, so the function-space step is f ← f - (η/N)·K̂·s with the blocks

    K̂_mn = J_m·B_nᵀ·C_n·F_nᵀ,    J_m = F_m·B_m,    E K̂ = J·Jᵀ, the NTK.

The noise comes from the overlaps V_ij = E C_ij² (i ≠ j) alone (:mod:`zo_triton.overlap`). With T_n = B_nB_nᵀ

    E|∇̂L - ∇L|² = N⁻² Σ_n Σ_{i≠j} V_ij (T_ii·g_j² + T_ij·g_i·g_j),

whose second part, of nodes that share a weight, is what convolutions add; K̂'s is the same sum with B_nJᵀJB_nᵀ in
place of T_n and F_nᵀF_n in place of g·gᵀ. Own derivation, confirmed by simulation.

Where some parameters are perturbed themselves, in the same directions, all samples share their signs. Node i of
sample n then also has the noise V·h_n², h_n the sample's slopes of those d_w parameters, and a parameter's own
noise is V·(h̄² + N⁻²·Σ_n|g_n|²) from every other parameter and every node.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from zo_triton.nzk.arrays import as_matrix, as_vector
from zo_triton.overlap import overlaps

_NO_COLUMNS = np.zeros(0, dtype=np.int64)


@dataclass(frozen=True, eq=False)
class NodeModel:
    """A network linearised at its nodes, dense: for theory on small networks.

    Args:
        slopes: F, ∂f/∂z, [N, o, D] float64.
        inputs: B, ∂z/∂θ of the layers whose nodes are perturbed, [N, D, d] float64.
        outputs: f, [N·o] float64, output j of sample n at n·o + j.
        others: ∂f/∂ of the parameters that are perturbed themselves, [N, o, d_w]; d_w may be 0.
        columns: Column index of each node, [D]; by default 0 … D - 1. For ``hadamard`` directions.
        other_columns: Of each of ``others``' parameters, [d_w]; by default D … D + d_w - 1.
    """

    slopes: np.ndarray
    inputs: np.ndarray
    outputs: np.ndarray
    others: np.ndarray = field(default_factory=lambda: np.zeros((0, 0, 0)))
    columns: np.ndarray = field(default_factory=lambda: _NO_COLUMNS)
    other_columns: np.ndarray = field(default_factory=lambda: _NO_COLUMNS)

    def __post_init__(self) -> None:
        samples, width, nodes = self.slopes.shape
        if self.inputs.shape[:2] != (samples, nodes) or self.outputs.shape != (samples * width,):
            raise ValueError(
                f"slopes [N, o, D] are {self.slopes.shape}, so inputs must be [{samples}, {nodes}, d] and outputs "
                f"[{samples * width}]; got {self.inputs.shape} and {self.outputs.shape}."
            )
        if self.others.size == 0:
            object.__setattr__(self, "others", np.zeros((samples, width, 0)))
        if self.others.shape[:2] != (samples, width):
            raise ValueError(f"others must be [{samples}, {width}, d_w], got {self.others.shape}.")
        count = self.others.shape[2]
        if len(self.columns) == 0:
            object.__setattr__(self, "columns", np.arange(nodes))
        if len(self.other_columns) == 0:
            object.__setattr__(self, "other_columns", nodes + np.arange(count))
        if len(self.columns) != nodes or len(self.other_columns) != count:
            raise ValueError(
                f"there are {nodes} nodes and {count} other parameters, but {len(self.columns)} columns and "
                f"{len(self.other_columns)} other_columns."
            )

    @property
    def jacobian(self) -> np.ndarray:
        """J, [N, o, d + d_w]: the layers' parameters, then the others."""
        return np.concatenate([self.slopes @ self.inputs, self.others], axis=2)

    @property
    def ntk(self) -> np.ndarray:
        """[N·o, N·o], what the kernel is in the mean."""
        rows = self.jacobian.reshape(len(self.outputs), -1)
        return rows @ rows.T

    def gradient(self, slope: Any) -> np.ndarray:
        """∇L of the mean loss, [d + d_w].

        Args:
            slope: ∂ℓ_n/∂f_n of each sample's own loss, [N·o].
        """
        rows = self.jacobian.reshape(len(self.outputs), -1)
        return as_vector(slope, "slope", len(rows)) @ rows / len(self.slopes)

    def estimate(self, slope: Any, signs: Any, other_signs: Any = None) -> np.ndarray:
        """The gradient that these signs measure, for ε → 0.

        Args:
            slope: ∂ℓ_n/∂f_n of each sample's own loss, [N·o].
            signs: ξ, [K, N, D].
            other_signs: Of the other parameters, [K, d_w]; None where there are none.

        Returns:
            ∇̂L, [d + d_w] float64.

        Raises:
            ValueError: Shapes that don't fit.
        """
        samples, width, _ = self.slopes.shape
        noise, rest = self._signs(signs, other_signs)
        sensitivity = as_vector(slope, "slope", samples * width).reshape(samples, width)
        own = np.einsum("no,nod->nd", sensitivity, self.slopes)
        shared = np.einsum("no,now->nw", sensitivity, self.others)
        changes = np.einsum("knd,nd->kn", noise, own) + rest @ shared.T
        found = np.einsum("kn,knd->nd", changes, noise) / len(noise)
        weights = np.einsum("nd,ndw->w", found, self.inputs) / samples
        return np.concatenate([weights, changes.mean(1) @ rest / len(noise)])

    def kernel(self, signs: Any, other_signs: Any = None) -> np.ndarray:
        """The realised K̂, [N·o, N·o]: the step's change of f is -(η/N)·K̂·slope for a linear model.

        Args:
            signs: ξ, [K, N, D].
            other_signs: Of the other parameters, [K, d_w]; None where there are none.

        Returns:
            K̂, in general not symmetric.

        Raises:
            ValueError: Shapes that don't fit.
        """
        samples, width, _ = self.slopes.shape
        noise, rest = self._signs(signs, other_signs)
        # Row k·… of measured is what direction k sees of each output: ξ_kn·F_nᵀ + u_k·H_nᵀ.
        measured = np.einsum("knd,nod->kno", noise, self.slopes) + np.einsum("kw,now->kno", rest, self.others)
        layers = self.slopes @ self.inputs
        walked = np.einsum("knd,ndw->knw", noise, self.inputs)
        kernel = np.einsum("mpw,knw,kno->mpno", layers, walked, measured, optimize=True)
        kernel += np.einsum("mpw,kw,kno->mpno", self.others, rest, measured, optimize=True)
        return kernel.reshape(samples * width, samples * width) / len(noise)

    def overlaps(self, num_directions: int, order: int | None = None) -> np.ndarray:
        """E C_ij² of all nodes and then all other parameters, [D + d_w, D + d_w]."""
        return overlaps(np.concatenate([self.columns, self.other_columns]), num_directions, order)

    def _signs(self, signs: Any, other_signs: Any) -> tuple[np.ndarray, np.ndarray]:
        samples, _, nodes = self.slopes.shape
        noise = np.asarray(signs, dtype=np.float64)
        if noise.ndim != 3 or noise.shape[1:] != (samples, nodes) or len(noise) == 0:
            raise ValueError(f"signs must be [K, {samples}, {nodes}], got {noise.shape}.")
        count = self.others.shape[2]
        if (other_signs is None) != (count == 0):
            raise ValueError(f"other_signs [K, {count}] belong to {count} parameters perturbed themselves.")
        rest = np.zeros((len(noise), 0)) if other_signs is None else as_matrix(other_signs, "other_signs")
        if rest.shape != (len(noise), count):
            raise ValueError(f"other_signs must be [{len(noise)}, {count}], got {rest.shape}.")
        return noise, rest


def gradient_error(model: NodeModel, slope: Any, num_directions: int, order: int | None = None) -> float:
    """E|∇̂L - ∇L|², the mean squared error of the batch's weight gradient, exact for ε → 0.

    Args:
        model: The linearised network; its columns say which elements share a row of the matrix.
        slope: ∂ℓ_n/∂f_n of each sample's own loss, [N·o].
        num_directions: K.
        order: M of ``hadamard`` directions; None for independent signs.

    Returns:
        The error; over |∇L|² the relative one.

    Raises:
        ValueError: As :func:`zo_triton.overlap.pair_overlap`, or a slope of another length.
    """
    samples, width, nodes = model.slopes.shape
    sensitivity = as_vector(slope, "slope", samples * width).reshape(samples, width)
    pairs = model.overlaps(num_directions, order)
    within, across, rest = pairs[:nodes, :nodes], pairs[:nodes, nodes:], pairs[nodes:, nodes:]
    own = np.einsum("no,nod->nd", sensitivity, model.slopes)
    shared = np.einsum("no,now->nw", sensitivity, model.others)
    total = float(rest.sum(0) @ shared.mean(0) ** 2 + across.sum(1) @ (own**2).sum(0) / samples**2)
    for inputs, slopes, others in zip(model.inputs, own, shared, strict=True):
        tangent = inputs @ inputs.T
        received = within @ slopes**2 + across @ others**2
        total += float(np.diag(tangent) @ received + slopes @ (within * tangent) @ slopes) / samples**2
    return total


def kernel_error(model: NodeModel, num_directions: int, order: int | None = None) -> float:
    """E‖K̂ - NTK‖²_F / ‖NTK‖²_F of a network all of whose parameters belong to layers perturbed at their nodes.

    Args:
        model: The linearised network.
        num_directions: K.
        order: M of ``hadamard`` directions; None for independent signs.

    Returns:
        The relative squared fluctuation of the update kernel.

    Raises:
        ValueError: Some parameters are perturbed themselves, or as :func:`zo_triton.overlap.pair_overlap`.
    """
    if model.others.shape[2]:
        raise ValueError(
            f"kernel_error knows networks without other parameters, this one has {model.others.shape[2]}; "
            "linearise it with the layers alone trained."
        )
    pairs = model.overlaps(num_directions, order)
    layers = model.jacobian.reshape(len(model.outputs), -1)
    total = 0.0
    for inputs, slopes in zip(model.inputs, model.slopes, strict=True):
        moved = inputs @ layers.T
        response, signal = moved @ moved.T, slopes.T @ slopes
        total += float(np.diag(response) @ pairs @ np.diag(signal) + (pairs * response * signal).sum())
    return total / float((model.ntk**2).sum())
