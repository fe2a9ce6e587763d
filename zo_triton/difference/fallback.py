"""Functions without a rule: f(a + δ) − f(a) on all evaluations at once, with one warning a function.

Subtracting two function values cancels, so it's done in float64 where the function takes it; the result then
keeps about ten digits at ε = 1e-6, for twice the memory and time of float32.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import torch
from torch import Tensor
from torch.overrides import resolve_name
from torch.utils._pytree import tree_flatten, tree_map_only, tree_unflatten

from zo_triton._warn import warn
from zo_triton.difference.captures import captures_differences
from zo_triton.difference.errors import MissingRuleError
from zo_triton.difference.random_state import RandomState
from zo_triton.difference.writes import make_ready, written_by

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

_ROUNDING = 2**-6
"""Relative to the largest result; bfloat16's own is 2⁻⁹."""

CAPTURED = "captures one in a function that it is handed, where none can follow"

_warned: set[Any] = set()


def handle(mode: DifferenceMode, function: Callable, args: tuple, kwargs: dict) -> Any:
    """Runs a function that has no rule."""
    if captures_differences(mode, args):
        refuse(function, CAPTURED)
    targets = written_by(function, args, kwargs)
    if targets:
        make_ready(mode, targets)
    if not mode.carries(args, kwargs):
        return function(*args, **kwargs)
    targets = [each for each in targets if not mode.carries((each,))]
    before = mode.once(RandomState.capture, mode.signed_eps.device)
    held = mode.once(_copies, targets)
    versions = versions_of((args, kwargs))
    base = mode.once(function, *args, **kwargs)

    def compute(mode: DifferenceMode, base: Any, /, *args: Any, **kwargs: Any) -> Any:
        if targets:  # what they held says what the function made of them
            replaced = {id(target): copy for target, copy in zip(targets, held, strict=True)}
            args, kwargs = tree_map_only(Tensor, lambda each: replaced.get(id(each), each), (args, kwargs))
        return difference(mode, base, function, args, kwargs, before, versions)

    return mode.apply(compute, base, function, args, kwargs)


def _copies(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Of tensors that carry no difference."""
    return [each.detach().clone() for each in tensors]


def versions_of(arguments: Any) -> dict[int, int]:
    """Id → version counter of each tensor among the arguments."""
    return {id(leaf): _version(leaf) for leaf in tree_flatten(arguments)[0] if isinstance(leaf, Tensor)}


def name_of(function: Callable) -> str:
    """The name a user knows the function by, such as ``torch.nn.functional.gelu``."""
    name = resolve_name(function)
    if name is None:
        place, name = getattr(function, "__module__", None), getattr(function, "__qualname__", repr(function))
        name = name.replace("_VariableFunctionsClass", "torch") if place is None else f"{place}.{name}"
    return name


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
        What a rule returns; None where the result holds no floating-point or complex tensor.

    Raises:
        MissingRuleError: The mode is strict, or the result can't hold a difference.
        ValueError: The function writes to an argument that carries one, or the shape of its result changes.
    """
    if name_of(function).rpartition(".")[2].startswith("as_strided"):
        first = args[0] if args else kwargs.get("input", kwargs.get("self"))
        if not _is_whole(first):
            refuse(function, "addresses memory that no copy of it shares")
    results = [base] if isinstance(base, Tensor) else list(base) if isinstance(base, (list, tuple)) else []
    _check_holds_differences(function, base, results)
    floating = [isinstance(each, Tensor) and _is_continuous(each) for each in results]
    leaves, structure = tree_flatten((args, kwargs))
    if captures_differences(mode, leaves):
        refuse(function, CAPTURED)
    tensors = {position: leaf for position, leaf in enumerate(leaves) if isinstance(leaf, Tensor)}
    changed = {
        position
        for position, leaf in tensors.items()
        if versions and versions.get(id(leaf)) != _version(leaf)
    }
    nothing_returned = not any(floating)
    for position in changed:
        leaf = tensors[position]
        if mode.carries((leaf,)) or (nothing_returned and _is_continuous(leaf)):
            _refuse_write(function)
    if nothing_returned:
        return None
    _announce(mode, function)
    carried: dict[int, Tensor] = {}
    for position, leaf in tensors.items():
        its_difference = mode.difference(leaf)
        if its_difference is not None:
            mode.reserve(leaf.numel())
            carried[position] = its_difference
    mode.reserve(
        max(each.numel() for each, is_floating in zip(results, floating, strict=True) if is_floating)
    )

    shapes = [each.shape for each in results if isinstance(each, Tensor)]

    def evaluate(dtype: torch.dtype | None, *moved: Tensor) -> list[Tensor]:
        filled = [leaf if position in carried else _fixed(leaf, dtype, position in changed)
                  for position, leaf in enumerate(leaves)]  # fmt: skip
        for position, value in zip(carried, moved, strict=True):
            filled[position] = value
        again_args, again_kwargs = tree_unflatten(filled, structure)
        again = function(*again_args, **again_kwargs)
        again = [again] if isinstance(again, Tensor) else list(again)
        if [each.shape for each in again if isinstance(each, Tensor)] != shapes:
            refuse(function, "returns another shape when they move a little")
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
            _cast(base, dtype)
            + _cast(torch.nn.functional.pad(delta, (0, 0) * base.dim() + (1, 0)), dtype or base.dtype)
            for base, delta in zip(bases, differences, strict=True)
        ]
        if batched:
            if before is not None:
                before.restore()
            every = torch.func.vmap(lambda *each: tuple(evaluate(dtype, *each)), randomness="same")(*moved)
            if any(each.dim() == 0 or len(each) != len(moved[0]) for each in every):
                raise RuntimeError("vmap returned something else than a result for each row")
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
        # What stays infinite has not changed.
        return [torch.where(each[1:] == each[:1], 0.0, each[1:] - each[:1]) for each in every]

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


