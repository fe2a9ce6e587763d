"""What stays infinite on the way to a finite value: as in float64, where it is left out or hidden too."""

import math
import warnings

import pytest
import torch
from difference_oracle import expected_differences, relative_error

import zo_triton as zo

INF = math.inf
HIDDEN = torch.tensor(
    [[True, False, True, False, True], [True] * 5, [False] * 5, [False, True, True, True, True]]
)
ALIVE = ~HIDDEN.all(1)
WEIGHTS = torch.randn(4, 5, generator=torch.Generator().manual_seed(0))


def hidden(w):
    """Scores of a mask that hides a whole row and parts of others."""
    return w.masked_fill(HIDDEN, -INF)


def online_softmax(w):
    """Block by block, with the largest score so far; a row's second block is hidden."""
    largest, total = w.new_full((3, 1), -INF), w.new_zeros(3, 1)
    for scores in hidden(w)[ALIVE].split(2, 1):
        now = torch.maximum(largest, scores.amax(1, keepdim=True))
        total = total * torch.exp(largest - now) + torch.exp(scores - now).sum(1, keepdim=True)
        largest = now
    return (largest + total.log()).sum()


def chain_of_states(w):
    """The forward recursion of a hidden Markov model that starts in one state and moves one on at most."""
    alpha = torch.cat([w.new_zeros(1), w.new_full((4,), -INF)])
    for step in w:
        moved = torch.cat([alpha.new_full((1,), -INF), alpha[:-1]])
        alpha = torch.logaddexp(alpha, moved) + step
    return torch.logsumexp(alpha, 0)


def recursion_by_matrices(w):
    """The same, as a product in the semiring of logarithms, with moves that are not allowed."""
    stays = torch.eye(5, dtype=torch.bool)
    moves = w.new_zeros(5, 5).masked_fill(~(stays | stays.roll(1, 1)), -INF)
    alpha = w.new_full((5,), -INF).index_fill(0, torch.tensor([0]), 0.0)
    for step in w:
        alpha = torch.logsumexp(alpha[:, None] + moves, 0) + step
    return alpha[:4].sum()


CASES = {
    "the largest of none": lambda w: torch.where(ALIVE, hidden(w).amax(1), 0.0).sum(),
    "the values of max": lambda w: hidden(w).max(1).values[ALIVE].sum(),
    "log of a sum of none": lambda w: torch.logsumexp(hidden(w), 1)[ALIVE].sum(),
    "log of nothing, and back": lambda w: torch.relu(w).log().exp().sum(),
    "log of zeros": lambda w: (w * ~HIDDEN).abs().log().clamp(min=-20).sum(),
    "sorted scores": lambda w: hidden(w).sort(1, descending=True).values[ALIVE, :1].sum(),
    "the second largest": lambda w: torch.exp(hidden(w).topk(2, 1).values).sum(),
    "running logarithms": lambda w: torch.logcumsumexp(hidden(w), 1)[:, -1][ALIVE].sum(),
    "running maxima": lambda w: hidden(w).cummax(1).values.exp().sum(),
    "pooled scores": lambda w: torch.nn.functional.max_pool1d(hidden(w), 2).exp().sum(),
    "powers of infinities": lambda w: (1 + hidden(w) ** 2).reciprocal().sum(),
    "distances": lambda w: torch.exp(-torch.hypot(hidden(w), w)).sum(),
    "log-gamma": lambda w: torch.exp(-torch.lgamma(hidden(w).neg())).sum(),
    "a single number": lambda w: (
        torch.relu(w.amin()).log().exp() + torch.relu(w.amin()).log().mul(2).exp() + w.sum()
    ),
    "online softmax": online_softmax,
    "states": chain_of_states,
    "states by matrices": recursion_by_matrices,
}


@pytest.mark.parametrize("engine", ["reference", "cpu"])
@pytest.mark.parametrize("name", CASES)
def test_as_in_float64(name, engine):
    directions, function = zo.Directions(1, 2, 6), CASES[name]
    assert bool(function(WEIGHTS).isfinite())
    with zo.use_engine(engine):
        for sides, chunk in ((1, None), (2, None), (1, 2)):
            _, found = zo.differences(
                lambda: function(WEIGHTS), [WEIGHTS], directions, 1e-3, sides, chunk=chunk, strict=True
            )
            expected = expected_differences(function, [WEIGHTS], directions, 1e-3, sides)
            assert relative_error(found, expected) < 2e-4, (sides, chunk)


