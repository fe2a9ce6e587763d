"""Complex numbers and Fourier transforms: a complex difference is a complex tensor beside a complex base.

Most of these functions are linear over the real numbers and do to a difference what they do to the base.
Where an argument is complex, only the rules named here apply, since those of real functions compare, round and
take logarithms; every other function goes by subtraction in complex128.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from zo_triton.difference.registry import COMPLEX, HANDLERS, handler_of, handler_of_any, named, register
from zo_triton.difference.rules.elementwise import operand, spread
from zo_triton.difference.rules.multilinear import jointly, telescope

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

TRANSFORMS = (
    "fft", "ifft", "rfft", "irfft", "hfft", "ihfft", "fft2", "ifft2", "rfft2", "irfft2", "hfft2", "ihfft2",
    "fftn", "ifftn", "rfftn", "irfftn", "hfftn", "ihfftn", "fftshift", "ifftshift",
)  # fmt: skip
PARTS = ("imag", "view_as_real", "view_as_complex", "conj", "conj_physical", "adjoint", "H", "mH")
LINEAR = (
    "sum", "mean", "cumsum", "diag", "trace", "diag_embed", "index_add", "scatter_add", "index_copy",
    "resolve_conj", "resolve_neg", "neg", "negative", "cat", "concat", "concatenate", "stack",
)  # fmt: skip
MULTILINEAR = (
    "mul", "multiply", "__mul__", "__rmul__", "matmul", "mm", "bmm", "mv", "__matmul__", "einsum", "dot",
    "inner", "outer", "ger", "vdot", "tensordot", "kron",
)  # fmt: skip
SHARED = (
    "view", "reshape", "flatten", "unflatten", "squeeze", "unsqueeze", "ravel", "view_as", "reshape_as",
    "contiguous", "clone", "__deepcopy__", "detach", "data", "real", "to", "type", "float", "double", "cpu", "cuda",
    "T", "t", "mT", "transpose", "swapaxes", "swapdims", "permute", "expand", "expand_as", "broadcast_to",
    "__getitem__", "index_select", "select", "narrow", "chunk", "split", "tensor_split", "unbind",
    "split_with_sizes", "flip", "roll", "rot90", "repeat", "tile", "repeat_interleave", "movedim", "moveaxis",
    "gather", "take", "take_along_dim", "masked_select", "diagonal", "tril", "triu", "add", "__add__",
    "__radd__", "sub", "subtract", "__sub__", "__rsub__", "rsub", "div", "divide", "true_divide",
    "__truediv__", "__div__", "__rtruediv__", "__rdiv__", "where", "masked_fill",
)  # fmt: skip
"""Functions whose rule for real tensors never asks for an order of numbers, so it holds for complex ones."""

for _name in SHARED:
    for _function in named(_name):
        register([_function], HANDLERS[_function], COMPLEX)
register(named(*LINEAR), handler_of_any(jointly), COMPLEX)
register(named(*MULTILINEAR), handler_of_any(telescope), COMPLEX)


def _of_one(
    mode: DifferenceMode, function: Callable, base: Tensor, input: Tensor, *args: Any, **kwargs: Any
) -> Any:
    """A function that is linear in its first argument, the only one that carries a difference."""
    if mode.carries(args, kwargs):
        return NotImplemented
    delta = mode.difference(input)
    assert delta is not None
    delta = delta.resolve_conj().resolve_neg().to(torch.complex64 if input.is_complex() else torch.float32)
    if delta.stride(-1) != 1:  # pairs are viewed as complex numbers only where they lie side by side
        delta = delta.contiguous()
    return torch.func.vmap(lambda each: function(each, *args, **kwargs))(delta)


def _of_signals(axes: int) -> Callable:
    """The same for a function of one signal, of so many axes, or of a batch of them: vmap has no rule for it."""

    def compute(
        mode: DifferenceMode, function: Callable, base: Tensor, input: Tensor, *args: Any, **kwargs: Any
    ) -> Any:
        if mode.carries(args, kwargs):
            return NotImplemented
        delta = mode.difference(input)
        assert delta is not None
        delta = delta.to(torch.complex64 if input.is_complex() else torch.float32)
        signals = delta.reshape(-1, *delta.shape[delta.dim() - axes :])
        return function(signals, *args, **kwargs).reshape(mode.evaluations, *base.shape)

    return compute


for _table in (HANDLERS, COMPLEX):
    register(named(*TRANSFORMS, owner=torch.fft), handler_of_any(_of_one), _table)
    register(named(*PARTS), handler_of_any(_of_one), _table)
    register(named("stft"), handler_of_any(_of_signals(1)), _table)
    register(named("istft"), handler_of_any(_of_signals(2)), _table)
register(named("resolve_conj", "resolve_neg"), handler_of_any(_of_one))


def _magnitude(mode: DifferenceMode, base: Tensor, input: Tensor) -> Tensor:
    """|a + δ| − |a| = (2·Re(ā·δ) + |δ|²)/(|a + δ| + |a|)."""
    delta = operand(mode, base, input)
    assert delta is not None
    above = 2 * (input.conj() * delta).real + delta.real.square() + delta.imag.square()
    return above / ((input + delta).abs() + base).clamp_min(torch.finfo(base.dtype).tiny)


register(named("abs", "absolute", "__abs__"), handler_of(_magnitude), COMPLEX)


def _polar(mode: DifferenceMode, base: Tensor, abs: Tensor, angle: Tensor) -> Tensor:
    """Δ(r·e^{iφ}) = e^{iφ}·((r + Δr)·(e^{iΔφ} − 1) + Δr)."""
    dr, dphi = operand(mode, base, abs), operand(mode, base, angle)
    moved = torch.zeros((), dtype=torch.float32, device=base.device)
    if dphi is not None:
        turn = torch.complex(-2 * (dphi / 2).sin().square(), dphi.sin())
        moved = (abs if dr is None else abs + dr) * turn
    if dr is not None:
        moved = moved + dr
    return spread(mode, base, moved * torch.complex(angle.cos(), angle.sin()))


def _complex(mode: DifferenceMode, base: Tensor, real: Tensor, imag: Tensor) -> Tensor:
    """Δ(a + ib) = Δa + iΔb."""
    zero = torch.zeros((), dtype=torch.float32, device=base.device)
    parts = [operand(mode, base, each) for each in (real, imag)]
    return spread(mode, base, torch.complex(*(zero if part is None else part.float() for part in parts)))


register(named("polar"), handler_of(_polar))
register(named("complex"), handler_of(_complex))
