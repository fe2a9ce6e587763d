"""Functions that only move elements about: they do to a difference what they do to the base."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference import chains, doors, fallback
from zo_triton.difference.heads import stays_pending
from zo_triton.difference.names import copying, viewing
from zo_triton.difference.registry import handler, handler_of_any, named, register, rule
from zo_triton.ops import engines

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

SMALL_TABLE = 1 << 14
"""Elements up to which a table is drawn whole if it has no more rows than are looked up: finding out which are
wanted takes longer."""


def _axis(dim: int) -> int:
    """The same axis behind the P axis; negative ones count from the end anyway."""
    return dim + 1 if dim >= 0 else dim


@copying(
    "contiguous", "clone", "__deepcopy__", "positive", "__pos__", "alias_copy", "float", "double", "half",
    "bfloat16", "type_as", "cpu", "cuda", "to", "type", "detach", "data", "real",
    also=(doors.as_subclass, doors.parameter_of),
)  # fmt: skip
@viewing(
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel", "view_as", "reshape_as",
    "unsqueeze_copy", "squeeze_copy", "view_copy", in_order=True,
)  # fmt: skip
def reshape(mode: DifferenceMode, base: Any, /, input: Any, *args: Any, **kwargs: Any) -> Any:
    """The same elements in the same order; a cast of the base leaves the difference's dtype alone."""
    mode.ignore(*args, *kwargs.values())  # of another tensor only the shape or the type is taken
    if isinstance(base, Tensor) and base.dtype != input.dtype and _are_bits(base, input):
        return _reinterpreted(mode, base, input)
    if not isinstance(base, Tensor) or not (base.is_floating_point() or base.is_complex()):
        return None
    if not isinstance(input, Tensor) or base.numel() != input.numel():
        return NotImplemented
    if not mode.carries((input,)):  # only the other one of view_as or type_as does
        return None

    def view(delta: Tensor) -> Tensor:
        moved = delta.reshape(delta.shape[0], *base_shape)
        return moved if moved.device == device else moved.to(device)

    base_shape, device = base.shape, base.device
    return None if stays_pending(mode, base, input, None, view) else view(mode.needed(input))


def _are_bits(base: Tensor, input: Tensor) -> bool:
    """Whether a result of another type lies in the input's own memory, and not as its real part does."""
    if base.data_ptr() != input.data_ptr() or base.data_ptr() == 0:
        return False
    return base.dtype != input.dtype.to_real() or base.numel() != input.numel()


def _reinterpreted(mode: DifferenceMode, base: Tensor, input: Tensor) -> Tensor:
    """``x.view(dtype)``: pairs of numbers are complex ones; other bits mean nothing to a difference."""
    if base.is_complex() == input.is_complex() or base.dtype.to_real() != input.dtype.to_real():
        fallback.refuse(Tensor.view, f"reads the bits of {input.dtype} as {base.dtype}")
    delta = mode.difference(input)
    assert delta is not None
    if base.is_complex():
        return delta.float().contiguous().view(torch.complex64)
    return delta.contiguous().view(torch.float32)


@viewing("T", "t", "mT")
def _transposed(mode: DifferenceMode, base: Tensor, input: Tensor) -> Any:
    """``.mT`` of any tensor; ``.T`` and ``.t()`` of at most two dimensions."""
    delta = mode.needed(input)
    if input.dim() < 2:
        return delta
    return delta.mT if base.shape == input.mT.shape else NotImplemented


@viewing("transpose", "swapaxes", "swapdims")
def transpose(mode: DifferenceMode, base: Tensor, input: Tensor, *axes: int, **named_axes: int) -> Tensor:
    """Two axes change places."""
    first, second = (*axes, *named_axes.values())
    delta = mode.needed(input)
    return delta.transpose(_axis(first), _axis(second)) if input.dim() else delta


@viewing("permute")
def permute(mode: DifferenceMode, base: Tensor, input: Tensor, *axes: Any, dims: Any = None) -> Tensor:
    """All axes in a new order."""
    order = dims if dims is not None else axes[0] if axes and isinstance(axes[0], Sequence) else axes
    dimensions = input.dim()
    return mode.needed(input).permute(0, *[axis % dimensions + 1 for axis in order])


