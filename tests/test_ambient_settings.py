"""Torch's global settings, default dtype and device among them, change no bit of what the library computes.

Each program takes two steps inside a setting and one after it: what a step remembers must serve the next one,
wherever that is taken.
"""

from functools import cache

import numpy as np
import pytest
import step_programs
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton.testing.ambient import AMBIENT

pytestmark = pytest.mark.usefixtures("one_thread")


FEATURES = np.random.default_rng(0).standard_normal((3, 5))


def differences_of(layer, x):
    params = list(layer.parameters())
    return zo.differences(lambda: layer(x).square().sum(), params, zo.Directions(0, 0, 4, "gaussian"), 1e-3)


MODEL, (X, _) = step_programs.network(), step_programs.batch()
FUNCTIONS = {
    "nzk.expected": lambda: zo.nzk.expected(FEATURES, num_directions=4),
    "nzk.empirical": lambda: zo.nzk.empirical(FEATURES, num_directions=2, num_draws=64).mean,
    "nzk.evolve": lambda: zo.nzk.evolve(FEATURES[:, 0], FEATURES[:, 1], FEATURES @ FEATURES.T, 0.01, [1, 5]),
    "nzk.ntk": lambda: zo.nzk.ntk(MODEL, X),
    "nzk.empirical_model": lambda: (
        zo.nzk.empirical_model(lambda: MODEL(X), MODEL.parameters(), num_draws=16).mean
    ),
    "sample": lambda: zo.sample(zo.Directions(1, 2, 3, "sphere"), 0, (5, 4)),
}
LAYERS = {
    "ZOLinear": (lambda: zo.ZOLinear(12, 5, activation="relu"), (6, 12)),
    "ZOConv2d": (lambda: zo.ZOConv2d(2, 3, 3, activation="gelu"), (2, 2, 6, 6)),
    "ZOMLP": (lambda: zo.ZOMLP([12, 8, 3]), (6, 12)),
    "attention": (lambda: nn.TransformerEncoderLayer(12, 2, 16, dropout=0.0, batch_first=True), (2, 4, 12)),
    "recurrent": (lambda: Last(nn.LSTM(12, 4, batch_first=True)), (2, 4, 12)),
    "pooling": (lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.MaxPool2d(2), nn.GroupNorm(1, 3)), (2, 2, 6, 6)),
}


class Last(nn.Module):
    """The output of a recurrent layer."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x)[0]


def steps(make, folder, setting):
    folder.mkdir()
    torch.manual_seed(5)
    program = make(folder)
    with setting():
        program.step()
        program.step()
    program.step()
    program.close()
    return program.state()


@pytest.mark.parametrize("name", step_programs.PROGRAMS)
@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_steps_are_the_same_bits(name, engine, tmp_path):
    make = step_programs.PROGRAMS[name]
    with zo.use_engine(engine):
        expected = steps(make, tmp_path / "plain", torch.no_grad)
        found = {key: steps(make, tmp_path / key, setting) for key, setting in AMBIENT.items()}
    assert [key for key, state in found.items() if state != expected] == []


FEW = step_programs.zosgd(momentum=0.9, directions=2)
"""Along two directions alone: Triton's interpreter takes its time."""


@cache
def triton_s_steps(folder):
    """Outside of any setting."""
    return steps(FEW, folder / "plain", torch.no_grad)


@pytest.mark.parametrize("setting", AMBIENT)
def test_triton_s_steps_are_the_same_bits(setting, tmp_path, tmp_path_factory):
    with zo.use_engine("triton"):
        expected = triton_s_steps(tmp_path_factory.getbasetemp())
        assert steps(FEW, tmp_path / "inside", AMBIENT[setting]) == expected


@pytest.mark.parametrize("name", FUNCTIONS)
@pytest.mark.parametrize("setting", AMBIENT)
def test_functions_give_the_same_bits(name, setting):
    expected = np.asarray(FUNCTIONS[name]())
    with AMBIENT[setting]():
        found = FUNCTIONS[name]()
    assert np.array_equal(np.asarray(found), expected)


@pytest.mark.parametrize("name", LAYERS)
def test_differences_of_layers_are_the_same_bits(name):
    make, shape = LAYERS[name]
    torch.manual_seed(2)
    layer, x = make(), torch.randn(shape)
    expected = differences_of(layer, x)
    for setting in AMBIENT.values():
        with setting():
            found = differences_of(layer, x)
        assert all(torch.equal(one, other) for one, other in zip(found, expected, strict=True))


def test_autocast_is_the_closure_s_own():
    model, (x, y) = step_programs.network(), step_programs.batch()
    opt = zo.ZOSGD(model.parameters(), lr=0.1, directions=8, momentum=0.9, aggregator="align")
    seen = []

    def closure():
        out = model(x)
        seen.append(out.dtype)
        return F.cross_entropy(out, y)

    with torch.autocast("cpu"):
        opt.measure(closure)
    assert seen == [torch.bfloat16]


@pytest.mark.parametrize("make", [step_programs.zosgd(momentum=0.9), step_programs.logged])
def test_autocast_around_the_move_changes_no_bit(make, tmp_path):
    states = []
    for cast in (False, True):
        (tmp_path / str(cast)).mkdir()
        torch.manual_seed(5)
        program = make(tmp_path / str(cast))
        for number in range(2):
            coefficients = torch.linspace(-1, 1, 8) * (number + 1)
            with torch.autocast("cpu", enabled=cast):
                program.owners[1].apply(coefficients)
        program.close()
        states.append(program.state())
    assert states[0] == states[1]
