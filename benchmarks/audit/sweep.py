"""One sample of a torch operator under differences, against float64 at the moved weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._pytree import tree_flatten, tree_unflatten

import zo_triton as zo
from zo_triton.difference import MissingRuleError, fallback

DIRECTIONS = zo.Directions(seed=3, step=0, num=2, distribution="gaussian")
EPS = 1e-3
TOLERANCE = 1e-3
"""Of the largest difference; where float32 makes more of subtracted losses, twice that: the sample is no better."""

ROUNDING = 1e-7
"""Of the value: where it is saturated, float32 can't tell less from nothing."""

NONE_CARRIED = ("carries no difference", "used none of")
BY_NAME = ("differences", "in place", "would change a trained parameter")
"""Parts of messages: the value does not depend on the parameters; and what is refused by name."""

CARRIED, ANNOUNCED, REFUSED, CONSTANT, WRONG = "carried", "announced", "refused", "constant", "wrong"


def outcome(function: Callable, sample: Any, who: str = "first", flat: bool = False) -> tuple[str, str]:
    """How one call fares: a word from above, and what it is based on.

    Args:
        function: An operator, or another spelling of it.
        sample: Its arguments.
        who: Which float tensors among them depend on trained parameters: the ``first``, the ``others``, or
            ``all``; ``itself`` is the first as the parameter itself.
        flat: Make the float tensors 0-dim.
    """
    leaves, structure = tree_flatten((sample.input, sample.args, sample.kwargs))
    if flat:
        leaves = [_flattened(leaf) for leaf in leaves]
    every = [i for i, leaf in enumerate(leaves) if _is_float(leaf)]
    places = {"first": every[:1], "itself": every[:1], "others": every[1:], "all": every}[who]
    if not places:
        return CONSTANT, "takes no dense float tensor"
    params = [leaves[place].detach().clone(memory_format=torch.contiguous_format) for place in places]

    def loss(thetas: list[Tensor], wide: bool) -> Tensor:
        filled = [_widened(leaf) if wide else leaf for leaf in leaves]
        filled = [leaf.detach().clone() if isinstance(leaf, Tensor) else leaf for leaf in filled]
        for place, theta in zip(places, thetas, strict=True):
            filled[place] = theta if who == "itself" else theta * 1
        input, args, kwargs = tree_unflatten(filled, structure)
        torch.default_generator.manual_seed(0)  # torch.manual_seed prints the stack for each kind of device
        results = [
            each for each in tree_flatten(function(input, *args, **kwargs))[0] if isinstance(each, Tensor)
        ]
        return sum((_weighted(each) for each in results), torch.zeros(()))

    try:
        with torch.no_grad():
            base = loss([param.clone() for param in params], False)
    except Exception as error:
        return CONSTANT, f"torch refuses it: {error}"
    with torch.no_grad():
        zs = [zo.sample(DIRECTIONS, i, param.shape) for i, param in enumerate(params)]
        try:
            expected = torch.stack(_subtracted(loss, params, zs, True))
            direct = torch.stack(_subtracted(loss, params, zs, False)).double()
        except Exception as error:
            return CONSTANT, f"torch refuses the moved values, or float64: {error}"
    found = None
    fallback._warned.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _, found = zo.differences(lambda: loss(params, False), params, DIRECTIONS, EPS)
        except MissingRuleError as error:
            return REFUSED, str(error)
        except (ValueError, TypeError) as error:
            if not any(words in str(error) for words in NONE_CARRIED):
                if any(words in str(error) for words in BY_NAME):
                    return REFUSED, str(error)
                return WRONG, f"{type(error).__name__}: {error}"
        except Exception as error:
            return WRONG, f"{type(error).__name__}: {error}"
    announced = any("zo_triton" in str(each.message) for each in caught)
    found = torch.zeros(len(expected)) if found is None else found
    off, plain = (float((each.double() - expected).abs().nan_to_num(0.0).max()) for each in (found, direct))
    allowed = max(TOLERANCE * float(expected.abs().max()), ROUNDING * float(base.abs()), 2 * plain)
    if off > allowed:
        return WRONG, f"{found.tolist()} instead of {expected.tolist()}{', announced' if announced else ''}"
    return (ANNOUNCED if announced else CARRIED), f"{off:.1e}, allowed {allowed:.1e}"


def _subtracted(loss: Callable, params: list[Tensor], zs: list[Tensor], wide: bool) -> list[Tensor]:
    dtype = torch.float64 if wide else torch.float32
    base = loss([param.to(dtype, copy=True) for param in params], wide)
    return [
        loss([param.to(dtype) + EPS * z[k].to(dtype) for param, z in zip(params, zs, strict=True)], wide)
        - base
        for k in range(DIRECTIONS.num)
    ]


def _weighted(result: Tensor) -> Tensor:
    """A sum with unequal weights, so that sums that cancel are seen."""
    if result.layout != torch.strided:
        result = result.to_dense()
    if result.is_complex():
        result = torch.view_as_real(result.resolve_conj())
    if not result.is_floating_point():
        return torch.zeros(())
    weights = 1 + torch.arange(result.numel()).reshape(result.shape).cos().to(result) / 2
    return (result * weights).sum()


def _is_float(leaf: Any) -> bool:
    return (
        isinstance(leaf, Tensor)
        and leaf.dtype == torch.float32
        and leaf.layout == torch.strided
        and leaf.numel() > 0
    )


def _flattened(leaf: Any) -> Any:
    return leaf.detach().reshape(-1)[0] if _is_float(leaf) else leaf


def _widened(leaf: Any) -> Any:
    if isinstance(leaf, Tensor) and leaf.dtype == torch.float32:
        return leaf.double()
    if isinstance(leaf, Tensor) and leaf.dtype == torch.complex64:
        return leaf.to(torch.complex128)
    return leaf
