"""Functions that torch writes in Python out of others: they run under the mode, piece by piece.

``F.normalize`` and its like ask first whether somebody overrides them. A copy of such a function, in which that
question is answered with no, is the function's own source in the installed version of torch, and each torch
function inside it meets its rule.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from functools import wraps
from types import FrameType, FunctionType
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference import fallback
from zo_triton.difference.registry import Handler, named, register

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

FROM_TORCH = (
    "normalize", "cosine_embedding_loss", "lp_pool1d", "lp_pool2d", "lp_pool3d", "gumbel_softmax", "tanhshrink",
    "triplet_margin_with_distance_loss", "gaussian_nll_loss", "local_response_norm", "multilabel_soft_margin_loss",
)  # fmt: skip


def without_question(function: Any, **others: Callable) -> Callable:
    """A copy of a Python function of torch whose check for overrides finds none.

    Args:
        function: Torch's.
        others: By name, what it calls in place of its module's functions.
    """
    settings = {**function.__globals__, **others}
    for name in ("has_torch_function", "has_torch_function_unary", "has_torch_function_variadic"):
        settings[name] = lambda *_: False
    copy = FunctionType(function.__code__, settings, function.__name__, function.__defaults__,
                        function.__closure__)  # fmt: skip
    copy.__kwdefaults__ = function.__kwdefaults__
    return copy


def left_out(function: Any, argument: str) -> Any:
    """What the caller of a Python function of torch gave for an argument that the function hands to no mode.

    ``F.l1_loss`` forgets its ``weight``, for one: only its own frame, which waits for the mode, still has it.
    """
    frame: FrameType | None = sys._getframe(1)
    while frame is not None and frame.f_code is not function.__code__:
        frame = frame.f_back
    return None if frame is None else frame.f_locals.get(argument)


def in_pieces(targets: list[Any], body: Callable | None = None, asks_torch: bool = True) -> None:
    """Registers functions whose body, their own unless given, runs under the mode.

    Args:
        targets: The functions.
        body: Takes what they take, and returns ``NotImplemented`` for what is left to the subtraction.
        asks_torch: Whether torch's own function runs before a given body, which does not look for what torch
            refuses. False for one that draws numbers, and for one that takes long.
    """
    for target in targets:
        if body is None:
            register([target], under_the_mode(without_question(target), False))
        else:
            register([target], wraps(body)(under_the_mode(body, asks_torch)))


def under_the_mode(body: Callable, asks_torch: bool) -> Handler:
    """The handler that runs a body as :func:`in_pieces` says."""

    def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
        if not mode.carries(args, kwargs):
            return function(*args, **kwargs)
        if asks_torch:
            function(*args, **kwargs)
        with mode:
            found = body(*args, **kwargs)
        return fallback.handle(mode, function, args, kwargs) if found is NotImplemented else found

    return handle


in_pieces([function for name in FROM_TORCH for function in named(name, owner=F)])


def _addcmul(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    return input + value * (tensor1 * tensor2)


def _addcdiv(input: Tensor, tensor1: Tensor, tensor2: Tensor, *, value: Any = 1) -> Tensor:
    return input + value * (tensor1 / tensor2)


def _glu(input: Tensor, dim: int = -1) -> Tensor:
    values, gates = input.chunk(2, dim)
    return values * gates.sigmoid()


def _cosine_similarity(x1: Tensor, x2: Tensor, dim: int = 1, eps: float = 1e-8) -> Tensor:
    x1, x2 = torch.broadcast_tensors(x1, x2)
    sizes = [each.square().sum(dim).sqrt().clamp_min(eps) for each in (x1, x2)]
    return (x1 * x2).sum(dim) / (sizes[0] * sizes[1])


def _weight_norm(v: Tensor, g: Tensor, dim: int = 0) -> Tensor:
    others = [axis for axis in range(v.dim()) if axis != dim]
    return v * (g / torch.linalg.vector_norm(v, 2, others, keepdim=True))


def _stacked(axis: int, dimensions: int) -> Callable:
    """``hstack`` and its like: joined along an axis after growing to so many dimensions."""
    grown = {1: torch.atleast_1d, 2: torch.atleast_2d, 3: torch.atleast_3d}[dimensions]

    def join(tensors: Sequence[Tensor]) -> Tensor:
        parts = [grown(each) for each in tensors]
        return torch.cat(parts, axis if parts[0].dim() > axis else 0)

    return join


def _column_stack(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([each.reshape(-1, 1) if each.dim() < 2 else each for each in tensors], 1)


def _pairwise_distance(
    x1: Tensor, x2: Tensor, p: float = 2.0, eps: float = 1e-6, keepdim: bool = False
) -> Tensor:
    return torch.linalg.vector_norm(x1 - x2 + eps, p, -1, keepdim)


def _grouped_mm(
    input: Tensor, mat2: Tensor, offs: Tensor | None = None, bias: Tensor | None = None, out_dtype: Any = None
) -> Tensor:
    """A product for each group, as mixtures of experts have them; ``offs`` [groups] says where each ends."""
    if offs is None:
        result = torch.bmm(input, mat2)
    else:
        ends = offs.tolist()
        groups = [slice(start, end) for start, end in zip([0, *ends[:-1]], ends, strict=True)]
        if input.dim() == 3:
            result = torch.cat([input[i] @ mat2[:, group] for i, group in enumerate(groups)], 1)
        elif mat2.dim() == 3:
            result = torch.cat([input[group] @ mat2[i] for i, group in enumerate(groups)], 0)
        else:
            result = torch.stack([input[:, group] @ mat2[group] for group in groups])
    result = result if bias is None else result + bias
    return result if out_dtype is None else result.to(out_dtype)


in_pieces(named("_weight_norm"), _weight_norm, asks_torch=False)
in_pieces(named("addcmul"), _addcmul)
in_pieces(named("addcdiv"), _addcdiv)
in_pieces(named("glu"), _glu)
in_pieces(named("cosine_similarity"), _cosine_similarity)
in_pieces(named("pairwise_distance"), _pairwise_distance)
in_pieces(named("_grouped_mm", owner=torch), _grouped_mm, asks_torch=False)
in_pieces([F.grouped_mm] if hasattr(F, "grouped_mm") else [], _grouped_mm, asks_torch=False)
in_pieces(named("hstack"), _stacked(1, 1))
in_pieces(named("vstack", "row_stack"), _stacked(0, 2))
in_pieces(named("dstack"), _stacked(2, 3))
in_pieces(named("column_stack"), _column_stack)
