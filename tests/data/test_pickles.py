import os
import pickle
import struct
from pathlib import Path

import numpy as np
import pytest

from zo_triton.data.pickles import StoredArray, byte_matrix, read_pickle

PATH = Path("data_batch_1")

# What Python 2 and NumPy 1 wrote for {'data': array([[1, 2, 3], [4, 5, 6]], uint8), 'labels': [7, 1]}.
PYTHON_2 = (
    b"\x80\x02}q\x01(U\x04dataq\x02cnumpy.core.multiarray\n_reconstruct\nq\x03cnumpy\nndarray\nq\x04K\x00\x85"
    b"U\x01b\x87Rq\x05(K\x01K\x02K\x03\x86cnumpy\ndtype\nq\x06U\x02u1K\x00K\x01\x87Rq\x07(K\x03U\x01|NNNJ\xff\xff"
    b"\xff\xffJ\xff\xff\xff\xffK\x00tb\x89U\x06\x01\x02\x03\x04\x05\x06tbU\x06labelsq\x08]q\t(K\x07K\x01eu."
)
MATRIX = np.array([[1, 2, 3], [4, 5, 6]], np.uint8)


def test_pickle_of_python_2():
    found = read_pickle(PYTHON_2, PATH)
    assert np.array_equal(byte_matrix(found[b"data"], 3), MATRIX)
    assert found[b"labels"] == [7, 1]


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize("order", ["C", "F"])
def test_pickles_of_this_python(protocol, order):
    stored = {"data": np.asarray(MATRIX, order=order), "labels": [7, 1], b"name": b"\xff"}
    found = read_pickle(pickle.dumps(stored, protocol=protocol), PATH)
    assert np.array_equal(byte_matrix(found["data"], 3), MATRIX)
    assert found["labels"] == [7, 1]
    assert found[b"name"] == b"\xff"


class _Calls:
    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [0, 2, 4])
@pytest.mark.parametrize("function", [os.mkdir, eval, getattr, np.load, np.zeros], ids=lambda f: f.__name__)
def test_no_function_is_ever_called(tmp_path, function, protocol):
    victim = tmp_path / "made"
    code = {os.mkdir: str(victim), eval: f"__import__('os').mkdir({str(victim)!r})"}
    content = pickle.dumps({"data": _Calls(function, code.get(function, "anything"))}, protocol=protocol)
    with pytest.raises(ValueError, match=r"data_batch_1 is no pickle of plain arrays.*it names"):
        read_pickle(content, PATH)
    assert not victim.exists()


def test_dotted_names_do_not_reach_attributes():
    content = b"\x80\x04\x8c\x05numpy\x8c\x0dndarray.dumps\x93."
    with pytest.raises(ValueError, match=r"it names numpy\.ndarray\.dumps"):
        read_pickle(content, PATH)


def test_codecs_encode_serves_bytes_only():
    content = b"\x80\x02c_codecs\nencode\nX\x01\x00\x00\x00aX\x05\x00\x00\x00rot13\x86R."
    with pytest.raises(ValueError, match="it encodes something else"):
        read_pickle(content, PATH)


@pytest.mark.parametrize("kept", range(0, len(PYTHON_2), 3))
def test_truncated(kept):
    with pytest.raises(ValueError, match="data_batch_1 is no pickle"):
        read_pickle(PYTHON_2[:kept], PATH)


def test_flipped_bits_end_in_an_answer_or_a_named_error():
    """Every bit of a small pickle in turn: never another exception, never an object of another kind."""
    refused = 0
    for bit in range(8 * len(PYTHON_2)):
        content = bytearray(PYTHON_2)
        content[bit // 8] ^= 1 << bit % 8
        try:
            found = read_pickle(bytes(content), PATH)
            matrix = byte_matrix(found.get(b"data") if isinstance(found, dict) else found, 3)
            assert matrix.shape == (2, 3)
        except ValueError:
            refused += 1
    # What remains are bits of the payload and of names that are not looked at.
    assert refused > 4 * len(PYTHON_2)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is no pickle"),
        (b"<html>404 Not Found</html>", "is no pickle"),
        (PYTHON_2 + b"garbage", f"it ends at byte {len(PYTHON_2)} of {len(PYTHON_2) + 7}"),
        (b"\x80\x02K\x01r\xff\xff\xff\x7f.", "it stores under the impossible number 2147483647"),
        (b"\x80\x02}K\x01" + b"\x85" * 100_000 + b"Ns.", "it makes 100000 tuples"),
        (b"\x80\x04\x8e" + struct.pack("<Q", 1 << 40) + b"a.", "is no pickle"),
        (b"\x80\x02K\x01Q.", "persistent"),
        (b"\x80\x02\x82\x01.", "is no pickle"),
    ],
    ids=["empty", "text", "trailing", "memory", "nesting", "huge-length", "persistent", "extension"],
)
def test_hostile(content, message):
    with pytest.raises(ValueError, match=message):
        read_pickle(content, PATH)


def test_stand_ins_cannot_be_changed_by_a_pickle():
    """BUILD with the class itself as its target, as if it were an instance."""
    content = b"\x80\x02cnumpy.core.multiarray\n_reconstruct\n}U\x05shapeK\x01sb."
    with pytest.raises(ValueError, match="missing 1 required positional argument"):
        read_pickle(content, PATH)
    assert StoredArray.shape == ()


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        (MATRIX.astype(np.int16), "needs unsigned bytes, got an array of 'i2'"),
        (MATRIX.astype(object), "needs an array of bytes"),
        (MATRIX.ravel(), r"has the shape \(6,\) and 6 bytes, not n×3"),
        (MATRIX[:, :2], r"has the shape \(2, 2\) and 4 bytes, not n×3"),
        (MATRIX[:0], r"has the shape \(0, 3\) and 0 bytes, not n×3, n > 0"),
        ([1, 2, 3], "needs an array of bytes, got list"),
        (None, "needs an array of bytes, got NoneType"),
    ],
    ids=["int16", "object", "vector", "narrow", "no-row", "list", "nothing"],
)
def test_not_a_byte_matrix(stored, message):
    found = read_pickle(pickle.dumps(stored, protocol=2), PATH)
    with pytest.raises(ValueError, match=message):
        byte_matrix(found, 3)


def test_shape_is_not_believed():
    content = PYTHON_2.replace(b"K\x01K\x02K\x03\x86", b"K\x01K\x09K\x03\x86")
    with pytest.raises(ValueError, match=r"has the shape \(9, 3\) and 6 bytes"):
        byte_matrix(read_pickle(content, PATH)[b"data"], 3)
