"""The Triton engine: every fused operation as a kernel that draws its perturbation where it is needed."""

from zo_triton.kernels.accumulate import accumulate
from zo_triton.kernels.activation import activation_difference
from zo_triton.kernels.conv2d import launch_perturbed_conv2d as perturbed_conv2d
from zo_triton.kernels.cross_entropy import cross_entropy_difference
from zo_triton.kernels.field import step_on_device as step_on_device
from zo_triton.kernels.gram import gram
from zo_triton.kernels.mlp import launch_mlp_differences as mlp_differences
from zo_triton.kernels.mlp import mlp_fits as mlp_fits
from zo_triton.kernels.node_conv2d import node_conv2d
from zo_triton.kernels.node_epilogue import node_epilogue
from zo_triton.kernels.node_gradient import node_gradient
from zo_triton.kernels.node_linear import node_linear
from zo_triton.kernels.node_mlp import node_mlp_differences
from zo_triton.kernels.node_mlp import node_mlp_fits as node_mlp_fits
from zo_triton.kernels.node_sample import node_sample
from zo_triton.kernels.perturbed_linear import launch_perturbed_linear as perturbed_linear
from zo_triton.kernels.rounding import stochastic_add
from zo_triton.kernels.sample import sample
from zo_triton.kernels.stage import stage
from zo_triton.kernels.windows import largest_difference

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
    "sample",
    "stage",
    "stochastic_add",
]
