"""Difference propagation: run the closure once, carry every direction's difference from the base beside it.

One run of an ordinary torch closure inside a ``torch.overrides.TorchFunctionMode`` yields the base value and,
for each of K directions, L(θ + sεz) − L(θ) without ever subtracting two losses: every torch function that
meets a trained parameter or a difference-carrying tensor has a rule that maps differences to the exact
difference of its result. Each family of rules is a file here; ``registry`` joins them, ``mode`` applies them,
``run`` is the entry.
"""

from zo_triton.difference import (
    activations,
    attention,
    composed,
    convolution,
    elementwise,
    extremes,
    folded,
    linear,
    losses,
    moments,
    multilinear,
    normalisation,
    passive,
    piecewise,
    pooling,
    random,
    recurrent,
    reduce,
    regression,
    shape,
    softmax,
)
from zo_triton.difference.errors import MissingRuleError, NotATensorError
from zo_triton.difference.plan import Plan
from zo_triton.difference.run import Measurement, differences, measure

RULE_FAMILIES = (
    activations,
    attention,
    composed,
    convolution,
    elementwise,
    extremes,
    folded,
    linear,
    losses,
    moments,
    multilinear,
    normalisation,
    passive,
    piecewise,
    pooling,
    random,
    recurrent,
    reduce,
    regression,
    shape,
    softmax,
)
"""The modules that registered the rules; importing them is what fills the registry."""

__all__ = [
    "RULE_FAMILIES",
    "Measurement",
    "MissingRuleError",
    "NotATensorError",
    "Plan",
    "differences",
    "measure",
]
