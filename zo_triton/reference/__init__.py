"""The executable specification: every operation in float64, short and slow.

An operation here uses the plainest algorithm there is (it draws z, it subtracts two function values), never
the fast engines' formulas, so that agreement between the two means something.
"""

from zo_triton.philox import philox
from zo_triton.reference.field import sample_matrix
from zo_triton.reference.node_network import node_mlp_differences
from zo_triton.reference.nodes import (
    node_conv2d,
    node_epilogue,
    node_gradient,
    node_linear,
    node_sample,
)
from zo_triton.reference.operations import (
    accumulate,
    activation_difference,
    cross_entropy_difference,
    gram,
    largest_difference,
    mlp_differences,
    perturbed_conv2d,
    perturbed_linear,
    sample,
)
from zo_triton.reference.rounding import stochastic_add
from zo_triton.reference.stage import stage

__all__ = [
    "accumulate",
    "activation_difference",
    "cross_entropy_difference",
    "gram",
    "largest_difference",
    "mlp_differences",
    "node_conv2d",
    "node_epilogue",
    "node_gradient",
    "node_linear",
    "node_mlp_differences",
    "node_sample",
    "perturbed_conv2d",
    "perturbed_linear",
    "philox",
    "sample",
    "sample_matrix",
    "stage",
    "stochastic_add",
]
