"""Which layers to perturb at their outputs and which at their weights: the smaller error of the batch's gradient.

One direction perturbs everything at once, and each element's estimate takes all that the others do to the loss for
noise. Layer l receives, in its squared error, what it is exposed to times what others send; with one overlap V
for all pairs (:mod:`zo_triton.overlap`), N samples, and sums over samples n

* l at its nodes: N⁻²·Σ_n A_nl·S_nm from every layer m. A is the sum over l's nodes of their squared inputs, 1 for
  the bias among them, since a node's error reaches the weights times its inputs. S is |g_nm|², the squared slopes
  of the sample's own loss at m's nodes or, if m is perturbed at its weights, of those;
* l at its weights: d_l·N⁻²·Σ_n |g_nm|² from m at its nodes, each sample with noise of its own; d_l·|∇_m L|² from m
  at its weights, of which the batch's loss sees the mean slope alone.

An element sends itself nothing: of l's own share N⁻²·Σ_n (2·Σ_i T_i·g_i² - |∇_l ℓ_n|²), T_i the squared inputs of
node i, or |∇_l L|², is taken off again (own derivation, confirmed by simulation). So a layer with many weights but
few nodes is better perturbed at these, and each layer's best place depends on the others'.

Before any gradient is known, :func:`choose` counts on equal gradients: |∇_l ℓ_n|² alike for all layers, N/2 times
|∇_l L|². On networks of 2 to 5 layers at several stages of training its choices have the least error of all
assignments, or nearly so; the figures are in docs/activations.md.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import combinations, product
from typing import NamedTuple

import numpy as np

from zo_triton.overlap import mean_overlap

_Error = Callable[[np.ndarray], tuple[float, float]]

ENUMERATED = 10
"""Up to so many layers every assignment is tried."""


class Layer(NamedTuple):
    """What is known of a layer before any gradient is.

    Attributes:
        nodes: Elements of its output a sample, all applications together; 0 for parameters that no linear or
            convolution layer owns.
        weights: Elements of its trained parameters.
        input_square: Mean over its nodes of the squared inputs that the node's weights meet, plus 1 for a trained
            bias. The choice depends on it: take it from the forward pass.
    """

    nodes: int
    weights: int
    input_square: float = 1.0


class Squares(NamedTuple):
    """A layer's squared sums a sample, measured or expected; [N] arrays, or [1] where all samples are alike.

    Attributes:
        nodes: D, elements of its output a sample.
        weights: d, elements of its parameters.
        inputs: A = Σ_i T_i, T_i the squared inputs of node i.
        slopes: |g_n|², of the sample's own loss.
        gradients: |∇ℓ_n|², of its parameters.
        own: Σ_i T_i·g_i².
        mean: |∇L|² of its parameters.
    """

    nodes: int
    weights: int
    inputs: np.ndarray
    slopes: np.ndarray
    gradients: np.ndarray
    own: np.ndarray
    mean: float


class Choice(NamedTuple):
    """What :func:`choose` found.

    Attributes:
        at_weights: For each layer whether its weights are perturbed; if not, its nodes are.
        error: The expected squared error of the batch's gradient over its squared length.
    """

    at_weights: tuple[bool, ...]
    error: float


def choose(
    layers: Sequence[Layer],
    samples: int,
    num_directions: int,
    order: int | None = None,
    ratio: float | None = None,
) -> Choice:
    """The assignment with the least expected error; among equals the one whose elements disturb one another least.

    Args:
        layers: In any order; those without nodes are perturbed at their weights.
        samples: N.
        num_directions: K.
        order: M of ``hadamard`` directions, None for independent signs. Columns are taken to be successive.
        ratio: ρ, the mean of |∇ℓ_n|² over |∇L|², between 1 and about N; None for N/2, which lies within a factor
            of 4 of all that was measured. It depends on the batch's noise and grows while training proceeds.

    Returns:
        The choice. Of up to :data:`ENUMERATED` layers with nodes it is the best of all assignments; of more, one
        that no change of one or two layers improves.

    Raises:
        ValueError: There is no layer, a count or a square is out of range, or ``ratio`` is below 1.

    Example:
        >>> from zo_triton.optim.where_to_perturb import Layer, choose
        >>> mlp = [Layer(32, 25120, 785.0), Layer(10, 330, 17.0)]
        >>> choose(mlp, samples=64, num_directions=16, order=16).at_weights
        (False, False)
        >>> convolutions = [Layer(4704, 156, 26.0), Layer(1600, 2416, 65.0)]
        >>> others = [Layer(120, 48120, 50.0), Layer(84, 10164, 20.0), Layer(10, 850, 17.0)]
        >>> choose(convolutions + others, samples=64, num_directions=16).at_weights
        (True, True, False, False, False)
    """
    _check(layers, samples, ratio)
    spread = max(1.0, samples / 2) if ratio is None else ratio
    expected = [_expected(layer, spread) for layer in layers]
    movable = [place for place, layer in enumerate(layers) if layer.nodes]
    table = costs(expected, samples)
    sizes = np.array([[layer.weights for layer in layers], [layer.nodes for layer in layers]])
    total = sum(one.mean for one in expected)

    def error(at_nodes: np.ndarray) -> tuple[float, float]:
        way, every = at_nodes.astype(int), np.arange(len(layers))
        disturbance = float(table[way[:, None], way, every[:, None], every].sum()) / total
        overlap = mean_overlap(int(sizes[way, every].sum()), num_directions, order)
        return overlap * disturbance, disturbance

    best = (
        _every(error, movable, len(layers))
        if len(movable) <= ENUMERATED
        else _descend(error, movable, len(layers))
    )
    return Choice(tuple(bool(value) for value in ~best), error(best)[0])


def relative_error(
    squares: Sequence[Squares],
    at_nodes: Sequence[bool],
    num_directions: int,
    order: int | None = None,
    scales: Sequence[float] | np.ndarray | None = None,
) -> float:
    """E|∇̂L - ∇L|²/|∇L|² of one assignment, from what was measured.

    Exact where all pairs of elements overlap alike: for independent signs, and for ``hadamard`` up to M elements
    in the mean over the choice of rows. Beyond, the mean overlap of successive columns stands for each.

    Args:
        squares: Of each layer.
        at_nodes: Of each layer, whether its nodes are perturbed; if not, its weights are.
        num_directions: K.
        order: M of ``hadamard`` directions, None for independent signs.
        scales: σ of each layer: it is perturbed by ε·σ, and its estimate divided by σ. None for 1.

    Returns:
        The error; 0 where every estimate is exact.

    Raises:
        ValueError: Lengths differ, or a layer without nodes is to be perturbed there.
    """
    if len(at_nodes) != len(squares) or (scales is not None and len(scales) != len(squares)):
        raise ValueError(f"there are {len(squares)} layers, so at_nodes and scales must hold as many values.")
    empty = [place for place, one in enumerate(squares) if at_nodes[place] and not one.nodes]
    if empty:
        raise ValueError(f"layers {empty} have no nodes; perturb their weights.")
    way, every = np.array(at_nodes, dtype=int), np.arange(len(squares))
    samples = max(len(one.gradients) for one in squares)
    cost = costs(squares, samples)[way[:, None], way, every[:, None], every]
    if scales is not None:
        scale = np.asarray(scales, dtype=np.float64)
        cost = cost * (scale / scale[:, None]) ** 2
    elements = sum(one.nodes if there else one.weights for one, there in zip(squares, at_nodes, strict=True))
    overlap = mean_overlap(elements, num_directions, order)
    return overlap * float(cost.sum()) / sum(one.mean for one in squares)


def costs(squares: Sequence[Squares], samples: int) -> np.ndarray:
    """The squared error that layer l has from layer m for an overlap of 1: float64 [2, 2, L, L].

    The first two indices say how l and how m are perturbed, 0 at the weights, 1 at the nodes.
    """
    count = len(squares)
    found = np.empty((2, 2, count, count))
    for (to, receiver), (of, sender) in product(enumerate(squares), repeat=2):
        slopes = np.mean(sender.slopes) / samples
        found[0, 0, to, of] = receiver.weights * sender.mean
        found[0, 1, to, of] = receiver.weights * slopes
        found[1, 0, to, of] = np.mean(receiver.inputs * sender.gradients) / samples
        found[1, 1, to, of] = np.mean(receiver.inputs * sender.slopes) / samples
    for place, one in enumerate(squares):
        found[0, 0, place, place] -= one.mean
        found[1, 1, place, place] += np.mean(one.gradients - 2 * one.own) / samples
    return found


def balanced_scales(layers: Sequence[Layer], at_nodes: Sequence[bool]) -> np.ndarray:
    """σ of each layer, (D·input_square)^¼ at nodes and d^¼ at weights: what each is exposed to, to the power ¼.

    A layer perturbed by ε·σ_l, its estimate divided by σ_l, is exposed to others by 1/σ_l² and sends σ_l². The
    sum of (exposure_l/σ_l²)·(σ_m²·sent_m) is least for σ_l⁴ = exposure_l/sent_l (Cauchy and Schwarz), which is this
    where all layers have equal squared slopes. All σ = 1 is what a plain step does. With these σ all layers at
    their nodes were within a factor of 2.6 of the best assignment's error, on six networks at four stages.

    Returns:
        [L] float64.
    """
    exposed = [
        layer.nodes * layer.input_square if there else layer.weights
        for layer, there in zip(layers, at_nodes, strict=True)
    ]
    return np.maximum(np.array(exposed, dtype=np.float64), 1.0) ** 0.25


def _expected(layer: Layer, spread: float) -> Squares:
    """Every sample's gradient has length 1, and the mean's square is 1/ρ; a node's slope comes times its inputs."""
    one, square = np.ones(1), layer.input_square
    if not layer.nodes:
        return Squares(0, layer.weights, 0 * one, 0 * one, one, 0 * one, 1 / spread)
    return Squares(layer.nodes, layer.weights, layer.nodes * square * one, one / square, one, one, 1 / spread)


