"""The library installs without what only some data sets need, and says so when one of them is asked for."""

import sys

import pytest

from zo_triton.data import available, digits
from zo_triton.data.tiny_imagenet import decode_image


def test_digits_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ModuleNotFoundError, match=r"come with scikit-learn: pip install 'zo_triton\[data\]'"):
        digits()


def test_digits_are_there_where_scikit_learn_is(monkeypatch):
    assert available("digits")
    monkeypatch.setattr("zo_triton.data.catalog.find_spec", lambda name: None)
    assert not available("digits")


def test_tiny_imagenet_needs_pillow(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "PIL", None)
    with pytest.raises(ModuleNotFoundError, match=r"decoded by Pillow: pip install 'zo_triton\[data\]'"):
        decode_image(tmp_path / "image.JPEG")
