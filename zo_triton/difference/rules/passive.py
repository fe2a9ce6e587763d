"""Functions whose result carries no difference whatever goes in: questions, attributes, fresh tensors, choices.

Comparisons, argmax and whatever turns a tensor into Python numbers see the base alone, so that control flow
is that of the unperturbed run. A mask made by a comparison therefore stays the base's; ``relu``, ``clamp``,
``abs``, ``maximum`` and ``leaky_relu`` follow the perturbation across their kinks.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference import fallback
from zo_triton.difference.registry import COMPLEX, HANDLERS, register

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

QUESTIONS = (
    "size", "dim", "numel", "nelement", "ndimension", "stride", "storage_offset", "data_ptr", "element_size",
    "is_contiguous", "is_floating_point", "is_complex", "is_signed", "is_pinned", "is_inference",
    "get_device", "item", "__len__", "__bool__", "__float__", "__int__",
    "__index__", "__repr__", "__format__", "__hash__", "__contains__", "is_shared",
    "is_set_to", "is_same_size", "result_type", "is_nonzero", "__dlpack_device__", "dim_order", "is_conj",
    "is_neg", "is_coalesced", "is_distributed", "sparse_dim", "dense_dim", "has_names", "can_cast",
)  # fmt: skip
ATTRIBUTES = (
    "_backward_hooks", "_base", "_cdata", "_grad", "_grad_fn", "_has_symbolic_sizes_strides",
    "_post_accumulate_grad_hooks", "_python_dispatch", "_version", "device", "dtype", "grad", "grad_dtype",
    "grad_fn", "is_cpu", "is_cuda", "is_ipu", "is_leaf", "is_maia", "is_meta", "is_mkldnn", "is_mps",
    "is_mtia", "is_nested", "is_quantized", "is_sparse", "is_sparse_csr", "is_vulkan", "is_xla", "is_xpu",
    "itemsize", "layout", "name", "names", "nbytes", "ndim", "output_nr", "requires_grad", "retains_grad",
    "shape", "volatile",
)  # fmt: skip
"""Attributes that are no tensor, or none that the weights change; any other goes by a rule or by subtraction."""
CHOICES = (
    "eq", "ne", "lt", "le", "gt", "ge", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "equal",
    "not_equal", "less", "less_equal", "greater", "greater_equal", "allclose", "isclose", "isnan", "isinf",
    "isfinite", "isposinf", "isneginf", "isreal", "argmax", "argmin", "argsort", "argwhere", "nonzero",
    "count_nonzero", "any", "all", "searchsorted", "bucketize", "logical_not", "logical_and",
    "logical_or", "logical_xor", "signbit", "int", "long", "short", "char", "byte", "bool",
)  # fmt: skip
FRESH = (
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like",
    "new", "new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided", "new_tensor",
)  # fmt: skip
"""New tensors like the first argument, which may be filled with what another argument carries."""


def on_base(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """The handler of a function whose result carries no difference: it runs on the base."""
    return function(*args, **kwargs)


def fill(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """Runs the function on the base, unless it is filled with something that carries a difference."""
    filling = {name: value for name, value in kwargs.items() if name not in ("input", "self")}
    if mode.carries(args[1:], filling):
        return fallback.handle(mode, function, args, kwargs)
    return function(*args, **kwargs)


def _functions(names: Iterable[str]) -> Iterator[Any]:
    for name in names:
        for owner in (torch, Tensor):
            function = getattr(owner, name, None)
            if callable(function):  # torch.name may be something else
                yield function


for _table in (HANDLERS, COMPLEX):
    register(_functions((*QUESTIONS, *CHOICES)), on_base, _table)
    register((getattr(Tensor, name).__get__ for name in ATTRIBUTES if hasattr(Tensor, name)), on_base, _table)
    register(_functions(FRESH), fill, _table)
