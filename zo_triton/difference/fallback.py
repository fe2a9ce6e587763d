"""Functions without a rule: f(a + δ) − f(a) on all evaluations at once, with one warning a function.

Subtracting two function values cancels, so it's done in float64 where the function takes it; the result then
keeps about ten digits at ε = 1e-6, for twice the memory and time of float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.overrides import resolve_name
from torch.utils._pytree import tree_flatten, tree_unflatten

from zo_triton.difference.errors import MissingRuleError
from zo_triton.difference.random_state import RandomState

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_ROUNDING = 2**-6
"""Relative to the largest result; bfloat16's own is 2⁻⁹."""

_warned: set[Any] = set()


def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """Runs a function that has no rule."""
    if not mode.carries(args, kwargs):
        return function(*args, **kwargs)
    before = RandomState.capture(mode.signed_eps.device)
    versions = {
        id(leaf): _version(leaf) for leaf in tree_flatten((args, kwargs))[0] if isinstance(leaf, Tensor)
    }
    base = function(*args, **kwargs)

    def compute(mode: DifferenceMode, base: Any, /, *args: Any, **kwargs: Any) -> Any:
        return difference(mode, base, function, args, kwargs, before, versions)

    return mode.apply(compute, base, function, args, kwargs)


def name_of(function: Callable) -> str:
    """The name a user knows the function by, such as ``torch.nn.functional.gelu``."""
    return resolve_name(function) or getattr(function, "__qualname__", None) or repr(function)


def difference(
    mode: DifferenceMode,
    base: Any,
    function: Callable,
    args: tuple,
    kwargs: dict,
    before: RandomState | None = None,
    versions: dict[int, int] | None = None,
) -> Any:
    """The difference of a function's result, or one for each of a tuple of results.

    Args:
        mode: Supplies the arguments' differences.
        base: The function's base result.
        function: The function.
        args: Its positional arguments.
        kwargs: Its keyword arguments.
        before: torch's random state before the base result was computed.
        versions: id → version counter of each tensor argument before the base result was computed.

    Returns:
        What a rule returns; None where the result holds no floating-point tensor.
    """
    results = [base] if isinstance(base, Tensor) else list(base) if isinstance(base, (list, tuple)) else []
    floating = [isinstance(each, Tensor) and each.is_floating_point() for each in results]
    if not any(floating):
        return None
    if any(isinstance(each, Tensor) and each.layout is not torch.strided for each in results):
        raise ValueError(
            f"{name_of(function)} gives a sparse tensor that depends on the trained parameters, whose difference "
            "can't be held; use dense tensors (a sparse factor that holds no parameter is fine), or wrap the "
            "closure in zo.BlackBox to evaluate it direction by direction."
        )
    _announce(mode, function)
    leaves, structure = tree_flatten((args, kwargs))
    carried: dict[int, Tensor] = {}
    changed = set()
    for position, leaf in enumerate(leaves):
        if not isinstance(leaf, Tensor):
            continue
        its_difference = mode.difference(leaf)
        if versions and versions.get(id(leaf)) != _version(leaf):
            changed.add(position)
        if its_difference is not None:
            mode.reserve(leaf.numel())
            carried[position] = its_difference
    if not changed.isdisjoint(carried):
        raise ValueError(
            f"{name_of(function)} changes a tensor in place that depends on the trained parameters; use a "
            "form that returns a new tensor."
        )
    mode.reserve(
        max(each.numel() for each, is_floating in zip(results, floating, strict=True) if is_floating)
    )

    def evaluate(dtype: torch.dtype | None, *moved: Tensor) -> list[Tensor]:
        filled = [leaf if position in carried else _fixed(leaf, dtype, position in changed)
                  for position, leaf in enumerate(leaves)]  # fmt: skip
        for position, value in zip(carried, moved, strict=True):
            filled[position] = value
        again_args, again_kwargs = tree_unflatten(filled, structure)
        again = function(*again_args, **again_kwargs)
        again = [again] if isinstance(again, Tensor) else list(again)
        return [each for each, is_floating in zip(again, floating, strict=True) if is_floating]

    bases = [leaves[position] for position in carried]
    known = [each for each, is_floating in zip(results, floating, strict=True) if is_floating]
    found = iter(
        _subtract(
            name_of(function), evaluate, known, bases, list(carried.values()), before, mode.signed_eps.device
        )
    )
    differences = [next(found) if is_floating else None for is_floating in floating]
    return differences[0] if isinstance(base, Tensor) else differences


