"""Kernels of any torch model, measured as training measures them: from differences along random directions."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference import differences
from zo_triton.directions import Directions
from zo_triton.distributions import DISTRIBUTIONS
from zo_triton.nzk.arrays import COUPLINGS, KERNELS, check_choice, check_count
from zo_triton.nzk.estimation import Accumulator, Estimate, vectors_per_draw

TOGETHER = 256
"""Directions that one call evaluates; their Gram matrix has the square of it."""


def empirical_model(
    closure: Callable[[], Tensor],
    params: Iterable[Tensor],
    distribution: str = "gaussian",
    coupling: str = "shared",
    num_directions: int = 1,
    kernel: str = "nzk",
    num_draws: int = 1_000,
    seed: int = 0,
    eps: float = 1e-3,
    rank: int | None = None,
) -> Estimate:
    """Monte Carlo mean of K̂ (arXiv 2603.21169) with ∇f·z replaced by (f(θ+εz) − f(θ−εz))/2ε.

    The differences come from :func:`zo_triton.differences`, without subtracting two outputs, so they hold at
    any ε: a tiny one gives the kernel of the gradients, a larger one that of the smoothed model, kinks
    included. The Gram matrices come from :func:`zo_triton.gram`; no vector is stored. Draw number b uses the
    field's directions at step 0 that :func:`zo_triton.nzk.empirical` uses for these shapes.

    Args:
        closure: Returns the outputs f, any shape; taken as a vector [n].
        params: The trained parameters; position i is tensor id i of the field.
        distribution: A name of the field's.
        coupling: ``shared`` (ζ = z) or ``independent``; without meaning for the ``update`` kernel.
        num_directions: K.
        kernel: ``nzk`` or ``update``.
        num_draws: How many kernels are averaged, at least 2.
        seed: As :class:`zo_triton.Directions` takes it.
        eps: Smoothing radius ε > 0.
        rank: Of the directions' factors, or None for full rank.

    Returns:
        The mean [n, n] and its standard errors; the differences behind them are float32.

    Raises:
        TypeError: An argument is of the wrong kind.
        ValueError: An argument is out of range, or the closure depends on no parameter.

    Example:
        >>> import torch
        >>> from zo_triton.nzk import empirical_model
        >>> model, x = torch.nn.Linear(2, 1, bias=False), torch.tensor([[3.0, 4.0]])
        >>> measured = empirical_model(lambda: model(x).squeeze(1), model.parameters(), kernel="update")
        >>> bool(abs(measured.z_scores([[25.0]])).max() < 4)
        True
    """
    # All draws are directions of one step, and of that orthogonal ones are not independent.
    known = [name for name, about in DISTRIBUTIONS.items() if not about.orthogonal]
    check_choice(distribution, "distribution", known)
    check_choice(coupling, "coupling", COUPLINGS)
    check_choice(kernel, "kernel", KERNELS)
    count = check_count(num_directions, "num_directions")
    draws = check_count(num_draws, "num_draws", 2)
    tensors = list(params)
    vectors = vectors_per_draw(coupling, count, kernel)
    every = Directions(seed, 0, draws * vectors, distribution, rank=rank)
    step = max(1, TOGETHER // vectors) * vectors
    total: Accumulator | None = None
    for start in range(0, every.num, step):
        some = every[start : start + step]
        slopes, grams = _measure(closure, tensors, some, eps, vectors, kernel == "nzk")
        total = total or Accumulator(slopes.shape[2])
        left, right = (slopes, slopes) if kernel == "update" else (slopes[:, -count:], slopes[:, :count])
        total.add(left, None if grams is None else grams[:, -count:, :count], right)
    assert total is not None
    return total.estimate()


def _measure(
    closure: Callable[[], Tensor],
    params: list[Tensor],
    directions: Directions,
    eps: float,
    vectors: int,
    with_gram: bool,
) -> tuple[Tensor, Tensor | None]:
    """Slopes along the directions, [B, vectors, n], and each draw's Gram matrix, [B, vectors, vectors]."""
    ids = range(len(params))
    # Checks the parameters, so it comes before anything that reads them.
    _, found = differences(closure, params, directions, eps, sides=2)
    slopes = ((found[:, 0] - found[:, 1]).double() / (2 * eps)).cpu()
    slopes = slopes.reshape(directions.num // vectors, vectors, -1)
    if not with_gram:
        return slopes, None
    gram = ops.gram(params, ids, directions)
    scales = ops.direction_scales(params, ids, directions)
    if scales is not None:
        gram = gram * torch.outer(scales, scales).double()
    blocks = gram.cpu().view(len(slopes), vectors, len(slopes), vectors)
    return slopes, blocks.diagonal(dim1=0, dim2=2).permute(2, 0, 1).contiguous()
