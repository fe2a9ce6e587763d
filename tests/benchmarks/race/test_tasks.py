import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zo_triton as zo
from benchmarks.race.networks import count_parameters, make_cnn, make_mlp
from benchmarks.train.training import choose, train
from zo_triton.data import Dataset


def test_networks_are_as_small_as_zeroth_order_steps_want_them():
    assert count_parameters(make_cnn((1, 28, 28), 10, 0)) == 4330
    assert count_parameters(make_mlp((784, 32, 10), 0)) == 25450


@pytest.mark.parametrize("shape", [(1, 8, 8), (1, 28, 28), (3, 32, 32), (3, 64, 64), (2, 9, 17), (1, 1, 1)])
def test_the_cnn_takes_flattened_images_and_every_layer_has_a_rule(shape):
    model, size = make_cnn(shape, 7, seed=3), int(np.prod(shape))
    x, y = torch.randn(5, size), torch.arange(5)
    assert model(x).shape == (5, 7)
    loss, found = zo.differences(
        lambda: F.cross_entropy(model(x), y), model.parameters(), zo.Directions(0, 0, 2), 1e-3, strict=True
    )
    assert loss.isfinite()
    assert found.isfinite().all()


def test_the_seed_decides_the_first_weights():
    first, same, other = (make_cnn((1, 8, 8), 10, seed) for seed in (0, 0, 1))
    for a, b, c in zip(first.parameters(), same.parameters(), other.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)
        assert a.abs().max() <= 1


@pytest.mark.parametrize(("size", "pools"), [(8, 0), (32, 0), (33, 1), (64, 1)])
def test_only_large_feature_maps_are_averaged(size, pools):
    kinds = [type(layer) for layer in make_cnn((1, size, size), 10, 0)]
    assert kinds.count(torch.nn.AdaptiveAvgPool2d) == pools


@pytest.mark.parametrize("name", ["mnist-mlp", "mnist-cnn", "cifar-cnn", "tiny-imagenet-cnn"])
def test_digits_stand_in_for_data_that_is_not_there_and_it_is_said(name, tmp_path, monkeypatch):
    monkeypatch.setenv("ZO_TRITON_DATA", str(tmp_path))
    run = train(choose(name, directions=4, steps=2))
    assert "digits instead" in run.note
    assert str(tmp_path) in run.note
    assert [now.step for now in run.progress] == [1, 2]


def test_a_cnn_learns_digits_by_zeroth_order_steps(tmp_path, monkeypatch):
    monkeypatch.setenv("ZO_TRITON_DATA", str(tmp_path))
    run = train(choose("mnist-cnn", "zo-adam", directions=64, steps=60, lr=0.02))
    last = list(run.progress)[-1]
    assert last.accuracy > 0.6


def test_standardised_inputs():
    generator = np.random.default_rng(0)
    x = (5 + 3 * generator.standard_normal((500, 6))).astype(np.float32)
    y = np.zeros(500, np.int64)
    data = Dataset("made", x, y, x[:50] + 1, y[:50]).standardized()
    np.testing.assert_allclose(data.train_x.mean(0), 0, atol=1e-5)
    assert data.train_x.std() == pytest.approx(1, rel=1e-5)
    np.testing.assert_allclose(data.test_x - data.train_x[:50], 1 / (x - x.mean(0)).std(), rtol=1e-4)
    constant = Dataset("flat", np.ones((4, 2), np.float32), y[:4], np.ones((4, 2), np.float32), y[:4])
    assert np.isfinite(constant.standardized().test_x).all()
