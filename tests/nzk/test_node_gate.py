"""The library's steps with noise on activations, against the kernels that they realised."""

import numpy as np
import pytest
import torch

import zo_triton as zo
from zo_triton import ops
from zo_triton.nzk import check_nodes
from zo_triton.nzk.node_gate import realised_signs
from zo_triton.overlap import pair_overlap

COUNTS = [(1, "hadamard"), (3, "hadamard"), (16, "hadamard"), (5, "rademacher")]
"""16 directions make orthogonal steps of either model exact."""


@pytest.fixture(autouse=True)
def small_tensors(one_thread):
    """The tensors here are small enough for one thread."""


@pytest.mark.parametrize(("num", "distribution"), COUNTS)
def test_100_steps_of_a_linear_model(num, distribution):
    found = check_nodes(100, num, distribution=distribution)
    assert found.passed
    assert found.worst == found.errors.max() <= 2e-6
    assert found.losses[-1] < 0.1 * found.losses[0]


@pytest.mark.parametrize(("num", "distribution"), COUNTS)
def test_20_steps_of_a_network_with_a_parameter_of_no_layer(num, distribution):
    found = check_nodes(20, num, "network", distribution)
    assert found.passed
    assert found.losses[-1] < 0.9 * found.losses[0]


@pytest.mark.parametrize("model", ["linear", "network"])
def test_a_step_on_the_reference_engine(model):
    with zo.use_engine("reference"):
        assert check_nodes(1, 3, model).passed


def test_bfloat16_is_within_its_own_tolerance():
    found = check_nodes(20, compute_dtype=torch.bfloat16, tolerance=0.02)
    assert found.passed
    assert found.worst > 1e-5


def test_a_wrong_sign_turns_the_gate_red(monkeypatch):
    sample = ops.node_sample

    def flipped(*args, **kwargs):
        signs = sample(*args, **kwargs)
        signs[0, 0, 0] *= -1
        return signs

    monkeypatch.setattr("zo_triton.nzk.node_gate.ops.node_sample", flipped)
    found = check_nodes(5)
    assert not found.passed
    assert "FAILED: 5 steps" in str(found)


def test_the_fields_own_rows_have_the_predicted_overlaps():
    """Over 2 000 steps, in the mean over all differences of columns; a single one's depends on the permutation."""
    num, order, count = 5, 8, 8
    total = np.zeros((2000, count, count))
    for step in range(len(total)):
        directions = zo.Directions(3, step, num, "hadamard", order=order)
        signs, rest = realised_signs(directions, [count], 2, [(4, 3)], [])
        assert rest is None
        overlaps = np.einsum("kni,knj->nij", signs, signs) / num
        total[step] = (overlaps**2).mean(0)
    pairs = total.mean(0)[~np.eye(count, dtype=bool)]
    assert pairs.mean() == pytest.approx(pair_overlap(num, order), rel=1e-12)
    assert pairs.max() < 3 * pair_overlap(num, order)


def test_bad_input_is_refused():
    cases = [
        ("steps must be at least 1, got 0", lambda: check_nodes(0)),
        ("unknown model 'cnn'", lambda: check_nodes(1, model="cnn")),
        ("tolerance must be positive, got 0", lambda: check_nodes(1, tolerance=0)),
        ("draws signs", lambda: check_nodes(1, distribution="gaussian", lr=0.1)),
    ]
    for match, call in cases:
        with pytest.raises(ValueError, match=match):
            call()
