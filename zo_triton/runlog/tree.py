"""State dicts as JSON and tensors by name, without pickle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor


def pack(value: Any, name: str, tensors: dict[str, Tensor]) -> Any:
    """What JSON can hold of a value; its tensors are put into ``tensors``.

    Args:
        value: None, a bool, number, string, dtype or tensor, or a dict, list or tuple of such; the keys of a dict
            are strings or integers.
        name: With which the names of its tensors begin.
        tensors: Gets them.

    Raises:
        TypeError: It is, or holds, anything else.
    """
    if value is None or isinstance(value, (bool, int, float, str)):
        return value
    if isinstance(value, Tensor):
        tensors[name] = value
        return {"tensor": name}
    if isinstance(value, torch.dtype):
        return {"dtype": str(value).removeprefix("torch.")}
    if isinstance(value, dict):
        return {"dict": [[key, pack(item, f"{name}/{key}", tensors)] for key, item in value.items()]}
    if isinstance(value, (list, tuple)):
        items = [pack(item, f"{name}/{index}", tensors) for index, item in enumerate(value)]
        return {"tuple": items} if isinstance(value, tuple) else {"list": items}
    raise TypeError(f"{name} is of type {type(value).__name__}, which a checkpoint does not hold.")


def unpack(value: Any, tensors: dict[str, Tensor]) -> Any:
    """Inverse of :func:`pack`."""
    if not isinstance(value, dict):
        return value
    ((kind, inner),) = value.items()
    if kind == "tensor":
        return tensors[inner]
    if kind == "dtype":
        return getattr(torch, inner)
    if kind == "dict":
        return {key: unpack(item, tensors) for key, item in inner}
    items = [unpack(item, tensors) for item in inner]
    return tuple(items) if kind == "tuple" else items
