"""Difference propagation: run the closure once, carry every direction's difference from the base beside it.

One run of an ordinary torch closure inside a ``torch.overrides.TorchFunctionMode`` yields the base value and,
for each of K directions, L(θ + sεz) − L(θ) without ever subtracting two losses: every torch function that
meets a trained parameter or a difference-carrying tensor has a rule that maps differences to the exact
difference of its result. Each family of rules is a file in ``rules``; ``registry`` joins them, ``mode`` applies
them, ``run`` is the entry.
"""

from zo_triton.difference.errors import MissingRuleError, NotATensorError
from zo_triton.difference.evaluation import Evaluation
from zo_triton.difference.plan import Plan
from zo_triton.difference.rules import RULE_FAMILIES
from zo_triton.difference.run import Propagation, differences, propagate

__all__ = [
    "RULE_FAMILIES",
    "Evaluation",
    "MissingRuleError",
    "NotATensorError",
    "Plan",
    "Propagation",
    "differences",
    "propagate",
]
