"""The fused operations: torch custom ops, the functions that call them, and the choice of an engine.

Each op writes into an ``out`` that the caller allocates, so that torch's dispatcher sees one mutating kernel and
buffers can be reused. Tensors on a GPU run the Triton kernels, tensors on the CPU the Numba engine;
:func:`use_engine` overrides that.
"""

from zo_triton.ops.attention import attention_difference, softmax_difference
from zo_triton.ops.engines import ENGINES, engine_for, use_engine
from zo_triton.ops.field import accumulate, direction_scales, gram, sample, stage, stochastic_add
from zo_triton.ops.grid import accumulate_on_grid, on_grid
from zo_triton.ops.layers import (
    activation_difference,
    cross_entropy_difference,
    largest_difference,
    linear,
    perturbed_conv2d,
    perturbed_linear,
)
from zo_triton.ops.mlp import mlp_differences, mlp_measure, mlp_update, offers_mlp, offers_mlp_step
from zo_triton.ops.node_mlp import node_mlp_measure, node_mlp_update, why_no_node_step
from zo_triton.ops.node_network import node_mlp_differences, offers_node_mlp
from zo_triton.ops.nodes import (
    NODE_DISTRIBUTIONS,
    Node,
    node_conv2d,
    node_epilogue,
    node_gradient,
    node_linear,
    node_sample,
)
from zo_triton.ops.products import product_difference
from zo_triton.ops.registry import SCHEMAS
from zo_triton.ops.rows import activation_terms, needs_whole_rows, offers_rows, row_program

__all__ = [
    "ENGINES",
    "NODE_DISTRIBUTIONS",
    "SCHEMAS",
    "Node",
    "accumulate",
    "accumulate_on_grid",
    "activation_difference",
    "activation_terms",
    "attention_difference",
    "cross_entropy_difference",
    "direction_scales",
    "engine_for",
    "gram",
    "largest_difference",
    "linear",
    "mlp_differences",
    "mlp_measure",
    "mlp_update",
    "needs_whole_rows",
    "node_conv2d",
    "node_epilogue",
    "node_gradient",
    "node_linear",
    "node_mlp_differences",
    "node_mlp_measure",
    "node_mlp_update",
    "node_sample",
    "offers_mlp",
    "offers_mlp_step",
    "offers_node_mlp",
    "offers_rows",
    "on_grid",
    "perturbed_conv2d",
    "perturbed_linear",
    "product_difference",
    "row_program",
    "sample",
    "softmax_difference",
    "stage",
    "stochastic_add",
    "use_engine",
    "why_no_node_step",
]
