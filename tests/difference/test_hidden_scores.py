"""A mask of −∞ hides whole rows from a maximum, a sum of exponentials or an order, and what comes later goes on."""

import math

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import of_rule

SCORES = torch.randn(3, 6, generator=torch.Generator().manual_seed(3))
HIDDEN = torch.tensor([[1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1]], dtype=torch.bool)


def hidden(a):
    return a.masked_fill(HIDDEN, -math.inf)


def running_softmax(a):
    """Of blocks, as flash attention has it: a later block may be hidden whole, and so may the first."""
    most, total, seen = a.new_full((3, 1), -math.inf), a.new_zeros(3, 1), a.new_zeros(3, 1)
    for block in hidden(a).split(2, 1):
        larger = torch.maximum(most, block.amax(1, keepdim=True))
        still = larger.masked_fill(larger == -math.inf, 0.0)
        shares = (block - still).exp()
        total = total * (most - still).exp() + shares.sum(1, keepdim=True)
        seen = seen * (most - still).exp() + (shares * shares.cumsum(0)).sum(1, keepdim=True)
        most = larger
    return seen / total


def viterbi(a):
    """The best path, over transitions of which some are forbidden: no state has one at first."""
    best = hidden(a)[:, 0]
    for step in hidden(a).unbind(1)[1:]:
        best = torch.maximum((best[:, None] + step).max(0).values, step)
    return best.exp()


FUNCTIONS = {
    "running softmax": running_softmax,
    "best path": viterbi,
    "maximum": lambda a: torch.maximum(torch.maximum(hidden(a), hidden(2 * a)), 0.1 * a),
    "minimum": lambda a: torch.minimum(torch.minimum(-hidden(a), -hidden(2 * a)), 0.1 * a),
    "max": lambda a: torch.maximum(hidden(a)[:, :4].max(1).values, a[:, 5]),
    "amin": lambda a: torch.minimum((-hidden(a))[:, :4].amin(1), a[:, 5]),
    "cummax": lambda a: hidden(a).cummax(1).values.exp(),
    "cummin": lambda a: (-(-hidden(a)).cummin(1).values).exp(),
    "logcumsumexp": lambda a: hidden(a).logcumsumexp(1).exp(),
    "logsumexp of nothing": lambda a: torch.logaddexp(hidden(a)[:, :4].logsumexp(1), a[:, 5]),
    "logaddexp of nothing": lambda a: torch.logaddexp(torch.logaddexp(hidden(a), hidden(2 * a)), 0.1 * a),
    "topk": lambda a: hidden(a).topk(2, 1).values.softmax(1).square().sum(1),
    "sort": lambda a: hidden(a).sort(1).values.exp(),
    "median": lambda a: hidden(a).median(1).values.exp() + a.sum(1),
    "median of all": lambda a: hidden(a).median().exp() + a.sum(),
    "sliding maximum": lambda a: F.max_pool1d(hidden(a)[None], 2, 2)[0].exp(),
    "adaptive maximum": lambda a: F.adaptive_max_pool1d(hidden(a)[None], 3)[0].exp(),
}


@pytest.mark.parametrize("eps", [1e-3, 0.5])
@pytest.mark.parametrize("name", FUNCTIONS)
def test_what_is_hidden_stays_so(name, eps):
    assert of_rule(FUNCTIONS[name], (SCORES,), eps, sides=2)[2] < 3e-6
