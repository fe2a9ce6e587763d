"""Runs a float64 copy of a model as the model itself runs: the same masks, and if need be the same choices."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

aten = torch.ops.aten

_NARROW = (torch.float32, torch.float16, torch.bfloat16)
_MADE = (aten.rand, aten.randn)
_DRAWN = (*_MADE, aten.rand_like, aten.randn_like, aten.bernoulli)
_DRAWN_IN_PLACE = (aten.bernoulli_, aten.uniform_, aten.normal_, aten.exponential_)


class Choices:
    """What a run made of real numbers that is none itself, in order: masks, indices, integers.

    Attributes:
        made: The tensors; None for those of a run that only takes another's.
    """

    def __init__(self) -> None:
        self.made: list[Tensor] = []
        self._taken = 0
        self._is_held = False

    def held(self) -> Choices:
        """These, to be taken by another run."""
        same = Choices()
        same.made, same._is_held = self.made, True
        return same

    def __eq__(self, other: object) -> bool:
        """Whether two runs chose the same."""
        if not isinstance(other, Choices) or len(self.made) != len(other.made):
            return False
        return all(torch.equal(one, two) for one, two in zip(self.made, other.made, strict=True))

    __hash__ = None  # type: ignore[assignment]

    def pass_on(self, choice: Tensor) -> Tensor:
        """The choice as the run goes on with it: its own, or the one that is held."""
        if not self._is_held:
            self.made.append(choice.clone())
            return choice
        self._taken += 1
        return self.made[self._taken - 1].clone()


class Widened(TorchDispatchMode):
    """Computes in float64 whatever says float32, as in ``x.float()`` or ``softmax(x, dtype=torch.float32)``.

    Random numbers are drawn in float32 all the same, so that dropout masks are those of the model itself.

    Args:
        choices: Are written down there, or taken from there.
    """

    def __init__(self, choices: Choices) -> None:
        super().__init__()
        self.choices = choices

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        """Runs the operation with each narrow dtype among its arguments replaced."""
        kwargs, packet = kwargs or {}, func.overloadpacket
        if packet in _DRAWN_IN_PLACE:
            drawn = func(torch.empty_like(args[0], dtype=torch.float32), *args[1:], **kwargs)
            return args[0].copy_(drawn)
        args, kwargs = tree_map(_widened, (args, kwargs))
        if packet is aten._to_copy and kwargs.get("dtype") is args[0].dtype and len(kwargs) == 1:
            return args[0]  # the model casts float32 to itself then, and may write to what it gets
        if packet in _DRAWN:
            args, kwargs = tree_map(_narrowed, (args, kwargs))
            if packet in _MADE:
                kwargs["dtype"] = torch.float32
            return func(*args, **kwargs).double()
        result = _grouped(*args, **kwargs) if packet is aten._grouped_mm else func(*args, **kwargs)
        if not any(_is_real(each) for each in tree_leaves((args, kwargs))):
            return result
        if packet is aten.topk:
            indices = self.choices.pass_on(result[1])
            return _in_their_places(args[0], result[1], indices, *args[2:3]), indices
        return tree_map(lambda each: self.choices.pass_on(each) if _is_choice(each) else each, result)


def _in_their_places(x: Tensor, found: Tensor, indices: Tensor, dim: int = -1) -> Tensor:
    """The k largest where others were the largest before: who stays keeps its place, others take the rest."""
    known, now = indices.movedim(dim, -1), found.movedim(dim, -1)
    stays = (known.unsqueeze(-1) == now.unsqueeze(-2)).any(-1)
    is_new = ~(known.unsqueeze(-2) == now.unsqueeze(-1)).any(-1)
    places = known.clone()
    places[~stays] = now[is_new]
    return x.movedim(dim, -1).gather(-1, places).movedim(-1, dim)


def _grouped(rows: Tensor, matrices: Tensor, offs: Tensor, **options: Any) -> Tensor:
    """Each group of rows [R, in] times its matrix [G, in, out]: torch has no such product in float64."""
    ends = offs.tolist()
    product = rows.new_zeros(rows.shape[0], matrices.shape[2])
    for matrix, start, end in zip(matrices, [0, *ends[:-1]], ends, strict=True):
        product[start:end] = rows[start:end] @ matrix
    return product


def _is_real(value: Any) -> bool:
    return isinstance(value, Tensor) and value.is_floating_point()


def _is_choice(value: Any) -> bool:
    return isinstance(value, Tensor) and not value.is_floating_point() and not value.is_complex()


def _widened(value: Any) -> Any:
    return torch.float64 if value in _NARROW else value


def _narrowed(value: Any) -> Any:
    if value is torch.float64:
        return torch.float32
    return value.float() if isinstance(value, Tensor) and value.dtype is torch.float64 else value
