"""Rules that run together as programs of rows, against their formulas on tensors and against float64."""

import math

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, relative_error
from test_rules import CASES

import zo_triton as zo
from zo_triton.difference.chains import pending

DIRECTIONS = zo.Directions(seed=1, step=2, num=3, distribution="gaussian")


@pytest.fixture
def programs(monkeypatch):
    """Counts the programs that run."""
    counted = []
    resolve = pending.PendingChain.resolve

    def resolved(self, mode):
        counted.append(self)
        return resolve(self, mode)

    monkeypatch.setattr(pending.PendingChain, "resolve", resolved)
    return counted


def on_cpu(function, params, eps, **options):
    with zo.use_engine("cpu"):
        return zo.differences(lambda: function(*params), params, DIRECTIONS, eps, strict=True, **options)[1]


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("eps", [1e-5, 1e-2, 0.3])
@pytest.mark.parametrize("name", CASES)
def test_rules_on_the_cpu_engine(name, eps, sides):
    """Every rule of the table, in a program or not."""
    function, params = CASES[name]
    found = on_cpu(function, params, eps, sides=sides)
    expected = expected_differences(function, params, DIRECTIONS, eps, sides)
    assert relative_error(found, expected) < 2e-5 or expected.abs().max() == 0
