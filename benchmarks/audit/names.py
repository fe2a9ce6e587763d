"""Every public name of torch's that takes a tensor, and what its handler says of it."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.overrides import get_testing_overrides

from zo_triton.difference import doors, inplace
from zo_triton.difference.registry import COMPLEX, HANDLERS, named
from zo_triton.difference.rules import outward, passive

SPACES = {
    "torch": torch, "torch.Tensor": Tensor, "torch.nn.functional": F, "torch.linalg": torch.linalg,
    "torch.special": torch.special, "torch.fft": torch.fft, "torch.sparse": torch.sparse,
    "torch.nested": torch.nested, "torch.masked": torch.masked, "torch.signal.windows": torch.signal.windows,
    "torch.func": torch.func, "torch.autograd": torch.autograd,
    "torch.autograd.functional": torch.autograd.functional,
    "torch.autograd.forward_ad": torch.autograd.forward_ad, "torch.utils.dlpack": torch.utils.dlpack,
}  # fmt: skip

CARRIED, SUBTRACTED, CONSTANT = "carried", "subtracted", "constant"
REFUSED, ANNOUNCED, PARTS, NONE = "refused", "announced", "by its parts", "no operand"
MEANINGS = {
    CARRIED: "an exact rule; in place, that of the functional form",
    SUBTRACTED: "no rule: evaluated at the base and at each moved point in float64, with one warning; an error "
    "if `strict=True`, or if the result can hold no difference",
    CONSTANT: "the base's own: questions, integers, choices, fresh tensors, numbers for control flow",
    REFUSED: "an error that names the function and the remedy",
    ANNOUNCED: "the base's own, with one warning that it counts as constant",
    PARTS: "Python code; the torch functions that it calls are followed one by one",
    NONE: "takes no tensor whose elements could differ: settings, helpers, random state, files",
}

WITHOUT_A_RESULT_THAT_COULD = (
    "quantize_per", "quantized_", "to_sparse", "to_mkldnn", "to_dense_nested", "sparse_", "_to_sparse", "coalesce",
    "values", "indices", "crow_indices", "col_indices", "ccol_indices", "row_indices", "_values", "_indices",
    "sparse_resize_", "sparse_resize_and_clear_", "sampled_addmm", "spdiags", "to_padded_tensor", "q_", "int_repr",
    "_nested_tensor_size", "as_nested_tensor", "nested_tensor", "make_dual", "to_sparse_semi_structured",
)  # fmt: skip
"""Beginnings of names: sparse, quantised and nested tensors hold no differences, as operands or results."""

NO_OPERAND = (
    "get_", "set_", "is_", "are_", "has_", "autocast_", "parse_", "import_ir_", "clear_", "init_", "use_",
    "manual_seed", "merge_type", "unify_type", "prepare_", "profiler_", "thread_safe_generator", "typename", "seed",
    "initial_seed", "sym_fresh_size", "classproperty", "compiled_with", "load", "handle_torch_function",
    "assert_int_or_pair", "kineto_available", "overload", "variable", "enter_dual_level", "exit_dual_level",
    "as_sparse_gradcheck", "fftfreq", "rfftfreq",
)  # fmt: skip
"""Beginnings of names that never reach the mode and have nothing to lose."""

LISTED: dict[str, dict[str, str]] = {
    CARRIED: {"torch.Tensor": "as_subclass"},
    SUBTRACTED: {
        "torch": "cond vmap while_loop",
        "torch.func": "vmap",
        "torch.sparse": "addmm mm log_softmax softmax spsolve sum",
    },
    PARTS: {
        "torch": "broadcast_shapes compile fork wait lstsq matrix_rank solve symeig eig quantized_gru "
        "quantized_lstm",
        "torch.Tensor": "__iter__ __reduce__ __getstate__ __setattr__ __getattribute__ __delattr__ __str__ "
        "reinforce __delitem__ _typed_storage _reduce_ex_internal lstsq solve symeig eig",
        "torch.nn.functional": "boolean_dispatch upsample_bilinear upsample_nearest scaled_mm scaled_grouped_mm",
        "torch.func": "functional_call stack_module_state replace_all_batch_norm_modules_ rearrange",
        "torch.masked": "amax amin argmax argmin cumprod cumsum log_softmax logaddexp logsumexp mean median norm "
        "normalize prod softmax softmin std sum var",
        "torch.nested": "masked_select narrow",
        "torch.autograd": "cast",
    },
    REFUSED: {
        "torch.Tensor": "__init__ __new__ new _dtensor__new__ _make_wrapper_subclass __torch_dispatch__ "
        "_view_func _view_func_unsafe _rev_view_func_unsafe",
        "torch.func": "debug_unwrap functionalize grad grad_and_value hessian jacfwd jacrev jvp linearize vjp",
        "torch.masked": "as_masked_tensor masked_tensor is_masked_tensor",
        "torch.nested": "nested_tensor_from_jagged nested_tensor as_nested_tensor to_padded_tensor",
        "torch.sparse": "sampled_addmm spdiags to_sparse_semi_structured",
        "torch.autograd": "gradcheck gradgradcheck",
        "torch.autograd.functional": "hessian hvp jacobian jvp vhp vjp",
        "torch.autograd.forward_ad": "make_dual unpack_dual",
    },
    ANNOUNCED: {"torch": "from_dlpack save", "torch.utils.dlpack": "from_dlpack"},
    CONSTANT: {"torch": "to_dlpack", "torch.Tensor": "_make_subclass", "torch.utils.dlpack": "to_dlpack"},
    NONE: {
        "torch.Tensor": "__annotations__ __array_priority__ __class__ __dict__ __dir__ __dlpack_c_exchange_api__ "
        "__doc__ __init_subclass__ __module__ __sizeof__ __subclasshook__ __torch_function__ __weakref__ "
        "__slotnames__ _fix_weakref _use_count",
        "torch.signal.windows": "bartlett blackman cosine exponential gaussian general_cosine general_hamming "
        "hamming hann kaiser nuttall",
    },
}
"""Names that never reach the mode, whose words are known all the same."""


def words() -> dict[str, dict[str, str | None]]:
    """Namespace → name → its word; None for a name that nobody has thought of."""
    doors.install()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # some names are deprecated
        overridable = get_testing_overrides()
        return {
            space: {name: _word(space, name, function, overridable) for name, function in _functions(owner)}
            for space, owner in SPACES.items()
        }


def _functions(owner: Any) -> Iterator[tuple[str, Any]]:
    """Name and function of whatever is public and can be called; of ``Tensor`` the attributes' getters too."""
    for name in sorted(dir(owner)):
        value = getattr(owner, name)
        if name == "__slotnames__":  # copying leaves it behind
            continue
        if owner is Tensor:
            yield name, value if callable(value) else getattr(value, "__get__", None)
        elif (
            callable(value)
            and name[0] != "_"
            and not isinstance(value, (type, ModuleType))
            and getattr(value, "__module__", None) != "typing"
        ):
            yield name, value


