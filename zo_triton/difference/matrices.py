"""Products of an activation with a matrix that all evaluations share: the fused linear layer, however spelled.

A matrix is known by the parameter that it is, transposed or repeated along leading axes or not, so that its
direction is drawn inside the product and never written out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference.entries import Entry, Symbol
from zo_triton.difference.heads import is_too_large
from zo_triton.difference.memories import is_outside, kept
from zo_triton.difference.pending_layers import PendingActivation, PendingLinear

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

DEEPEST = 32
"""Linear layers that may be pending one behind the other: resolving them recurses, and holds their bases."""


class Matrix(NamedTuple):
    """The right factor of a product, [in_features, out_features], as ``ops.perturbed_linear`` takes it.

    Attributes:
        weight: As it is stored: [out_features, in_features], or if ``transposed`` the other way round.
        weight_id: Its tensor id, -1 if it is not trained.
        transposed: The weight is stored as the factor itself.
    """

    weight: Tensor
    weight_id: int
    transposed: bool

    @property
    def turned(self) -> Matrix:
        """The factor's transpose."""
        return Matrix(self.weight, self.weight_id, not self.transposed)


def symbol_of(mode: DifferenceMode, value: Tensor) -> Symbol | None:
    """The trained parameter that a tensor is, or is another name of; None for any other tensor."""
    position = mode.ids.get(id(value))
    if position is not None:
        return Symbol(value, position, False)
    entry = mode.entries.get(id(value))
    return entry.lazy if entry is not None and isinstance(entry.lazy, Symbol) else None


def matrix_of(mode: DifferenceMode, factor: Tensor) -> Matrix | None:
    """The right factor of a product, if it is a trained matrix, or one without a difference; None otherwise."""
    symbol = symbol_of(mode, factor)
    if symbol is None:
        if factor.dim() != 2 or not factor.is_floating_point() or mode.entry_of(factor) is not None:
            return None
        return Matrix(factor, -1, True) if factor.is_contiguous() else Matrix(factor.mT, -1, False)
    weight = symbol.parameter
    if weight.dim() != 2 or factor.dim() < 2 or factor.numel() == 0:
        return None
    if factor.dtype != weight.dtype:  # rounded: the product is with what it became
        weight = factor[(0,) * (factor.dim() - 2)]
        weight = weight.mT if symbol.transposed else weight
    mode.used = True
    mode.ignore(factor)
    return Matrix(weight, symbol.tensor_id, not symbol.transposed)


def defer(
    mode: DifferenceMode, base: Tensor, input: Tensor, matrix: Matrix | None, bias_id: int = -1
) -> bool:
    """Enters ``input @ matrix + bias`` as pending, for an activation to be fused into it; whether it could.

    Args:
        mode: Supplies the input's difference.
        base: The product, [*input.shape[:-1], out_features], bias included.
        input: [*, in_features].
        matrix: From :func:`matrix_of`.
        bias_id: The tensor id of a bias [out_features]; -1 if there is none or it is not trained.
    """
    if matrix is None or symbol_of(mode, input) is not None:
        return False
    if input.dim() == 0 or base.shape[:-1] != input.shape[:-1]:
        return False
    if base.numel() == 0 or input.numel() == 0:
        return False
    source = mode.entry_of(input)
    if source is None and matrix.weight_id < 0 and bias_id < 0:
        return False
    if not is_too_large(mode, base.numel()):  # of a large one, only pieces may ever be needed
        mode.reserve(base.numel())
    depth = 1 if source is None else 1 + _depth(source)
    if source is not None and depth > DEEPEST:
        mode.resolve(source)
    flat = kept(input if input.dim() == 2 else input.reshape(-1, input.shape[-1]))
    if flat.dtype != torch.float32:
        flat = flat.float()
    weight, weight_id, transposed = matrix
    if weight.dtype != torch.float32:
        weight = weight.float()
    elif weight_id < 0 and is_outside(weight):
        weight = weight.clone()
    depth = depth if depth <= DEEPEST else 1
    node = None
    if mode.nodes is not None:
        leading = input.shape[0] if input.dim() > 2 else None
        node = mode.nodes.enter(weight_id, bias_id, flat, weight, base.shape, leading, transposed)
        if node is not None:
            weight_id = bias_id = -1
    pending = PendingLinear(
        mode.layers,
        flat,
        source,
        weight,
        weight_id,
        bias_id,
        base.shape,
        node,
        depth=depth,
        transposed=transposed,
    )
    mode.layers += 1
    mode.put(base, Entry(None, pending))
    return True


def _depth(entry: Entry) -> int:
    """How many pending linear layers stand behind an entry."""
    lazy = entry.lazy
    if isinstance(lazy, PendingActivation) and lazy.source is not None:
        lazy = lazy.source.lazy
    return lazy.depth if isinstance(lazy, PendingLinear) else 0


def product_with(mode: DifferenceMode, input: Tensor, delta: Tensor | None, matrix: Matrix) -> Tensor:
    """The difference of ``input @ matrix``, [P, *input.shape[:-1], out_features], now.

    Args:
        mode: Names the evaluations.
        input: [*, in_features].
        delta: Its difference, [P, *input.shape], or None.
        matrix: From :func:`matrix_of`.
    """
    mode.perturb_itself(matrix.weight_id)
    flat = input.reshape(-1, input.shape[-1]).float()
    if delta is not None:
        delta = delta.to(mode.compute_dtype).reshape(mode.evaluations, *flat.shape)
    result = ops.perturbed_linear(
        flat,
        delta,
        matrix.weight.float(),
        mode.directions,
        mode.signed_eps,
        weight_id=matrix.weight_id,
        dtype=mode.compute_dtype,
        transposed=matrix.transposed,
    )
    return result.reshape(mode.evaluations, *input.shape[:-1], result.shape[-1])


def fused(mode: DifferenceMode, left: Tensor, right: Tensor) -> Tensor | None:
    """The difference of ``left @ right``, where one of them is a trained matrix; None otherwise.

    [P, *shape] for every factor of two or more dimensions that no batch of the other one repeats.
    """
    if min(left.dim(), right.dim()) < 2 or left.numel() == 0 or right.numel() == 0:
        return None
    symbol = symbol_of(mode, right)
    batch = left.shape[:-2]
    if symbol is not None and np.broadcast_shapes(batch, right.shape[:-2]) == batch:
        matrix = matrix_of(mode, right)
        if matrix is not None:
            return product_with(mode, left, mode.difference(left), matrix)
    matrix = matrix_of(mode, left) if symbol_of(mode, left) is not None and left.dim() == 2 else None
    if matrix is None:
        return None
    delta = mode.difference(right)
    return product_with(mode, right.mT, None if delta is None else delta.mT, matrix.turned).mT
