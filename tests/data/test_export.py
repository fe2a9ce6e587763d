import numpy as np
import pytest
from scipy.io import loadmat

from zo_triton.data import class_pair, class_pair_or_digits, export_mat


@pytest.fixture(scope="module")
def pair():
    return class_pair("digits", (3, 5), per_class=7)


def test_matlab_reads_what_was_written(tmp_path, pair):
    path = export_mat(pair, tmp_path / "data.mat")
    assert path == tmp_path / "data.mat"
    found = loadmat(path)
    assert {name for name in found if not name.startswith("_")} == {
        "X",
        "y",
        "classes",
        "indices",
        "name",
        "note",
    }
    assert found["X"].dtype == found["y"].dtype == np.float64
    assert np.array_equal(found["X"], pair.x)
    assert found["y"].shape == found["indices"].shape == (14, 1)
    assert np.array_equal(found["y"][:, 0], pair.y)
    assert np.array_equal(found["indices"][:, 0], pair.indices)
    assert found["classes"].tolist() == [[3, 5]]
    assert found["name"].tolist() == ["digits 3 v 5"]
    assert found["note"].size == 0


def test_the_note_goes_along(tmp_path):
    pair = class_pair_or_digits("mnist", per_class=2, root=tmp_path)
    found = loadmat(export_mat(pair, str(tmp_path / "data")))
    assert found["note"].tolist() == [pair.note]


def test_matlab_reshapes_by_columns(tmp_path, pair):
    """The documented reshape(X(i, :), size, size)' is the image."""
    row = loadmat(export_mat(pair, tmp_path / "data.mat"))["X"][0]
    assert np.array_equal(row.reshape((8, 8), order="F").T, pair.x[0].reshape(8, 8))


@pytest.mark.parametrize("before", [None, b"an older file"], ids=["new", "replaced"])
def test_failure_leaves_what_was_there(tmp_path, pair, monkeypatch, before):
    path = tmp_path / "data.mat"
    if before is not None:
        path.write_bytes(before)

    def fail(file, *_, **__):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr("scipy.io.savemat", fail)
    with pytest.raises(OSError, match="disk full"):
        export_mat(pair, path)
    assert [file.read_bytes() for file in tmp_path.iterdir()] == ([] if before is None else [before])


def test_everybody_may_read_it(tmp_path, pair):
    assert export_mat(pair, tmp_path / "data.mat").stat().st_mode & 0o444 == 0o444


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("", IsADirectoryError, "is a folder; name a file in it, such as .*data.mat"),
        ("nowhere/data.mat", FileNotFoundError, "the folder .*nowhere does not exist; create it first"),
    ],
)
def test_bad_target(tmp_path, pair, target, error, message):
    with pytest.raises(error, match=message):
        export_mat(pair, tmp_path / target)


def test_not_a_pair(tmp_path):
    with pytest.raises(TypeError, match="export_mat needs a Pair, got ndarray; make one by class_pair"):
        export_mat(np.zeros((2, 2)), tmp_path / "data.mat")
