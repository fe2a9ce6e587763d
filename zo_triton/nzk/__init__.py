"""The neural zeroth-order kernel: what theory expects of a step, what a step measured, and how the two agree.

Formulas from "Model Evolution Under Zeroth-Order Optimization: A Neural Tangent Kernel Perspective" (Zhang et
al., 2026, arXiv 2603.21169) and from this project's own derivations, each checked by simulation.

Importing this package loads nothing else: each name below brings what it needs when it is first used.
"""

import sys
from importlib import import_module
from types import ModuleType
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zo_triton.nzk.check import (
        CheckResult,
        MeanResult,
        StepCheck,
        StepError,
        check,
        check_mean,
        mean_z_scores,
    )
    from zo_triton.nzk.draws import draw
    from zo_triton.nzk.empirical import Estimate, empirical
    from zo_triton.nzk.evolution import evolve, gradient_flow, losses
    from zo_triton.nzk.expected import expected, factor
    from zo_triton.nzk.moments import Moments, moments
    from zo_triton.nzk.ntk import Linearized, jacobian, linearize, ntk
    from zo_triton.nzk.probe import Probe, check_lr_of, curvature, probe_lr
    from zo_triton.nzk.rates import best_lr
    from zo_triton.nzk.recursion import Factors, factors, measured_factor, recursion, simulate
    from zo_triton.nzk.responses import empirical_model
    from zo_triton.nzk.spread import StepMoments, deviation, spread, step_moments
    from zo_triton.nzk.stability import (
        BestRate,
        TraceEstimate,
        best_rate,
        check_stable,
        hutchinson_trace,
        largest_eigenvalue,
        lr_bounds,
        max_stable_lr,
        max_stable_lr_preconditioned,
    )
    from zo_triton.nzk.walk import KernelWalk, WalkStep, realised_factors, walk_step

__all__ = [
    "BestRate",
    "CheckResult",
    "Estimate",
    "Factors",
    "KernelWalk",
    "Linearized",
    "MeanResult",
    "Moments",
    "Probe",
    "StepCheck",
    "StepError",
    "StepMoments",
    "TraceEstimate",
    "WalkStep",
    "best_lr",
    "best_rate",
    "check",
    "check_lr_of",
    "check_mean",
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
    "gradient_flow",
    "hutchinson_trace",
    "jacobian",
    "largest_eigenvalue",
    "linearize",
    "losses",
    "lr_bounds",
    "max_stable_lr",
    "max_stable_lr_preconditioned",
    "mean_z_scores",
    "measured_factor",
    "moments",
    "ntk",
    "probe_lr",
    "realised_factors",
    "recursion",
    "simulate",
    "spread",
    "step_moments",
    "walk_step",
]

_NAMES = {
    "check": ("CheckResult", "MeanResult", "StepCheck", "StepError", "check", "check_mean", "mean_z_scores"),
    "draws": ("draw",),
    "empirical": ("Estimate", "empirical"),
    "evolution": ("evolve", "gradient_flow", "losses"),
    "expected": ("expected", "factor"),
    "moments": ("Moments", "moments"),
    "ntk": ("Linearized", "jacobian", "linearize", "ntk"),
    "recursion": ("Factors", "factors", "measured_factor", "recursion", "simulate"),
    "responses": ("empirical_model",),
    "probe": ("Probe", "check_lr_of", "curvature", "probe_lr"),
    "rates": ("best_lr",),
    "spread": ("StepMoments", "deviation", "spread", "step_moments"),
    "stability": (
        "BestRate",
        "TraceEstimate",
        "best_rate",
        "check_stable",
        "hutchinson_trace",
        "largest_eigenvalue",
        "lr_bounds",
        "max_stable_lr",
        "max_stable_lr_preconditioned",
    ),
    "walk": ("KernelWalk", "WalkStep", "realised_factors", "walk_step"),
}
_HOME = {name: module for module, names in _NAMES.items() for name in names}
_SUBMODULES = {"arrays", *_NAMES} - {*_HOME}


class _Package(ModuleType):
    """A function that is named like its file wins over the file."""

    def __setattr__(self, name: str, value: object) -> None:
        # The import system binds each submodule to its package, whoever imports it first.
        if not (name in _HOME and isinstance(value, ModuleType)):
            super().__setattr__(name, value)


sys.modules[__name__].__class__ = _Package

# Hidden from type checkers, which would otherwise take any misspelt name for one that loads later.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
