"""The fused operations as torch custom ops: the only place that picks an engine.

Each op writes into an ``out`` that the caller allocates, so that torch's dispatcher sees one mutating kernel and
buffers can be reused. Tensors on a GPU run the Triton kernels, tensors on the CPU the Numba engine;
:func:`use_engine` overrides that. The functions below allocate ``out`` in the layout the engine likes best.
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from contextvars import ContextVar
from functools import cache, lru_cache
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from zo_triton.directions import Directions, matrix_shape
from zo_triton.memory import empty

ENGINES = ("reference", "cpu", "triton")
_MODULES = {"reference": "zo_triton.reference", "cpu": "zo_triton.cpu", "triton": "zo_triton.kernels"}
_NEEDS = {"reference": "numpy", "cpu": "numba", "triton": "triton"}
_override: ContextVar[str | None] = ContextVar("zo_triton_engine", default=None)


@contextmanager
def use_engine(name: str) -> Iterator[None]:
    """Runs every fused op on the named engine inside a ``with`` block.

    Args:
        name: ``"reference"`` (float64, slow), ``"cpu"`` (Numba and torch's GEMM) or ``"triton"``.

    Raises:
        ValueError: The name is unknown.
        RuntimeError: The engine's library is not installed.
    """
    if name not in ENGINES:
        raise ValueError(f"unknown engine {name!r}; choose one of {ENGINES}.")
    _load(name)
    token = _override.set(name)
    try:
        yield
    finally:
        _override.reset(token)


def engine_for(device: torch.device) -> str:
    """The engine that an op on this device runs on now."""
    return _override.get() or ("cpu" if device.type == "cpu" else "triton")


@cache
def _load(name: str) -> ModuleType:
    try:
        return importlib.import_module(_MODULES[name])
    except ModuleNotFoundError as error:
        if error.name != _NEEDS[name]:
            raise
        raise RuntimeError(
            f"the {name!r} engine needs {error.name}, which is not installed: `pip install {error.name}`, "
            "or choose another with zo_triton.use_engine."
        ) from error


def _engine(device: torch.device) -> ModuleType:
    name = engine_for(device)
    if name == "triton" and device.type == "cpu" and os.environ.get("TRITON_INTERPRET") != "1":
        raise RuntimeError(
            "the 'triton' engine runs CPU tensors only in Triton's interpreter: set TRITON_INTERPRET=1 before "
            "Python starts, or move the tensors to a GPU."
        )
    if name == "cpu" and device.type != "cpu":
        raise RuntimeError(f"the 'cpu' engine got a tensor on {device}; use the 'triton' engine there.")
    return _load(name)


def whole_step(device: torch.device) -> AbstractContextManager[None]:
    """Tells the engine that several of its ops follow one another on this device, with torch's in between.

    The CPU engine keeps torch's threads from contending with its own; the others need nothing.
    """
    return _load("cpu").one_pool() if engine_for(device) == "cpu" and device.type == "cpu" else nullcontext()


_decode = lru_cache(maxsize=256)(lambda integers: Directions.decode(integers))
_SCHEMAS = {
    "sample": "(Tensor(a!) out, int[] directions, int tensor_id, ScalarType dtype, Tensor? rows=None) -> ()",
    "accumulate": "(Tensor(a!)[] tensors, int[] tensor_ids, Tensor coefficients, int[] directions, "
    "ScalarType dtype) -> ()",
    "gram": "(Tensor(a!) out, Tensor[] tensors, int[] tensor_ids, int[] directions, ScalarType dtype) -> ()",
    "perturbed_linear": "(Tensor(a!) out, Tensor base, Tensor? difference, Tensor weight, Tensor? base_output, "
    "int[] directions, int weight_id, int bias_id, Tensor signed_eps, str activation) -> ()",
    "mlp_differences": "(Tensor(a!) out, Tensor[] inputs, Tensor[] outputs, Tensor[] weights, int[] weight_ids, "
    "int[] bias_ids, str[] activations, Tensor target, int[] directions, Tensor signed_eps, "
    "float label_smoothing) -> ()",
    "perturbed_conv2d": "(Tensor(a!) out, Tensor base, Tensor? difference, Tensor weight, Tensor? base_output, "
    "int[] directions, int weight_id, int bias_id, Tensor signed_eps, int[] stride, int[] padding, int[] dilation, "
    "int groups, str activation) -> ()",
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
        function = getattr(_engine(device), name)
        if directions_at is not None:
            decoded = _decode(tuple(values[directions_at]))
            values = (*values[:directions_at], decoded, *values[directions_at + 1 :])
        function(*values)

    torch.library.impl(qualified, ("cpu", "cuda"))(implementation)
    torch.library.register_fake(qualified)(lambda *values: None)


for _name, _schema in _SCHEMAS.items():
    _register(_name, _schema, "tensors" if _name in ("accumulate", "gram") else "out")


def _call(name: str, device: torch.device, *values: Any) -> None:
    """Runs an op on the device's engine: past torch's dispatcher where nobody listens to it.

    The dispatcher turns every list and number over, which a small model's step can feel.
    """
    if _dispatcher_is_watched():
        encoded = (value.encode() if isinstance(value, Directions) else value for value in values)
        getattr(torch.ops.zo_triton, name)(*encoded)
    else:
        getattr(_engine(device), name)(*values)


def _dispatcher_is_watched() -> bool:
    """Whether a compiler, a dispatch mode (fake tensors, functorch) or a profiler must see the ops."""
    return (
        torch.compiler.is_compiling()
        or torch._C._len_torch_dispatch_stack() > 0
        or torch._C._functorch.peek_interpreter_stack() is not None
        or torch._C._autograd._profiler_enabled()
    )


def sample(
    directions: Directions,
    tensor_id: int,
    shape: Sequence[int],
    dtype: torch.dtype = torch.float32,
    device: torch.device | str = "cpu",
    rows: Tensor | None = None,
) -> Tensor:
    """Materialises one tensor's share of every direction: for references, small tensors and curiosity.

    With ``sphere`` the tensor is taken for the whole parameter: each z_k has length √(number of elements).

    Args:
        directions: Names the K directions.
        tensor_id: Position of the tensor in the list of trained parameters.
        shape: Its shape.
        dtype: Of the result and of the field; bfloat16 gives the rounded values that bfloat16 training walks.
        device: Where to draw.
        rows: Of a tensor of two or more dimensions, the only ones to draw, int64 [R] in any order: those that a
            batch looks up in a large table. None draws all.

    Returns:
        [K, *shape], or [K, R, *shape[1:]]: bit for bit those rows of the whole.

    Raises:
        TypeError: ``rows`` is no int64 tensor.
        ValueError: The field can't address the shape, the rank exceeds min(rows, cols), or there are no such rows.
    """
    directions.check_shape(f"tensor {tensor_id}", shape)
    if rows is not None:
        _check_rows(rows, shape)
    drawn = tuple(shape) if rows is None else (rows.numel(), *shape[1:])
    out = empty((directions.num, *drawn), dtype, device)
    _call("sample", out.device, out, directions, tensor_id, dtype, rows)
    whole = torch.empty((), device=out.device).expand(tuple(shape))
    scales = direction_scales([whole], [tensor_id], directions, dtype)
    return out if scales is None else out * scales.to(dtype).view(-1, *[1] * len(shape))


def _check_rows(rows: Tensor, shape: Sequence[int]) -> None:
    if not isinstance(rows, Tensor) or rows.dtype != torch.int64:
        raise TypeError(f"rows must be an int64 tensor, got {getattr(rows, 'dtype', rows)!r}; call .long().")
    if len(shape) < 2 or rows.dim() != 1:
        raise ValueError(
            f"rows lists, in one dimension, rows of a tensor of at least two; got rows of shape "
            f"{tuple(rows.shape)} for a tensor of shape {tuple(shape)}."
        )
    if rows.numel() and not (int(rows.min()) >= 0 and int(rows.max()) < shape[0]):
        raise ValueError(
            f"rows must lie in [0, {shape[0]}), got {int(rows.min())} to {int(rows.max())}; count from the start."
        )


def accumulate(
    tensors: Sequence[Tensor],
    tensor_ids: Sequence[int],
    coefficients: Tensor,
    directions: Directions,
    dtype: torch.dtype = torch.float32,
) -> None:
    """``tensor += Σ_k coefficients[k]·z_k`` in place for each tensor, all K directions in one pass.

    Args:
        tensors: float32 or float64 tensors of one device.
        tensor_ids: Their positions in the list of trained parameters.
        coefficients: [K] float32; a per-direction scale (``sphere``) must already be in them.
        directions: Names the K directions.
        dtype: The compute dtype that the differences were measured in.
    """
    _call("accumulate", tensors[0].device, list(tensors), list(tensor_ids), coefficients, directions, dtype)


def gram(
    tensors: Sequence[Tensor],
    tensor_ids: Sequence[int],
    directions: Directions,
    dtype: torch.dtype = torch.float32,
) -> Tensor:
    """Inner products z_k·z_l over all the tensors without storing any z: [K, K] float64, unscaled."""
    out = torch.empty(directions.num, directions.num, dtype=torch.float64, device=tensors[0].device)
    _call("gram", out.device, out, list(tensors), list(tensor_ids), directions, dtype)
    return out


def direction_scales(
    tensors: Sequence[Tensor],
    tensor_ids: Sequence[int],
    directions: Directions,
    dtype: torch.dtype = torch.float32,
) -> Tensor | None:
    """The per-direction factor on ε: √d/|z_k| for ``sphere``, [K] float32; None where it is 1."""
    if directions.distribution != "sphere":
        return None
    size = sum(tensor.numel() for tensor in tensors)
    norms = [gram(tensors, tensor_ids, directions[k : k + 1], dtype).flatten() for k in range(directions.num)]
    return (size / torch.cat(norms)).sqrt().float()


def perturbed_linear(
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    *,
    weight_id: int = -1,
    bias_id: int = -1,
    base_output: Tensor | None = None,
    activation: str = "none",
    dtype: torch.dtype = torch.float32,
    donate: bool = False,
) -> Tensor:
    """Difference of ``activation(x Wᵀ + v)`` for every evaluation in one launch.

    Δz = δWᵀ + sε·(a+δ)Uᵀ + sε·v, then the activation's exact difference.

    Args:
        base: a, [N, in_features] float32.
        difference: δ, [P, N, in_features] in ``dtype``, or None.
        weight: W, [out_features, in_features].
        directions: Names the K directions; P = K or 2K.
        signed_eps: [P] float32, sε of each evaluation, times the direction's scale.
        weight_id: The weight's tensor id; -1 if it is not trained.
        bias_id: The bias's tensor id; -1 if there is none or it is not trained.
        base_output: [N, out_features], the base pre-activation; needed with an activation.
        activation: none, relu, tanh, sigmoid, gelu, gelu_tanh or silu.
        dtype: The compute dtype, float32 or bfloat16.
        donate: The caller will not read ``difference`` again: its memory may carry the result.

    Returns:
        [P, N, out_features] in ``dtype``.
    """
    evaluations, samples, features = signed_eps.numel(), base.shape[0], weight.shape[0]
    if engine_for(base.device) != "cpu":
        out = empty((evaluations, samples, features), dtype, base.device)
    else:
        out = _feature_major(difference if donate else None, (evaluations, samples, features), dtype)
    _call(
        "perturbed_linear",
        base.device,
        out,
        base,
        difference,
        weight,
        base_output,
        directions,
        weight_id,
        bias_id,
        signed_eps,
        activation,
    )
    return out


def perturbed_conv2d(
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    *,
    stride: tuple[int, int] = (1, 1),
    padding: tuple[int, int] = (0, 0),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    weight_id: int = -1,
    bias_id: int = -1,
    base_output: Tensor | None = None,
    activation: str = "none",
    dtype: torch.dtype = torch.float32,
    out: Tensor | None = None,
) -> Tensor:
    """Difference of ``activation(conv2d(x, W) + v)`` for every evaluation in one launch, zeros as padding.

    Δz = δ*W + sε·(a+δ)*U + sε·v, then the activation's exact difference.

    Args:
        base: a, [N, C, H, W] float32.
        difference: δ, [P, N, C, H, W] in ``dtype``, or None.
        weight: W, [O, C / groups, kernel height, kernel width].
        directions: Names the K directions; P = K or 2K.
        signed_eps: [P] float32, sε of each evaluation, times the direction's scale.
        stride: Of the window, rows and columns.
        padding: Zeros on each side, rows and columns.
        dilation: Of the kernel, rows and columns.
        groups: Into which the channels fall.
        weight_id: The weight's tensor id; -1 if it is not trained.
        bias_id: The bias's tensor id; -1 if there is none or it is not trained.
        base_output: [N, O, H', W'], the base pre-activation; needed with an activation.
        activation: none, relu, tanh, sigmoid, gelu, gelu_tanh or silu.
        dtype: The compute dtype, float32 or bfloat16.
        out: Memory for the result, if there is some to be used again.

    Returns:
        [P, N, O, H', W'] in ``dtype``.
    """
    height, width = (
        (size + 2 * pad - spread * (kernel - 1) - 1) // step + 1
        for size, pad, spread, kernel, step in zip(
            base.shape[2:], padding, dilation, weight.shape[2:], stride, strict=True
        )
    )
    shape = (signed_eps.numel(), base.shape[0], weight.shape[0], height, width)
    if out is None:
        out = empty(shape, dtype, base.device)
    _call(
        "perturbed_conv2d", base.device, out, base, difference, weight, base_output, directions, weight_id,
        bias_id, signed_eps, list(stride), list(padding), list(dilation), groups, activation,
    )  # fmt: skip
    return out


def activation_difference(base: Tensor, difference: Tensor, activation: str) -> Tensor:
    """``f(base + difference) - f(base)`` by an exact formula, no cancellation; [P, *base.shape]."""
    out = torch.empty_like(difference)
    _call("activation_difference", out.device, out, base, difference, activation)
    return out


def largest_difference(difference: Tensor, gaps: Tensor, places: Tensor) -> Tensor:
    """Difference of the maximum over windows, measured from the base's own maxima m.

    max_j(a_j + δ_j) - m = max_j(δ_j + (a_j - m)): nothing cancels, whoever wins after the perturbation.

    Args:
        difference: δ, [P, M, S]: M planes of S elements.
        gaps: a_j - m, [M, J, R] float32 for the J elements of each of R windows.
        places: [J, R] int64 in [0, S), where in the plane they are; one may stand there twice.

    Returns:
        [P, M, R] in the dtype of ``difference``.
    """
    shape = (*difference.shape[:2], places.shape[1])
    out = empty(shape, difference.dtype, difference.device)
    _call("largest_difference", out.device, out, difference, gaps, places)
    return out


def cross_entropy_difference(
    logits: Tensor, difference: Tensor, target: Tensor, label_smoothing: float = 0.0
) -> Tensor:
    """Each sample's cross-entropy difference: logits [N, C], difference [P, N, C], target [N] → [P, N] float32."""
    out = torch.empty(difference.shape[:2], dtype=torch.float32, device=difference.device)
    _call("cross_entropy_difference", out.device, out, logits, difference, target, label_smoothing)
    return out


MLP_WEIGHTS, MLP_HIDDEN_WEIGHTS = 1 << 17, 1 << 14
"""How many weights a network may have, in all and beyond its first layer, to be evaluated in one call.

Beyond that it goes a layer at a time: a wide layer's W @ δ belongs to a real GEMM. The limits are a choice, not
yet measured.
"""


def offers_mlp(device: torch.device, directions: Directions, weights: Sequence[Tensor]) -> bool:
    """Whether :func:`mlp_differences` is there for such a network and the better choice.

    An engine with a rule of its own, ``mlp_fits``, decides by that: Triton's goes by what the registers hold.
    """
    if directions.elementwise != "rademacher" or directions.rank is not None:
        return False
    engine = _load(engine_for(device))
    if hasattr(engine, "mlp_fits"):
        return bool(engine.mlp_fits(weights))
    sizes = [weight.numel() for weight in weights]
    if sum(sizes) > MLP_WEIGHTS or sum(sizes[1:]) > MLP_HIDDEN_WEIGHTS:
        return False
    return hasattr(engine, "mlp_differences")


def mlp_differences(
    inputs: Sequence[Tensor],
    outputs: Sequence[Tensor],
    weights: Sequence[Tensor],
    weight_ids: Sequence[int],
    bias_ids: Sequence[int],
    activations: Sequence[str],
    target: Tensor,
    directions: Directions,
    signed_eps: Tensor,
    label_smoothing: float = 0.0,
) -> Tensor:
    """Each sample's loss difference through a whole MLP, all directions in one call.

    Cross-entropy for class indices; for a float target the squared error Σ_c Δ(2r+Δ), r being the residual.

    Args:
        inputs: The base input of each layer, [N, in_l] float32.
        outputs: The base pre-activation of each layer, [N, out_l] float32; the last are the logits.
        weights: [out_l, in_l] float32 each.
        weight_ids: Tensor id of each weight, -1 if it is not trained.
        bias_ids: Tensor id of each bias, -1 if there is none or it is not trained.
        activations: What follows each layer; "none" after the last.
        target: [N] int64 class indices in [0, C), or [N, C] float32.
        directions: Names the K directions, full-rank signs.
        signed_eps: [P] float32, sε of each evaluation.
        label_smoothing: Share of the uniform distribution mixed into the target.

    Returns:
        [P, N] float32.
    """
    out = torch.empty(signed_eps.numel(), inputs[0].shape[0], device=inputs[0].device)
    _call(
        "mlp_differences", out.device, out, list(inputs), list(outputs), list(weights), list(weight_ids),
        list(bias_ids), list(activations), target, directions, signed_eps, label_smoothing,
    )  # fmt: skip
    return out


def offers_mlp_step(device: torch.device, directions: Directions, weights: Sequence[Tensor]) -> bool:
    """Whether :func:`mlp_measure` and :func:`mlp_update` are there for such a ReLU network."""
    return offers_mlp(device, directions, weights) and hasattr(_load(engine_for(device)), "mlp_measure")


def mlp_measure(
    tensors: Sequence[np.ndarray],
    x: np.ndarray,
    target: np.ndarray,
    directions: Directions,
    signed_eps: np.ndarray,
) -> tuple[float, np.ndarray]:
    """Mean cross-entropy of a ReLU network and its difference for every evaluation, base included.

    Arrays rather than tensors: this is for networks that are done before torch has looked at its arguments.

    Args:
        tensors: Weight [out_l, in_l] and bias [1, out_l] of each layer in turn, float32; ids 0, 1, 2 …
        x: [N, in] float32.
        target: [N] int64 in [0, C).
        directions: K full-rank sign directions.
        signed_eps: [P] float32, sε of each evaluation.

    Returns:
        The loss, and float32 [P].
    """
    return _load("cpu").mlp_measure(list(tensors), x, target, directions, signed_eps)


def mlp_update(
    tensors: Sequence[np.ndarray],
    first: Sequence[np.ndarray],
    second: Sequence[np.ndarray],
    rule: tuple[float, ...],
    coefficients: np.ndarray,
    directions: Directions,
) -> None:
    """Moves every tensor along Σ_k a_k z_k by Adam or by SGD with momentum, without writing the sum out.

    Args:
        tensors: As in :func:`mlp_measure`, changed in place.
        first: First moments or momentum buffers, like the tensors, changed in place.
        second: Second moments, changed in place by Adam only.
        rule: (lr, β₁ or momentum, β₂ or -1 for SGD, √(second bias correction), eps, weight decay), lr being
            already divided by Adam's first bias correction.
        coefficients: a_k, float32 [K].
        directions: K full-rank sign directions.
    """
    _load("cpu").mlp_update(list(tensors), first, second, rule, coefficients, directions)


def stage(
    directions: Directions, tensor_id: int, shape: Sequence[int], device: torch.device | str = "cpu"
) -> Tensor:
    """Packed signs of one tensor for every direction: what the generator gives, written out and nothing else.

    Args:
        directions: Names the K directions; full-rank signs.
        tensor_id: Position of the tensor in the list of trained parameters.
        shape: Its shape, a matrix [rows, cols] to the field.
        device: Where to.

    Returns:
        int32 [K, 4·ceil(rows/4), ceil(cols/32)]; bit b of word c is column 32c + b, 1 for +1.

    Raises:
        ValueError: The distribution has no packed signs.
    """
    if directions.elementwise != "rademacher" or directions.rank is not None:
        raise ValueError(f"only full-rank 'rademacher' has packed signs, got {directions}.")
    directions.check_shape(f"tensor {tensor_id}", shape)
    device = torch.device(device)
    return _engine(device).stage(directions, tensor_id, *matrix_shape(torch.Size(shape)), device)


def _feature_major(donated: Tensor | None, shape: tuple[int, int, int], dtype: torch.dtype) -> Tensor:
    """A [P, N, F] tensor that lies in memory as [P, F, N], which the CPU engine reads and writes in order.

    In that order a layer's result fits into the front of its input's memory if it is no wider: the engine
    reads one evaluation whole before it writes it.
    """
    evaluations, samples, features = shape
    if donated is not None and donated.dtype == dtype and donated.shape[2] >= features:
        lying = donated.transpose(1, 2)
        if lying.stride()[1:] == (samples, 1):
            return lying[:, :features].transpose(1, 2)
    return empty((evaluations, features, samples), dtype).transpose(1, 2)