def _subtract(
    name: str,
    evaluate: Callable,
    known: Sequence[Tensor],
    bases: Sequence[Tensor],
    differences: Sequence[Tensor],
    before: RandomState | None,
    device: torch.device,
) -> list[Tensor]:
    """f(a + δ) − f(a) for each result: by vmap in float64, else one by one, else in the base's dtype.

    An attempt counts only if it finds the base's own results, ``known``, once more: functions are met that vmap
    or another dtype takes for something else, or that draw other numbers then.
    """
    after = RandomState.capture(device)

    def once(dtype: torch.dtype | None, batched: bool) -> list[Tensor]:
        moved = [
            base.to(dtype or base.dtype) + torch.nn.functional.pad(delta, (0, 0) * base.dim() + (1, 0)).to(
                dtype or base.dtype
            )
            for base, delta in zip(bases, differences, strict=True)
        ]  # fmt: skip
        if batched:
            if before is not None:
                before.restore()
            every = torch.func.vmap(lambda *each: tuple(evaluate(dtype, *each)), randomness="same")(*moved)
        else:
            rows = []
            for row in range(moved[0].shape[0]):
                if before is not None:
                    before.restore()
                rows.append(evaluate(dtype, *[each[row].clone() for each in moved]))  # at its memory's start
            every = tuple(torch.stack(column) for column in zip(*rows, strict=True))
        if batched:
            if before is not None:
                before.restore()
            last = evaluate(dtype, *[each[-1].clone() for each in moved])
            _check_same(name, [each[-1] for each in every], last)
        _check_same(name, [each[0] for each in every], known)
        return [each[1:] - each[:1] for each in every]

    attempts = ((torch.float64, True), (torch.float64, False), (None, False))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            for dtype, batched in attempts[:-1]:
                try:
                    return once(dtype, batched)
                except Exception:
                    continue
            return once(*attempts[-1])
    finally:
        after.restore()


def _check_same(name: str, found: Sequence[Tensor], expected: Sequence[Tensor]) -> None:
    """Refuses results that are others by more than the base's rounding explains.

    Raises:
        ValueError: They are; what is subtracted would not be the function's.
    """
    for each, one in zip(found, expected, strict=True):
        scale = float(one.nan_to_num(0, 0, 0).abs().max()) if one.numel() else 0.0
        if not torch.allclose(
            each.to(one.dtype), one, rtol=_ROUNDING, atol=_ROUNDING * scale, equal_nan=True
        ):
            raise ValueError(
                f"{name} has no difference rule, and its values can't be subtracted either: evaluated again it "
                "gives another result, because it draws numbers, or reads memory that is not its arguments' own; "
                "write it with other functions, or wrap the closure in zo.BlackBox to evaluate it direction by "
                "direction."
            )


def _announce(mode: DifferenceMode, function: Callable) -> None:
    name = name_of(function)
    if mode.strict:
        raise MissingRuleError(
            f"zo_triton has no difference rule for {name} and strict=True; write it with functions that have "
            "one, or pass strict=False to subtract its values."
        )
    if function not in _warned:
        _warned.add(function)
        warnings.warn(
            f"zo_triton has no difference rule for {name}; its values are subtracted in float64, which is "
            "slower and less accurate. strict=True refuses it.",
            UserWarning,
            stacklevel=2,
        )


def _fixed(leaf: Any, dtype: torch.dtype | None, changed: bool) -> Any:
    """An argument that carries nothing, in the evaluation's dtype; a copy if the function writes to it."""
    if not isinstance(leaf, Tensor):
        return leaf
    if dtype is not None and leaf.is_floating_point():
        return leaf.to(dtype, copy=changed)
    return leaf.clone() if changed else leaf


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