def _refuse_write(function: Callable) -> NoReturn:
    raise ValueError(
        f"{name_of(function)} changes a tensor in place that depends on the trained parameters; use a form that "
        "returns a new tensor."
    )


def refuse(function: Callable, why: str) -> NoReturn:
    """Refuses what would lose a difference, with ``strict=False`` too: subtraction is no way out."""
    raise MissingRuleError(
        f"{name_of(function)} met a tensor that depends on the trained parameters and {why}; write it with "
        "plain torch functions, or wrap the closure in zo.BlackBox to evaluate it direction by direction."
    )


def warn_once(function: Callable, message: str) -> None:
    """Warns the first time that a function does what the message says."""
    if function not in _warned:
        _warned.add(function)
        warn(message, UserWarning)


def _check_holds_differences(function: Callable, base: Any, results: Sequence[Any]) -> None:
    """Refuses results that differ with the weights and that no dense tensor of differences can go with."""
    if len(results) == 0 and any(isinstance(each, Tensor) for each in tree_flatten(base)[0]):
        refuse(function, f"returns tensors inside a {type(base).__name__}, which carry no differences")
    for each in results:
        if isinstance(each, Tensor):
            if each.is_nested:
                refuse(function, "returns a nested tensor, which holds no differences")
            if each.is_quantized:
                refuse(function, "returns a quantised tensor, which holds no differences")
            if each.layout != torch.strided and _is_continuous(each):
                refuse(function, f"returns a tensor of layout {each.layout}, which holds no differences")
        elif any(isinstance(leaf, Tensor) for leaf in tree_flatten(each)[0]):
            refuse(function, "returns tensors inside a nested structure, which carry no differences")


def _announce(mode: DifferenceMode, function: Callable) -> None:
    name = name_of(function)
    if mode.strict:
        raise MissingRuleError(
            f"zo_triton has no difference rule for {name} and strict=True; write it with functions that have "
            "one, or pass strict=False to subtract its values."
        )
    warn_once(
        function,
        f"zo_triton has no difference rule for {name}; its values are subtracted in float64, which is "
        "slower and less accurate. strict=True refuses it.",
    )


def _fixed(leaf: Any, dtype: torch.dtype | None, changed: bool) -> Any:
    """An argument that carries nothing, in the evaluation's dtype; a copy if the function writes to it."""
    if not isinstance(leaf, Tensor):
        return leaf
    cast = _cast(leaf, dtype) if _is_continuous(leaf) else leaf
    return leaf.clone() if changed and cast is leaf else cast


def _cast(tensor: Tensor, dtype: torch.dtype | None) -> Tensor:
    """The tensor in a floating-point type, or in the complex type of such parts; as it is for None."""
    if dtype is None:
        return tensor
    return tensor.to(dtype.to_complex() if tensor.is_complex() else dtype)


def _is_whole(tensor: Any) -> bool:
    """Whether a copy lies in memory as the tensor does."""
    return tensor.is_contiguous() and tensor.untyped_storage().nbytes() == tensor.nbytes


def _is_continuous(tensor: Tensor) -> bool:
    """Whether the tensor's numbers can move a little, and not only flip."""
    return tensor.is_floating_point() or tensor.is_complex()


def _version(tensor: Tensor) -> int:
    return 0 if tensor.is_inference() else tensor._version
