"""The CPU engine: Numba draws and fuses, torch multiplies; the embedded default, useful with no GPU."""

from zo_triton._memory import keep_freed_memory
from zo_triton.cpu.accumulate import accumulate
from zo_triton.cpu.activating import activation_difference
from zo_triton.cpu.activation import base_terms
from zo_triton.cpu.attention import attention_difference
from zo_triton.cpu.base import linear
from zo_triton.cpu.conv2d import perturbed_conv2d
from zo_triton.cpu.cross_entropy import cross_entropy_difference
from zo_triton.cpu.gram import gram
from zo_triton.cpu.mlp import mlp_differences
from zo_triton.cpu.mlp_step import mlp_measure, mlp_update
from zo_triton.cpu.node_gradient import node_gradient
from zo_triton.cpu.node_mlp import node_mlp_measure
from zo_triton.cpu.node_mlp_update import node_mlp_update
from zo_triton.cpu.node_network import node_mlp_differences
from zo_triton.cpu.nodes import node_conv2d, node_epilogue, node_linear, node_sample
from zo_triton.cpu.perturbed_linear import perturbed_linear
from zo_triton.cpu.rounding import stochastic_add
from zo_triton.cpu.row_program import OF_ROWS, Leaf, Operation, RowProgram
from zo_triton.cpu.sample import sample, stage
from zo_triton.cpu.small_products import product_difference
from zo_triton.cpu.softmax import softmax_difference
from zo_triton.cpu.threads import one_pool, wider
from zo_triton.cpu.windows import largest_difference

__all__ = [
    "OF_ROWS",
    "Leaf",
    "Operation",
    "RowProgram",
    "accumulate",
    "activation_difference",
    "attention_difference",
    "base_terms",
    "cross_entropy_difference",
    "gram",
    "largest_difference",
    "linear",
    "mlp_differences",
    "mlp_measure",
    "mlp_update",
    "node_conv2d",
    "node_epilogue",
    "node_gradient",
    "node_linear",
    "node_mlp_differences",
    "node_mlp_measure",
    "node_mlp_update",
    "node_sample",
    "one_pool",
    "perturbed_conv2d",
    "perturbed_linear",
    "product_difference",
    "sample",
    "softmax_difference",
    "stage",
    "stochastic_add",
    "wider",
]

keep_freed_memory()
