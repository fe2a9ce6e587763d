"""One sample of a torch operator under differences, against float64 at the moved weights."""

from __future__ import annotations

import warnings
from itertools import islice

import torch
from torch.utils._pytree import tree_flatten, tree_unflatten

import zo_triton as zo
from zo_triton.difference import MissingRuleError, fallback

DIRECTIONS = zo.Directions(seed=3, step=0, num=2, distribution="gaussian")
EPS = 1e-3
TOLERANCE = 1e-3
"""Of the largest difference; where float32 makes more of subtracted losses, twice that: the sample is no better."""

CARRIED, ANNOUNCED, REFUSED, CONSTANT, WRONG = "carried", "announced", "refused", "constant", "wrong"


def samples(op, number):
    """Up to ``number`` float32 samples of an entry of ``op_db``; none where it takes no float32 on a CPU."""
    if torch.float32 not in op.supported_dtypes("cpu"):
        return []
    torch.manual_seed(0)
    return list(islice(op.sample_inputs("cpu", torch.float32), number))


def outcome(function, sample):
    """How one call fares: a word from above, and what it is based on.

    Args:
        function: An operator, method or in-place form of it.
        sample: Its arguments; the first float tensor among them is trained.
    """
    leaves, structure = tree_flatten((sample.input, sample.args, sample.kwargs))
    place = next(
        (
            i
            for i, leaf in enumerate(leaves)
            if _is_tensor(leaf) and leaf.dtype == torch.float32 and leaf.numel()
        ),
        None,
    )
    if place is None or leaves[place].layout != torch.strided:
        return CONSTANT, "takes no dense float tensor"
    param = leaves[place].detach().clone(memory_format=torch.contiguous_format)

    def loss(theta, wide):
        filled = [_widened(leaf) if wide else leaf for leaf in leaves]
        filled = [leaf.detach().clone() if _is_tensor(leaf) else leaf for leaf in filled]
        filled[place] = theta * 1
        input, args, kwargs = tree_unflatten(filled, structure)
        torch.manual_seed(0)
        results = [each for each in tree_flatten(function(input, *args, **kwargs))[0] if _is_tensor(each)]
        return sum((_weighted(each) for each in results), torch.zeros(()))

    try:
        with torch.no_grad():
            base = loss(param, False)
    except Exception as error:
        return CONSTANT, f"torch refuses it: {error}"
    found, announced = None, False
    fallback._warned.clear()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            _, found = zo.differences(lambda: loss(param, False), [param], DIRECTIONS, EPS)
        except MissingRuleError as error:
            return REFUSED, str(error)
        except (ValueError, TypeError) as error:
            if "carries no difference" not in str(error):
                if "differences" in str(error) or "in place" in str(error):
                    return REFUSED, str(error)
                return WRONG, f"{type(error).__name__}: {error}"
        except Exception as error:
            return WRONG, f"{type(error).__name__}: {error}"
    announced = any("zo_triton" in str(each.message) for each in caught)
    with torch.no_grad():
        zs = zo.sample(DIRECTIONS, 0, param.shape)
        try:
            expected = torch.stack(_subtracted(lambda theta: loss(theta, True), param.double(), zs.double()))
        except Exception as error:
            return CONSTANT, f"no float64: {error}"
        direct = torch.stack(_subtracted(lambda theta: loss(theta, False), param, zs)).double()
    found = torch.zeros(len(expected)) if found is None else found
    error, plain = (float((each.double() - expected).abs().nan_to_num(0.0).max()) for each in (found, direct))
    allowed = max(TOLERANCE * float(expected.abs().max()), 1e-9 * float(base.abs()), 2 * plain)
    if error > allowed:
        return WRONG, f"{found.tolist()} instead of {expected.tolist()}{', announced' if announced else ''}"
    return (ANNOUNCED if announced else CARRIED), f"{error:.1e}, allowed {allowed:.1e}"


def _subtracted(loss, theta, zs):
    base = loss(theta)
    return [loss(theta + EPS * z) - base for z in zs]


def _weighted(result):
    """A sum with unequal weights, so that sums that cancel are seen."""
    if result.layout != torch.strided:
        result = result.to_dense()
    if result.is_complex():
        result = torch.view_as_real(result.resolve_conj())
    if not result.is_floating_point():
        return torch.zeros(())
    weights = 1 + torch.arange(result.numel()).reshape(result.shape).cos().to(result) / 2
    return (result * weights).sum()


def _is_tensor(leaf):
    return isinstance(leaf, torch.Tensor)


def _widened(leaf):
    if _is_tensor(leaf) and leaf.dtype == torch.float32:
        return leaf.double()
    if _is_tensor(leaf) and leaf.dtype == torch.complex64:
        return leaf.to(torch.complex128)
    return leaf
