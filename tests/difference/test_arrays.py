"""Arrays and raw memory inside a closure: what is written there comes after what was computed before."""

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zo_triton as zo
from zo_triton.difference import differences
from zo_triton.difference.base_pass import Recorder

GENERATOR = torch.Generator().manual_seed(0)
WEIGHT = torch.randn(8, 8, generator=GENERATOR)
INPUTS = torch.randn(4, 8, generator=GENERATOR)
STATE = torch.rand(8, generator=GENERATOR) + 1
DIRECTIONS = zo.Directions(seed=1, step=2, num=6)
EPS = 1e-3


def chain(weight, state):
    h = torch.tanh(INPUTS.to(weight) @ weight) * state
    state.numpy()[...] = 5.0
    return (h * 2).sum()


def chain_begun_after_the_array(weight, state):
    array = state.numpy()
    h = torch.tanh(INPUTS.to(weight) @ weight) * state
    array += 1
    return (h * 2).sum()


def layer(weight, state):
    h = F.linear(state.view(1, 8), weight)
    np.asarray(state)[...] = 3.0
    return h.square().sum()


def activation_of_a_layer(weight, state):
    array = np.asarray(state)
    h = F.gelu(F.linear(state.view(1, 8), weight))
    array *= 2
    return h.square().sum()


def view_of_a_layer(weight, state):
    h = F.linear(state.view(1, 8), weight).view(2, 4)
    np.from_dlpack(state)
    state.numpy()[:] = 3
    return h.square().sum()


def raw_memory(weight, state):
    h = torch.exp(weight @ state / 8) * state
    memory = state.untyped_storage()
    memory.copy_(torch.arange(8).to(state).untyped_storage())
    return h.sum()


def array_that_is_only_read(weight, state):
    h = torch.exp(weight @ state / 8) * state
    return h.sum() * float(state.numpy().sum())


WRITERS = {
    function.__name__: function
    for function in (
        chain, chain_begun_after_the_array, layer, activation_of_a_layer, view_of_a_layer, raw_memory,
        array_that_is_only_read,
    )
}  # fmt: skip


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("chunk", [None, 2])
def test_what_was_computed_before_a_write_stays(name, chunk):
    function, state = WRITERS[name], STATE.clone()
    _, found = differences(lambda: function(WEIGHT, state), [WEIGHT], DIRECTIONS, EPS, chunk=chunk)
    base = function(WEIGHT.double(), STATE.double().clone())
    z = zo.sample(DIRECTIONS, 0, WEIGHT.shape).double()
    moved = [function(WEIGHT.double() + EPS * each, STATE.double().clone()) for each in z]
    expected = torch.stack(moved) - base
    assert (found - expected).abs().max() <= 1e-5 * expected.abs().max()
    once = STATE.clone()
    function(WEIGHT, once)
    assert torch.equal(state, once)


@pytest.mark.parametrize(("name", "kept"), [("layer", False), ("array_that_is_only_read", True)])
def test_an_array_costs_the_tape_only_if_it_is_written_to(name, kept, monkeypatch):
    tapes = []
    finished = Recorder.finished
    monkeypatch.setattr(
        Recorder, "finished", lambda self, value: tapes.append(finished(self, value)) or tapes[-1]
    )
    state = STATE.clone()
    differences(lambda: WRITERS[name](WEIGHT, state), [WEIGHT], DIRECTIONS, EPS, chunk=2)
    assert (tapes[0] is not None) == kept