def _every(error: _Error, movable: list[int], count: int) -> np.ndarray:
    tried = []
    for ways in product((True, False), repeat=len(movable)):
        at_nodes = np.zeros(count, dtype=bool)
        at_nodes[movable] = ways
        tried.append(at_nodes)
    return min(tried, key=error)


def _descend(error: _Error, movable: list[int], count: int) -> np.ndarray:
    """The better of two local minima, from all nodes and from all weights; each step is the best of its kind."""
    moves = [[place] for place in movable], [list(pair) for pair in combinations(movable, 2)]
    found = []
    for start in (True, False):
        current = np.zeros(count, dtype=bool)
        current[movable] = start
        size = 0
        while size < len(moves):
            tried = []
            for move in moves[size]:
                other = current.copy()
                other[move] = ~other[move]
                tried.append(other)
            nearest = min(tried, key=error)
            improved = error(nearest) < error(current)
            current, size = (nearest, 0) if improved else (current, size + 1)
        found.append(current)
    return min(found, key=error)


def _check(layers: Sequence[Layer], samples: int, ratio: float | None) -> None:
    if not layers:
        raise ValueError("layers is empty: there is nothing to perturb.")
    if samples < 1:
        raise ValueError(f"samples must be at least 1, got {samples}.")
    if ratio is not None and not ratio >= 1:
        raise ValueError(
            f"ratio must be at least 1, got {ratio}: no mean is longer than all that it averages."
        )
    for layer in layers:
        if layer.nodes < 0 or layer.weights < 1 or not layer.input_square > 0:
            raise ValueError(
                f"a layer needs nodes ≥ 0, weights ≥ 1 and input_square > 0, got {layer}; leave out layers without "
                "trained weights, and give one whose inputs are all 0 a small square."
            )
