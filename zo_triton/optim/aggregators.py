"""From projected gradients c_k to the coefficients a_k of the gradient estimate ĝ = Σ_k a_k·z_k.

z_k here is the direction as it was walked, its scale included. Every function takes the projected gradients,
[K] float32, and a function that computes the directions' Gram matrix [K, K] float64 when it is called, and
returns [K] float32 coefficients. One direction (K = 1) is a case of each, described there. A user's own function of
this form can be passed wherever a name can.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TypeAlias

import torch
from torch import Tensor

Aggregator: TypeAlias = Callable[[Tensor, Callable[[], Tensor]], Tensor]


def average(projected: Tensor, gram: Callable[[], Tensor]) -> Tensor:
    """The unbiased estimator, a_k = c_k/K: E ĝ is the gradient of the smoothed loss."""
    return projected / projected.numel()


def normalized(projected: Tensor, gram: Callable[[], Tensor]) -> Tensor:
    """FZOO's step, a_k = c_k/(K·std(c)): its length does not depend on the gradient's.

    ε cancels: a_k = ΔL_k/(K·std(ΔL)). FZOO (arXiv 2506.09034) writes c_k/(K·std(L_k)) instead, so its
    learning rate is ours times ε. The deviation is the sample's (K - 1 in the denominator). Where it does not
    exist or is zero (one direction, or all c_k equal) the root mean square stands in for it, and if that is
    zero too, every coefficient is zero.
    """
    count = projected.numel()
    spread = projected.std() if count > 1 else projected.new_zeros(())
    spread = torch.where(spread > 0, spread, projected.square().mean().sqrt())
    return torch.where(spread > 0, projected / (spread * count), torch.zeros_like(projected))


def ranked(projected: Tensor, gram: Callable[[], Tensor]) -> Tensor:
    """Evolution strategies' centred ranks, a_k = r_k/K with r_k from -1/2 (least c) to 1/2 (greatest).

    Only the order of the c_k counts, so one outlier can't rule a step. Equal values share their mean rank.
    One direction is ranked against the unmoved weights, whose c is 0: it gets half its sign.
    """
    count = projected.numel()
    if count == 1:
        return projected.sign() / 2
    _, place, sizes = projected.unique(return_inverse=True, return_counts=True)
    # Integers would be divided in torch's default dtype.
    ranks = sizes.cumsum(0) - (sizes.to(projected.dtype) + 1) / 2
    return (ranks[place] / (count - 1) - 0.5) / count


def best(projected: Tensor, gram: Callable[[], Tensor]) -> Tensor:
    """Only the direction of the steepest slope, up or down, counts, undivided; the first of equals.

    This is the parameter-space run of arXiv 2603.21169, which draws 100 directions a step and keeps one.
    """
    chosen = projected.abs().argmax(0, keepdim=True)
    return torch.zeros_like(projected).scatter_(0, chosen, projected.gather(0, chosen))


def align(projected: Tensor, gram: Callable[[], Tensor]) -> Tensor:
    """Least squares onto the K directions, a = G⁺c: ĝ is the gradient's projection on their span.

    From arXiv 2509.15552. ĝ has the measured slope along every direction; with K ≥ d directions it is the
    gradient. Its length is about √(K/d) of the gradient's, where the average's is about √(d/K): it wants a
    larger learning rate. Eigenvalues of G below K·2⁻²³ of the largest (float32's resolution, which the c_k
    have) count as zero. One direction gives c/|z|².
    """
    values, vectors = torch.linalg.eigh(gram())
    keep = values > values[-1] * (projected.numel() * 2.0**-23)
    inverse = torch.where(keep, 1.0 / torch.where(keep, values, 1.0), 0.0)
    return (vectors @ (inverse * (vectors.T @ projected.double()))).to(projected.dtype)


AGGREGATORS: dict[str, Aggregator] = {
    function.__name__: function for function in (average, normalized, ranked, best, align)
}
"""Every aggregator by its name; a new one is a function here, listed."""

BOUNDED = ("average", "normalized", "ranked", "best")
"""Those whose coefficients are finite where all slopes are; the others invert a matrix."""


def get_aggregator(aggregator: str | Aggregator) -> Aggregator:
    """The aggregator of this name, or a user's own, whose results are checked.

    Raises:
        ValueError: There is none of this name.
    """
    if callable(aggregator):
        return partial(_checked, aggregator)
    if aggregator not in AGGREGATORS:
        raise ValueError(
            f"unknown aggregator {aggregator!r}; choose one of {tuple(AGGREGATORS)}, or pass a function of "
            "(projected, gram)."
        )
    return AGGREGATORS[aggregator]


def aggregator_name(aggregator: str | Aggregator) -> str:
    """What a record calls it: its name, a function's with its module's."""
    if isinstance(aggregator, str):
        return aggregator
    named = aggregator if hasattr(aggregator, "__qualname__") else type(aggregator)
    return f"{named.__module__}.{named.__qualname__}"


def _checked(function: Aggregator, projected: Tensor, gram: Callable[[], Tensor]) -> Tensor:
    """What a user's function returns, if it is coefficients.

    Raises:
        TypeError: It is no tensor of real numbers.
        ValueError: There are not K of them, or one is NaN or infinite.
    """
    result, name = function(projected, gram), aggregator_name(function)
    if not isinstance(result, Tensor) or not result.is_floating_point():
        raise TypeError(
            f"the aggregator {name} returned {getattr(result, 'dtype', type(result).__name__)}; it must return the "
            "coefficients as a floating-point tensor, [K]."
        )
    if result.shape != projected.shape:
        raise ValueError(
            f"the aggregator {name} returned shape {tuple(result.shape)}; it must return one coefficient a "
            f"direction, here {tuple(projected.shape)}."
        )
    if not bool(result.isfinite().all()):
        raise ValueError(
            f"the aggregator {name} returned a NaN or an infinity for the slopes {projected.tolist()}; guard what "
            "it divides by, or return 0 for a direction that is to be left out."
        )
    return result.to(projected)
