"""One value says how to evaluate, and refuses what no engine has, whoever makes it."""

import dataclasses
from fractions import Fraction

import numpy as np
import pytest
import torch

import zo_triton as zo
from zo_triton.difference import Evaluation

REFUSED = {
    "eps is text": ({"eps": "1e-3"}, TypeError, "eps must be a number, got '1e-3' of type str"),
    "eps is a truth value": ({"eps": True}, TypeError, "eps must be a number"),
    "eps is zero": ({"eps": 0.0}, ValueError, "eps must be positive and finite, got 0.0; 1e-4 suits most"),
    "eps is tiny": ({"eps": 1e-60}, ValueError, "eps 1e-60 is too small for float32"),
    "eps is huge": ({"eps": 1e60}, ValueError, "eps 1e.60 is too large for float32"),
    "three sides": ({"sides": 3}, ValueError, "sides must be 1 .* or 2 .*, got 3"),
    "half precision": ({"compute_dtype": torch.float16}, ValueError, "compute_dtype must be .*float16"),
    "no direction at once": ({"chunk": 0}, ValueError, "chunk must be at least 1 direction.*got 0"),
    "half a direction": ({"chunk": 0.5}, ValueError, "chunk must be at least 1 direction.*got 0.5"),
}
ENTRIES = {
    "the value": lambda settings: Evaluation(**settings),
    "zo.differences": lambda settings: zo.differences(
        _not_run, [torch.ones(3)], zo.Directions(0, 0, 2), **settings
    ),
    "zo.estimate_gradient": lambda settings: zo.estimate_gradient(
        _not_run, [torch.ones(3)], zo.Directions(0, 0, 2), **settings
    ),
    "zo.ZOSGD": lambda settings: zo.ZOSGD([torch.ones(3)], lr=0.1, **settings),
}


def _not_run():
    raise AssertionError("the closure ran")


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("name", REFUSED)
def test_every_entry_refuses_alike(name, entry):
    bad, error, message = REFUSED[name]
    with pytest.raises(error, match=message):
        ENTRIES[entry]({"eps": 1e-3, **bad})


def test_any_real_number_is_an_eps():
    assert Evaluation(np.float32(0.5), sides=2).steps == (0.5, -0.5)
    assert Evaluation(1).steps == (1.0,)


def test_slopes_divide_by_the_distance_walked():
    differences = torch.tensor([[3.0, -1.0], [1.0, 1.0]])
    assert Evaluation(0.5).slopes(differences[:, 0]).tolist() == [6.0, 2.0]
    assert Evaluation(0.5, sides=2).slopes(differences).tolist() == [4.0, 0.0]


def test_eps_may_be_any_real_number():
    half = Evaluation(Fraction(1, 2))
    assert (half.steps, half.slopes(torch.ones(1)).tolist()) == ((0.5,), [2.0])
    for huge in (10**400, float("inf")):
        with pytest.raises(ValueError, match="eps"):
            Evaluation(huge)


def test_it_can_not_change():
    with pytest.raises(dataclasses.FrozenInstanceError):
        Evaluation(1e-3).eps = 2.0