@viewing("expand", "expand_as", "broadcast_to")
def expand(mode: DifferenceMode, base: Tensor, /, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Repeats along axes of size one."""
    mode.ignore(*args, *kwargs.values())  # of another tensor only the shape is taken
    if not mode.carries((input,)):  # only the other one of expand_as does
        return None
    return mode.align(mode.needed(input), base.dim()).expand(mode.evaluations, *base.shape)


@viewing("__getitem__")
def getitem(mode: DifferenceMode, base: Tensor, input: Tensor, index: Any) -> Any:
    """Basic indices give a view; others go by the positions that they pick."""
    if isinstance(index, Tensor) and index.dtype in (torch.int32, torch.int64) and input.dim() > 0:
        return _look_up(mode, input, index)
    parts = index if isinstance(index, tuple) else (index,)
    if all(part is None or part is Ellipsis or type(part) in (int, slice) for part in parts):
        inside = (slice(None), *parts)
        if stays_pending(mode, base, input, lambda rows: rows[index], lambda delta: delta[inside]):
            return None
        return mode.needed(input)[inside]
    return _pick(mode, input, mode.needed(input), lambda positions: positions[index])


@rule("index_select")
def index_select(mode: DifferenceMode, base: Tensor, input: Tensor, dim: int, index: Tensor) -> Any:
    """Chosen slices along an axis."""
    if input.dim() == 0:
        return NotImplemented
    if dim % input.dim() != 0:
        return mode.needed(input).index_select(_axis(dim), index)
    return _look_up(mode, input, index.reshape(-1))


def _look_up(mode: DifferenceMode, table: Tensor, indices: Tensor) -> Tensor:
    """The rows of the table's difference that integers pick; of a trained table no others are drawn."""
    tensor_id = mode.trained(table)
    if tensor_id < 0 or table.dim() < 2:
        return _rows_of(mode, mode.needed(table), indices)
    if engines.is_replayable() or engines.waits(indices.device):
        # How many rows differ is known on the device alone: each index draws its own, unless the table is shorter.
        if indices.numel() >= len(table):
            return _rows_of(mode, mode.needed(table), indices)
        rows = mode.materialise(tensor_id, table, indices.reshape(-1).long() % len(table))
        return rows.view(mode.evaluations, *indices.shape, *table.shape[1:])
    if len(table) <= indices.numel() and table.numel() <= SMALL_TABLE:
        return _rows_of(mode, mode.needed(table), indices)
    rows, places = torch.unique(indices.long() % max(1, len(table)), return_inverse=True)
    return _rows_of(mode, mode.materialise(tensor_id, table, rows), places)


def _rows_of(mode: DifferenceMode, delta: Tensor, indices: Tensor) -> Tensor:
    """``delta[:, indices]``, which torch's own way to does element by element: integers that may be negative.

    A table shorter than the list of its rows is rounded, as its rows would be, before they are picked.
    """
    count = delta.shape[1]
    if count < indices.numel() and delta.dtype == torch.float32:
        delta = delta.to(mode.level)
    found = delta.index_select(1, indices.reshape(-1).long() % max(1, count))
    return found.view(delta.shape[0], *indices.shape, *delta.shape[2:])


def _pick(mode: DifferenceMode, input: Tensor, delta: Tensor, move: Any) -> Tensor:
    positions = torch.arange(input.numel(), dtype=torch.int64, device=input.device).view(input.shape)
    return delta.reshape(mode.evaluations, -1)[:, move(positions)]


@rule("select")
def select(mode: DifferenceMode, base: Tensor, input: Tensor, dim: int, index: int) -> Tensor:
    """One slice along an axis."""
    return mode.needed(input).select(_axis(dim), index)


@rule("narrow")
def narrow(mode: DifferenceMode, base: Tensor, input: Tensor, dim: int, start: int, length: int) -> Tensor:
    """A run of slices along an axis."""
    return mode.needed(input).narrow(_axis(dim), start, length)


@rule("chunk", "split", "tensor_split", "unbind", "split_with_sizes")
def split(mode: DifferenceMode, base: Sequence[Tensor], /, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """Consecutive parts along an axis; their sizes are read off the base's parts."""
    delta = mode.needed(input)
    if not base:
        return None
    if base[0].dim() < input.dim():  # unbind
        return delta.unbind(_axis(kwargs.get("dim", args[0] if args else 0)))
    dim = kwargs.get("dim", args[1] if len(args) > 1 else 0)
    return delta.split([part.shape[dim] for part in base], _axis(dim))


@rule("cat", "concat", "concatenate")
def cat(mode: DifferenceMode, base: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Any:
    """Joined along an axis that exists; zeros for parts that carry nothing.

    torch leaves out a part of shape [0] beside parts of other dimensions, as an empty key-value cache is.
    """
    parts = [each for each in tensors if each.dim() == base.dim()]
    mode.ignore(*tensors)
    if chains.defer_turned_halves(mode, base, parts, dim):
        return None
    return torch.cat([_or_zeros(mode, each) for each in parts], _axis(dim))


@rule("atleast_1d", "atleast_2d", "atleast_3d", "broadcast_tensors")
def each_by_itself(mode: DifferenceMode, base: Any, *tensors: Any) -> Any:
    """Axes added or repeated, of one tensor or of each of several."""
    listed = tensors[0] if isinstance(tensors[0], (list, tuple)) else tensors
    bases = [base] if isinstance(base, Tensor) else base
    found = [
        None if delta is None else _grown(mode, delta, each.shape)
        for delta, each in zip(map(mode.difference, listed), bases, strict=True)
    ]
    return found[0] if isinstance(base, Tensor) else found


def _grown(mode: DifferenceMode, delta: Tensor, shape: torch.Size) -> Tensor:
    if delta[0].numel() == shape.numel():
        return delta.reshape(mode.evaluations, *shape)
    return mode.align(delta, len(shape)).expand(-1, *shape)


@rule("stack")
def stack(mode: DifferenceMode, base: Tensor, tensors: Sequence[Tensor], dim: int = 0) -> Tensor:
    """Joined along a new axis."""
    return torch.stack([_or_zeros(mode, each) for each in tensors], _axis(dim))


def _or_zeros(mode: DifferenceMode, tensor: Tensor) -> Tensor:
    delta = mode.difference(tensor)
    if delta is not None:
        return delta.float()
    return torch.zeros((), dtype=torch.float32, device=tensor.device).expand(mode.evaluations, *tensor.shape)


def _rearranged(
    mode: DifferenceMode, function: Any, base: Tensor, /, input: Tensor, *args: Any, **kwargs: Any
) -> Tensor:
    """Any other choice of elements: the function, run on their positions, tells which."""
    return _pick(mode, input, mode.needed(input), lambda positions: function(positions, *args, **kwargs))


_REARRANGING = (
    "flip", "roll", "rot90", "repeat", "tile", "repeat_interleave", "movedim", "moveaxis", "gather",
    "take", "take_along_dim", "masked_select", "diagonal", "fliplr", "flipud", "narrow_copy",
    "pixel_shuffle", "pixel_unshuffle", "channel_shuffle",
)  # fmt: skip
register([*named(*_REARRANGING), Tensor.unfold], handler_of_any(_rearranged))


@rule("as_strided")
def as_strided(
    mode: DifferenceMode,
    base: Tensor,
    input: Tensor,
    size: Sequence[int],
    stride: Sequence[int],
    storage_offset: int | None = None,
) -> Tensor:
    """Any view of the memory, as long as it stays within the tensor's own part.

    Raises:
        ValueError: It reaches elements that are not the tensor's, whose differences are not known.
    """
    start = input.storage_offset()
    first = (start if storage_offset is None else storage_offset) - start
    last = first + sum((length - 1) * step for length, step in zip(size, stride, strict=True))
    positions = torch.empty_strided(input.shape, input.stride(), dtype=torch.int64, device=input.device)
    dense = positions.untyped_storage().nbytes() == input.numel() * positions.element_size()
    if base.numel() and not (dense and first >= 0 and last < input.numel()):
        raise ValueError(
            "as_strided reaches memory outside of the tensor that it is called on, where differences can't be "
            "known; call it on the whole tensor, or on a .clone() with strides of its own."
        )
    positions.copy_(torch.arange(input.numel(), dtype=torch.int64, device=input.device).view(input.shape))
    return _pick(mode, input, mode.needed(input), lambda _: positions.as_strided(size, stride, first))


def refuse_max_norm(name: str) -> NoReturn:
    """Raises what a lookup gets that would renormalise the rows it finds."""
    raise ValueError(
        f"{name} with max_norm would change a trained parameter inside the closure; normalise its rows outside of "
        "it, or leave max_norm out."
    )


@handler("embedding")
def embedding(mode: DifferenceMode, function: Any, args: tuple, kwargs: dict) -> Any:
    """The rows of the weight's difference that the indices pick."""
    if not mode.carries(args, kwargs):
        return function(*args, **kwargs)
    if kwargs.get("max_norm", args[3] if len(args) > 3 and function is F.embedding else None) is not None:
        refuse_max_norm("embedding")

    def compute(mode: DifferenceMode, base: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        indices, weight = (kwargs[name] if name in kwargs else args[place] for place, name in order)
        return _look_up(mode, weight, indices)

    order = ((0, "input"), (1, "weight")) if function is F.embedding else ((1, "indices"), (0, "weight"))
    return mode.apply(compute, mode.once(function, *args, **kwargs), function, args, kwargs)


def _triangle(name: str) -> None:
    function = getattr(torch, name)

    @rule(name)
    def _(mode: DifferenceMode, base: Tensor, input: Tensor, diagonal: int = 0) -> Tensor:
        return function(mode.needed(input), diagonal)


_triangle("tril")
_triangle("triu")
