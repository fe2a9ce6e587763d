"""The neural zeroth-order kernel: what theory expects of a step, what a step measured, and how the two agree.

Formulas from "Model Evolution Under Zeroth-Order Optimization: A Neural Tangent Kernel Perspective" (Zhang et
al., 2026, arXiv 2603.21169) and from this project's own derivations, each checked by simulation.

Importing this package loads nothing else: each name below brings what it needs when it is first used.
"""

from typing import TYPE_CHECKING

from zo_triton._lazy import lazy_names

if TYPE_CHECKING:
    from zo_triton.nzk.advice import Advice, advise_lr
    from zo_triton.nzk.coordinate_moments import Moments, moments
    from zo_triton.nzk.draws import draw
    from zo_triton.nzk.estimation import Estimate, empirical
    from zo_triton.nzk.evolution import evolve, gradient_flow, losses
    from zo_triton.nzk.expectation import expected, factor
    from zo_triton.nzk.fluctuation import StepMoments, step_moments
    from zo_triton.nzk.forecast import Prediction, predict
    from zo_triton.nzk.function_space import Factors, factors, measured_factor, recursion, simulate
    from zo_triton.nzk.gate import CheckResult, MeanResult, check, check_mean, mean_z_scores
    from zo_triton.nzk.limit import max_stable_lr_of
    from zo_triton.nzk.measured_squares import layer_squares
    from zo_triton.nzk.node_gate import check_nodes
    from zo_triton.nzk.node_linearize import linearize_nodes
    from zo_triton.nzk.node_stability import max_stable_lr_linear, max_stable_lr_nodes
    from zo_triton.nzk.nodes import NodeModel, gradient_error, kernel_error
    from zo_triton.nzk.probe import Probe, check_lr_of, curvature, probe_lr
    from zo_triton.nzk.rates import best_lr
    from zo_triton.nzk.responses import empirical_model
    from zo_triton.nzk.second_moment import deviation, spread
    from zo_triton.nzk.spectrum import TraceEstimate, hutchinson_trace, largest_eigenvalue
    from zo_triton.nzk.stability import (
        BestRate,
        best_rate,
        check_stable,
        lr_bounds,
        max_stable_lr,
        max_stable_lr_preconditioned,
    )
    from zo_triton.nzk.step_check import StepCheck, StepError
    from zo_triton.nzk.tangent_kernel import Linearized, jacobian, linearize, ntk
    from zo_triton.nzk.walk import KernelWalk, WalkStep, realised_factors, walk_step

__all__ = [
    "Advice",
    "BestRate",
    "CheckResult",
    "Estimate",
    "Factors",
    "KernelWalk",
    "Linearized",
    "MeanResult",
    "Moments",
    "NodeModel",
    "Prediction",
    "Probe",
    "StepCheck",
    "StepError",
    "StepMoments",
    "TraceEstimate",
    "WalkStep",
    "advise_lr",
    "best_lr",
    "best_rate",
    "check",
    "check_lr_of",
    "check_mean",
    "check_nodes",
    "check_stable",
    "curvature",
    "deviation",
    "draw",
    "empirical",
    "empirical_model",
    "evolve",
    "expected",
    "factor",
    "factors",
    "gradient_error",
    "gradient_flow",
    "hutchinson_trace",
    "jacobian",
    "kernel_error",
    "largest_eigenvalue",
    "layer_squares",
    "linearize",
    "linearize_nodes",
    "losses",
    "lr_bounds",
    "max_stable_lr",
    "max_stable_lr_linear",
    "max_stable_lr_nodes",
    "max_stable_lr_of",
    "max_stable_lr_preconditioned",
    "mean_z_scores",
    "measured_factor",
    "moments",
    "ntk",
    "predict",
    "probe_lr",
    "realised_factors",
    "recursion",
    "simulate",
    "spread",
    "step_moments",
    "walk_step",
]

_NAMES = {
    "advice": ("Advice", "advise_lr"),
    "coordinate_moments": ("Moments", "moments"),
    "draws": ("draw",),
    "estimation": ("Estimate", "empirical"),
    "evolution": ("evolve", "gradient_flow", "losses"),
    "expectation": ("expected", "factor"),
    "fluctuation": ("StepMoments", "step_moments"),
    "forecast": ("Prediction", "predict"),
    "function_space": ("Factors", "factors", "measured_factor", "recursion", "simulate"),
    "gate": ("CheckResult", "MeanResult", "check", "check_mean", "mean_z_scores"),
    "limit": ("max_stable_lr_of",),
    "measured_squares": ("layer_squares",),
    "node_gate": ("check_nodes",),
    "node_linearize": ("linearize_nodes",),
    "node_stability": ("max_stable_lr_linear", "max_stable_lr_nodes"),
    "nodes": ("NodeModel", "gradient_error", "kernel_error"),
    "probe": ("Probe", "check_lr_of", "curvature", "probe_lr"),
    "rates": ("best_lr",),
    "responses": ("empirical_model",),
    "second_moment": ("deviation", "spread"),
    "spectrum": ("TraceEstimate", "hutchinson_trace", "largest_eigenvalue"),
    "stability": (
        "BestRate",
        "best_rate",
        "check_stable",
        "lr_bounds",
        "max_stable_lr",
        "max_stable_lr_preconditioned",
    ),
    "step_check": ("StepCheck", "StepError"),
    "tangent_kernel": ("Linearized", "jacobian", "linearize", "ntk"),
    "walk": ("KernelWalk", "WalkStep", "realised_factors", "walk_step"),
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _NAMES)
