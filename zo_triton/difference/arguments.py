"""What is refused before anything is drawn, evaluated or changed."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from zo_triton.directions import Directions


def check_closure(closure: object) -> None:
    """Refuses a value where the function that computes it is needed.

    Raises:
        TypeError: It can't be called.
    """
    if not callable(closure):
        raise TypeError(
            f"the closure must be a function that computes the loss, got {_short(closure)}: a step evaluates it "
            "along each direction. Pass lambda: loss_fn(model(x), y), without calling it."
        )


def parameter_list(params: Any) -> list[Any]:
    """What was passed to be trained, as a list; refuses what is often passed in its place.

    Args:
        params: Tensors, or what else an optimizer takes.

    Raises:
        TypeError: It is a model, one tensor, or nothing that can be gone through.
    """
    if isinstance(params, nn.Module):
        raise TypeError(
            f"params is a model, {type(params).__name__}; pass its parameters, model.parameters()."
        )
    if isinstance(params, Tensor):
        raise TypeError(f"params is {_short(params)}; pass a list, [tensor].")
    if isinstance(params, Mapping):
        raise TypeError(
            "params is a dictionary; pass its tensors, list(params.values()), or named tensors, .items()."
        )
    if not isinstance(params, Iterable):
        raise TypeError(f"params must be tensors, as model.parameters() gives, got {_short(params)}.")
    return list(params)


def _short(value: object) -> str:
    """A value as an error shows it: a large tensor's numbers say nothing."""
    if isinstance(value, Tensor):
        return f"a tensor of shape {tuple(value.shape)}"
    return f"{value!r} of type {type(value).__name__}"


def check_parameters(params: Sequence[Tensor], directions: Directions, names: Sequence[str] = ()) -> None:
    """Refuses parameters that the field can't perturb.

    Args:
        params: The trained tensors in the order of their ids.
        directions: Supplies the distribution and the rank.
        names: What to call them in an error; by default their positions.

    Raises:
        TypeError: A parameter is no tensor, not of a real floating type, sparse, or a DTensor; or ``directions``
            is no :class:`Directions`.
        ValueError: There are none, one comes twice, they lie on several devices, or the field can't address
            one of them.
    """
    if not isinstance(directions, Directions):
        raise TypeError(
            f"directions must be a zo.Directions, got {directions!r} of type {type(directions).__name__}; "
            "zo.Directions(seed=0, step=0, num=64) names 64 of them."
        )
    if not params:
        raise ValueError("params is empty; pass at least one trained parameter, as model.parameters() does.")
    seen: dict[int, int] = {}
    for position, param in enumerate(params):
        if not isinstance(param, Tensor):
            raise TypeError(
                f"{_name(position, names)} is no tensor but {param!r} of type {type(param).__name__}."
            )
        if _is_distributed(param):
            raise TypeError(
                f"{_name(position, names)} is a DTensor, of which each process holds a part (fully_shard, "
                "parallelize_module); pass the unsharded model in each process: no gradients or optimizer state of "
                "its size are needed, and ranks=zo.Ranks() shares the evaluations among the processes."
            )
        if not param.is_floating_point():
            raise TypeError(
                f"{_name(position, names)} has dtype {param.dtype}; only real floating-point tensors can be "
                "moved along a direction: leave it out."
            )
        if param.layout != torch.strided:
            raise TypeError(
                f"{_name(position, names)} has layout {param.layout}; only dense tensors are trained."
            )
        if param.device != params[0].device:
            raise ValueError(
                f"{_name(position, names)} lies on {param.device} but the first one on {params[0].device}; "
                "move the model to one device."
            )
        first = seen.setdefault(id(param), position)
        if first != position:
            raise ValueError(
                f"{_name(position, names)} is the same tensor as {_name(first, names)}; list each one once, or "
                "it would be moved along two directions."
            )
    shapes = tuple(param.shape for param in params)
    _check_shapes(directions.distribution, directions.rank, shapes, tuple(names))


def check_apart(params: Sequence[Tensor], names: Sequence[str] = ()) -> None:
    """Refuses parameters that share memory, and would each be moved along a direction of their own.

    Args:
        params: Those that :func:`check_parameters` has let pass.
        names: As there.

    Raises:
        ValueError: Two of them overlap.
    """
    # A tensor of the meta device or of torch's FakeTensorMode has a shape, and no memory that two could share.
    placed = sorted(
        (param.data_ptr(), param.data_ptr() + _extent(param), i)
        for i, param in enumerate(params)
        if param.numel() and param.untyped_storage().device.type != "meta"
    )
    for (_, stop, first), (start, _, second) in pairwise(placed):
        if start < stop and _is_dense(params[first]) and _is_dense(params[second]):
            first, second = sorted((first, second))
            raise ValueError(
                f"{_name(second, names)} shares memory with {_name(first, names)}, as a view or a .detach() does, "
                "and it would be moved along two directions; pass the whole tensor once."
            )


def _extent(param: Tensor) -> int:
    """Bytes from the first element to the end of the last."""
    if param.numel() == 0:
        return 0
    last = sum((size - 1) * stride for size, stride in zip(param.shape, param.stride(), strict=True))
    return (last + 1) * param.element_size()


def _is_dense(param: Tensor) -> bool:
    """Whether all memory that the tensor reaches is its own: not so for every other column of a matrix."""
    return _extent(param) == param.numel() * param.element_size()


def check_scales(scales: Tensor, directions: Directions) -> None:
    """Refuses factors that are not one a direction.

    Raises:
        ValueError: There are not K of them.
    """
    if tuple(scales.shape) != (directions.num,):
        raise ValueError(
            f"scales must have shape ({directions.num},), one a direction, got {tuple(scales.shape)}."
        )


def _is_distributed(param: Tensor) -> bool:
    """Whether it is a DTensor, without importing what takes long to import."""
    module = sys.modules.get("torch.distributed.tensor")
    return module is not None and isinstance(param, module.DTensor)


@lru_cache(maxsize=64)
def _check_shapes(
    distribution: str, rank: int | None, shapes: tuple[torch.Size, ...], names: tuple[str, ...]
) -> None:
    """Refuses shapes that the field can't address; remembered, since steps of small models are short."""
    field = Directions(0, 0, 1, distribution, rank=rank)
    for position, shape in enumerate(shapes):
        field.check_shape(_name(position, names), shape)


def _name(position: int, names: Sequence[str]) -> str:
    return f"parameter {names[position]!r}" if names else f"parameter {position}"
