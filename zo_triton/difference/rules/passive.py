"""Functions whose result carries no difference whatever goes in: questions, fresh tensors, choices.

Comparisons, argmax and whatever turns a tensor into Python numbers see the base alone, so that control flow
is that of the unperturbed run. A mask made by a comparison therefore stays the base's; ``relu``, ``clamp``,
``abs``, ``maximum`` and ``leaky_relu`` follow the perturbation across their kinks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import register

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

QUESTIONS = (
    "size", "dim", "numel", "nelement", "ndimension", "stride", "storage_offset", "data_ptr", "element_size",
    "is_contiguous", "is_floating_point", "is_complex", "is_signed", "is_pinned", "is_inference",
    "get_device", "item", "tolist", "numpy", "__array__", "__len__", "__bool__", "__float__", "__int__",
    "__index__", "__repr__", "__format__", "__hash__", "__contains__", "untyped_storage", "storage",
    "is_shared", "is_set_to", "is_same_size", "result_type", "is_nonzero", "__dlpack__", "__dlpack_device__",
    "__reduce_ex__",
)  # fmt: skip
CHOICES = (
    "eq", "ne", "lt", "le", "gt", "ge", "__eq__", "__ne__", "__lt__", "__le__", "__gt__", "__ge__", "equal",
    "not_equal", "less", "less_equal", "greater", "greater_equal", "allclose", "isclose", "isnan", "isinf",
    "isfinite", "isposinf", "isneginf", "isreal", "argmax", "argmin", "argsort", "argwhere", "nonzero",
    "count_nonzero", "any", "all", "searchsorted", "bucketize", "unique", "unique_consecutive",
    "logical_not", "logical_and", "logical_or", "logical_xor", "signbit", "int", "long", "short", "char",
    "byte", "bool",
)  # fmt: skip
FRESH = (
    "zeros_like", "ones_like", "empty_like", "full_like", "rand_like", "randn_like", "randint_like",
    "new_zeros", "new_ones", "new_empty", "new_full", "new_empty_strided", "new_tensor",
)  # fmt: skip


def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """Runs the function on the base."""
    return function(*args, **kwargs)


for _name in (*QUESTIONS, *CHOICES, *FRESH):
    _found = (getattr(_owner, _name, None) for _owner in (torch, Tensor))
    register(filter(callable, _found), handle)
