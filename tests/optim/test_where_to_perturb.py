"""Where to perturb, on layers made up for the purpose; tests/nzk/test_measured_squares.py has measured networks."""

from itertools import product

import numpy as np
import pytest

from zo_triton.optim import where_to_perturb
from zo_triton.optim.where_to_perturb import Layer, balanced_scales, choose, costs, relative_error

DENSE = Layer(nodes=32, weights=25120, input_square=785.0)
LAST = Layer(nodes=10, weights=330, input_square=17.0)
CONVOLUTION = Layer(nodes=4704, weights=156, input_square=26.0)
FEW = Layer(nodes=84, weights=10164, input_square=4.0)
EMBEDDING = Layer(nodes=0, weights=500)


def expected(layer: Layer, spread: float) -> where_to_perturb.Squares:
    return where_to_perturb._expected(layer, spread)


def test_many_weights_go_to_nodes_and_many_nodes_to_weights():
    assert choose([DENSE, LAST], 64, 16).at_weights == (False, False)
    assert choose([CONVOLUTION, FEW], 64, 16).at_weights == (True, False)


def test_parameters_without_nodes_are_perturbed_themselves():
    assert choose([EMBEDDING, LAST], 64, 16).at_weights[0]
    assert choose([EMBEDDING], 64, 16).at_weights == (True,)


def test_a_single_sample_needs_fewer_nodes_than_weights():
    """N = 1: nothing is averaged, and a layer by itself disturbs itself by its count of elements."""
    few, many = Layer(10, 1000), Layer(1000, 10)
    assert choose([few], 1, 1).at_weights == (False,)
    assert choose([many], 1, 1).at_weights == (True,)
    assert choose([few], 1, 4).error == pytest.approx(9 / 4)
    assert choose([many], 1, 4).error == pytest.approx(9 / 4)


def test_one_fully_connected_layer_by_hand():
    """(ρ/N)·(D-1)/K at nodes, (d-1)/K at weights."""
    layer = expected(DENSE, 20.0)
    assert costs([layer], 64)[1, 1, 0, 0] / layer.mean == pytest.approx(20 / 64 * 31)
    assert relative_error([layer], [False], 8) == pytest.approx(25119 / 8)
    assert choose([DENSE], 64, 8, ratio=20.0).error == pytest.approx(20 / 64 * 31 / 8)


def test_enough_orthogonal_directions_have_no_error():
    assert choose([DENSE, LAST], 64, 64, 64) == ((False, False), 0.0)
    assert choose([DENSE, LAST], 64, 32, 32).error > 0
    # Where either way is exact, the one whose elements disturb one another least.
    assert choose([Layer(4, 8), Layer(4, 8)], 64, 16, 16).at_weights == (False, False)


def test_the_order_matters_where_it_makes_an_assignment_exact():
    """60 nodes fit into 64 rows; with 63 parameters beside them they don't."""
    layers = [Layer(40, 4, 1.0), Layer(20, 3000, 100.0)]
    assert choose(layers, 2, 8).at_weights == (True, False)
    assert choose(layers, 2, 64, 64).error == 0.0


def test_many_layers_are_chosen_by_descent(monkeypatch):
    """The local search finds what enumeration does, on 20 lists of 7 layers of all kinds."""
    generator = np.random.default_rng(0)
    lists = [
        [
            Layer(int(nodes), int(weights), float(square))
            for nodes, weights, square in zip(
                10 ** generator.uniform(0.5, 4, 7),
                10 ** generator.uniform(1, 5, 7),
                10 ** generator.uniform(0, 3, 7),
                strict=True,
            )
        ]
        for _ in range(20)
    ]
    every = [choose(layers, 64, 16) for layers in lists]
    monkeypatch.setattr(where_to_perturb, "ENUMERATED", 0)
    found = [choose(layers, 64, 16) for layers in lists]
    worse = [one.error / best.error for one, best in zip(found, every, strict=True)]
    assert max(worse) < 1.05
    assert len({best.at_weights for best in every}) > 5


def test_the_choice_is_the_least_expected_error():
    layers = [CONVOLUTION, Layer(1600, 2416, 65.0), DENSE, LAST, EMBEDDING]
    squares = [expected(layer, 32.0) for layer in layers]
    table, total = costs(squares, 64), sum(one.mean for one in squares)
    errors = {}
    for ways in product(*((1, 0) if layer.nodes else (0,) for layer in layers)):
        places = range(5)
        summed = sum(table[ways[to], ways[of], to, of] for to in places for of in places)
        errors[ways] = summed / total / 16
    best = min(errors, key=errors.get)
    choice = choose(layers, 64, 16)
    assert choice.at_weights == tuple(way == 0 for way in best)
    assert choice.error == pytest.approx(errors[best])


def test_scales_divide_what_comes_in_and_multiply_what_goes_out():
    squares = [expected(DENSE, 32.0), expected(LAST, 32.0)]
    table = costs(squares, 1)[1, 1]
    scales = np.array([3.0, 0.5])
    wanted = sum(table[to, of] * scales[of] ** 2 / scales[to] ** 2 for to in (0, 1) for of in (0, 1))
    found = relative_error(squares, [True, True], 4, scales=scales)
    assert found == pytest.approx(wanted / sum(one.mean for one in squares) / 4)
    assert relative_error(squares, [True, True], 4, scales=7 * scales) == pytest.approx(found)


def test_balanced_scales_make_the_error_smaller():
    layers, ways = [DENSE, LAST], [True, True]
    np.testing.assert_allclose(balanced_scales(layers, [True, False]), [(32 * 785) ** 0.25, 330**0.25])
    squares = [expected(layer, 32.0) for layer in layers]
    balanced = relative_error(squares, ways, 16, scales=balanced_scales(layers, ways))
    assert balanced < 0.5 * relative_error(squares, ways, 16)


BAD = {
    "empty": (lambda: choose([], 1, 1), "layers is empty"),
    "samples": (lambda: choose([LAST], 0, 1), "samples must be at least 1, got 0"),
    "ratio": (lambda: choose([LAST], 1, 1, ratio=0.5), "ratio must be at least 1, got 0.5"),
    "directions": (lambda: choose([LAST], 1, 0), "num_directions must be at least 1"),
    "order": (lambda: choose([LAST], 1, 8, 4), "order must be a power of two"),
    "nodes": (lambda: choose([Layer(-1, 1)], 1, 1), "nodes ≥ 0"),
    "weights": (lambda: choose([Layer(1, 0)], 1, 1), "leave out layers without trained weights"),
    "square": (lambda: choose([Layer(1, 1, 0.0)], 1, 1), "give one whose inputs are all 0 a small square"),
    "no nodes": (
        lambda: relative_error([expected(EMBEDDING, 1.0)], [True], 1),
        r"layers \[0\] have no nodes",
    ),
    "scales": (lambda: relative_error([expected(LAST, 1.0)], [True], 1, scales=[1, 2]), "there are 1 layers"),
}


@pytest.mark.parametrize(("call", "match"), BAD.values(), ids=BAD)
def test_bad_input_is_refused(call, match):
    with pytest.raises(ValueError, match=match):
        call()