def _word(space: str, name: str, function: Any, overridable: Any) -> str | None:
    for word, listed in LISTED.items():
        if name in listed.get(space, "").split():
            return word
    handle = HANDLERS.get(function, COMPLEX.get(function))
    if handle is not None:
        return _OF_HANDLERS.get(handle, CARRIED)
    if name.startswith(WITHOUT_A_RESULT_THAT_COULD):
        return REFUSED
    if inplace.handler_for(function) is not None:
        return _in_place(space, name, overridable)
    if function in overridable or _is_written_in_c(name, function):
        return SUBTRACTED
    return NONE if name.startswith(NO_OPERAND) else None


_OF_HANDLERS: dict[Any, str] = {
    passive.on_base: CONSTANT,
    passive.fill: CONSTANT,
    outward.read: ANNOUNCED,
    outward.differentiate: REFUSED,
}


def _is_written_in_c(name: str, function: Any) -> bool:
    """Whether torch's own argument parser hands it to every mode."""
    found = getattr(torch._C._VariableFunctions, name, None)
    return (found is not None and found is function) or isinstance(function, type(Tensor.add))


def _in_place(space: str, name: str, overridable: Any) -> str:
    """As for the functional form."""
    plain = inplace._OPERATORS.get(name, name.rstrip("_"))
    if name in inplace._REHOUSING or name.startswith("_foreach_"):
        return REFUSED
    is_operator = name in inplace._OPERATORS or name == "__setitem__"
    if name in inplace._HARMLESS or (name[:2] == "__" and not is_operator):
        return CONSTANT
    if name in inplace._CONSTANT or name in inplace._RESHAPING or name in ("__setitem__", "fill_", "copy_"):
        return CARRIED
    try:
        forms = named(plain)
    except LookupError:
        return REFUSED
    handlers = [HANDLERS[form] for form in forms if form in HANDLERS]
    return _OF_HANDLERS.get(handlers[0], CARRIED) if handlers else SUBTRACTED
