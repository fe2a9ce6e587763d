"""The fused operations as torch custom ops, each one mutating kernel that an engine's function of its name runs."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import torch

from zo_triton.directions import Directions
from zo_triton.ops.engines import engine_on, uncast

_decode = lru_cache(maxsize=256)(lambda integers: Directions.decode(integers))
SCHEMAS = {
    "sample": "(Tensor(a!) out, int[] directions, int tensor_id, ScalarType dtype, Tensor? rows=None) -> ()",
    "accumulate": "(Tensor(a!)[] tensors, int[] tensor_ids, Tensor coefficients, int[] directions, "
    "ScalarType dtype) -> ()",
    "gram": "(Tensor(a!) out, Tensor[] tensors, int[] tensor_ids, int[] directions, ScalarType dtype) -> ()",
    "stochastic_add": "(Tensor(a!) out, Tensor update, int[] directions, int tensor_id) -> ()",
    "perturbed_linear": "(Tensor(a!) out, Tensor base, Tensor? difference, Tensor weight, Tensor? base_output, "
    "int[] directions, int weight_id, int bias_id, Tensor signed_eps, str activation, bool transposed=False) -> ()",
    "mlp_differences": "(Tensor(a!) out, Tensor[] inputs, Tensor[] outputs, Tensor[] weights, int[] weight_ids, "
    "int[] bias_ids, str[] activations, Tensor target, int[] directions, Tensor signed_eps, "
    "float label_smoothing) -> ()",
    "perturbed_conv2d": "(Tensor(a!) out, Tensor base, Tensor? difference, Tensor weight, Tensor? base_output, "
    "int[] directions, int weight_id, int bias_id, Tensor signed_eps, int[] stride, int[] padding, int[] dilation, "
    "int groups, str activation) -> ()",
    "node_sample": "(Tensor(a!) out, int[] directions, int application, int first) -> ()",
    "node_epilogue": "(Tensor(a!) out, Tensor? base_output, int[] directions, int application, int first, "
    "Tensor signed_eps, str activation) -> ()",
    "node_linear": "(Tensor(a!) out, Tensor difference, Tensor weight, Tensor? base_output, int[] directions, "
    "int application, int first, int samples, Tensor signed_eps, str activation, bool transposed=False) -> ()",
    "node_conv2d": "(Tensor(a!) out, Tensor difference, Tensor weight, Tensor? base_output, int[] directions, "
    "int application, int first, Tensor signed_eps, int[] stride, int[] padding, int[] dilation, int groups, "
    "str activation) -> ()",
    "node_gradient": "(Tensor(a!) out, Tensor coefficients, int[] directions, int application, int first, "
    "int samples) -> ()",
    "node_mlp_differences": "(Tensor(a!) out, Tensor[] outputs, Tensor[] weights, str[] activations, "
    "Tensor target, int[] directions, int[] applications, int[] firsts, Tensor signed_eps, "
    "float label_smoothing) -> ()",
    "activation_difference": "(Tensor(a!) out, Tensor base, Tensor difference, str activation) -> ()",
    "largest_difference": "(Tensor(a!) out, Tensor difference, Tensor gaps, Tensor places) -> ()",
    "cross_entropy_difference": "(Tensor(a!) out, Tensor logits, Tensor difference, Tensor target, "
    "float label_smoothing) -> ()",
}


def _register(name: str, schema: str, device_argument: str) -> None:
    """Defines ``zo_triton::name``, its fake, and one implementation that hands over to the engine's function."""
    qualified = f"zo_triton::{name}"
    torch.library.define(qualified, schema)
    arguments = [argument.name for argument in torch._C.parse_schema(name + schema).arguments]
    position = arguments.index(device_argument)
    directions_at = arguments.index("directions") if "directions" in arguments else None

    def implementation(*values: Any) -> None:
        located: Any = values[position]
        device = (located[0] if isinstance(located, (list, tuple)) else located).device
        function = getattr(engine_on(device), name)
        if directions_at is not None:
            decoded = _decode(tuple(values[directions_at]))
            values = (*values[:directions_at], decoded, *values[directions_at + 1 :])
        with uncast(device):
            function(*values)

    torch.library.impl(qualified, ("cpu", "cuda"))(implementation)
    torch.library.register_fake(qualified)(lambda *values: None)


for _name, _schema in SCHEMAS.items():
    _register(_name, _schema, "tensors" if _name in ("accumulate", "gram") else "out")


def call(name: str, device: torch.device, *values: Any) -> None:
    """Runs an op on the device's engine: past torch's dispatcher where nobody listens to it.

    The dispatcher turns every list and number over, which a small model's step can feel.
    """
    if dispatcher_is_watched():
        encoded = (value.encode() if isinstance(value, Directions) else value for value in values)
        getattr(torch.ops.zo_triton, name)(*encoded)
    else:
        with uncast(device):
            getattr(engine_on(device), name)(*values)


def dispatcher_is_watched() -> bool:
    """Whether a compiler, a dispatch mode (fake tensors, functorch) or a profiler must see the ops."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._autograd._profiler_enabled()
    )