def test_infinite_values_that_stay_do_not_change():
    _, found = zo.differences(lambda: hidden(WEIGHTS).amax(1), [WEIGHTS], zo.Directions(1, 2, 3), 1e-3)
    assert torch.all(found[:, ~ALIVE] == 0)
    assert torch.all(found[:, ALIVE] != 0)


def test_what_becomes_finite_is_infinitely_far():
    weight, directions = torch.zeros(1), zo.Directions(0, 0, 8)
    _, found = zo.differences(lambda: torch.relu(weight).log(), [weight], directions, 1e-3)
    z = zo.sample(directions, 0, weight.shape)
    assert torch.equal(found, torch.where(z > 0, INF, 0.0))


# Name: (the function, the end of its domain)
ENDS = {"log": (torch.log, 0.0), "log1p": (torch.log1p, -1.0), "power": (lambda w: (w * 2) ** -0.5, 0.0)}


@pytest.mark.parametrize("name", ENDS)
def test_what_ends_to_be_a_number_is_not_mended(name):
    """A step leads from the end of a domain out of it, and a later function is infinite too."""
    (function, end), directions = ENDS[name], zo.Directions(0, 0, 8)
    weight, other = torch.full((1,), end), torch.zeros(1)

    def loss():
        return (3 * function(weight).abs()).reciprocal() + torch.relu(other - 1).log().exp()

    _, found = zo.differences(loss, [weight, other], directions, 1e-3)
    outwards = zo.sample(directions, 0, weight.shape) < 0
    assert bool(outwards.any())
    assert bool(found[outwards].isnan().all())


def runs_of(function, steps):
    """How often the closure runs in each of so many steps."""
    weight = torch.nn.Parameter(WEIGHTS.clone())
    optimizer, counts = zo.ZOSGD([weight], lr=1e-3, directions=4), []
    for _ in range(steps):
        calls = []

        def closure(calls=calls):
            calls.append(None)
            return function(weight)

        optimizer.step(closure)
        counts.append(len(calls))
    return counts


def test_the_next_step_knows():
    assert runs_of(CASES["log of nothing, and back"], 3) == [2, 1, 1]
    assert runs_of(lambda w: hidden(w).exp().sum(), 3) == [1, 1, 1]


def test_what_cannot_be_mended_is_told_and_left_out():
    def edge(w):  # beyond the end of its domain along half of the directions
        return torch.sqrt(w[0, 0] - WEIGHTS[0, 0]) + w.sum()

    with pytest.warns(RuntimeWarning, match="left out"):
        assert runs_of(edge, 1) == [2]


def test_buffers_are_as_after_one_run():
    class Counting(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(WEIGHTS.clone())
            self.register_buffer("runs", torch.zeros(()))

        def forward(self):
            self.runs += 1
            return torch.logsumexp(hidden(self.weight), 1)[ALIVE].sum() + torch.rand(())

    model = Counting()
    torch.manual_seed(5)
    loss = zo.ZOSGD(model.parameters(), lr=1e-3, directions=4).step(model)
    after = torch.rand(())
    torch.manual_seed(5)
    expected = torch.logsumexp(hidden(WEIGHTS), 1)[ALIVE].sum() + torch.rand(())
    assert model.runs == 1
    assert loss == pytest.approx(float(expected), rel=1e-6)
    assert after == torch.rand(())


def test_with_noise_on_activations():
    torch.manual_seed(0)
    layer, x = torch.nn.Linear(5, 5), torch.randn(4, 5)
    optimizer = zo.ZOSGD(layer.parameters(), lr=0.1, directions=8, perturb="activations")

    def losses():
        return torch.where(ALIVE, torch.logsumexp(layer(x).masked_fill(HIDDEN, -INF), 1), 0.0)

    with warnings.catch_warnings():
        warnings.simplefilter("error")
        first = float(optimizer.step(losses))
        for _ in range(20):
            last = float(optimizer.step(losses))
    assert last < first


def test_a_sample_of_infinite_loss_is_left_out_as_ever():
    layer, x = torch.nn.Linear(5, 5), torch.randn(4, 5)
    optimizer = zo.ZOSGD(layer.parameters(), lr=0.1, directions=8, perturb="activations")

    def losses():
        lost = torch.where(ALIVE, 0.0, INF) + 0 * layer(x).sum(1)
        return lost + torch.logsumexp(layer(x).masked_fill(HIDDEN, -INF), 1).exp()

    for _ in range(2):
        with pytest.warns(RuntimeWarning, match="1 of 4 samples"):
            assert math.isfinite(optimizer.step(losses))
