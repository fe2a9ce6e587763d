"""Every flipped bit and every missing byte of a log and of a checkpoint is refused, or leaves what is intact."""

import struct
from zlib import crc32

import pytest
import torch

import zo_triton as zo
from zo_triton import runlog
from zo_triton.runlog.contents import read
from zo_triton.runlog.format import MAGIC, VERSION, DamagedError, encode_header, encode_record


@pytest.fixture
def log(tmp_path):
    """Three steps of two directions; the settings change once."""
    weight = torch.ones(3)
    opt = zo.ZOSGD([weight], lr=0.1, directions=2, chunk=2)
    with zo.ReplayLog.start(tmp_path / "log.zo", opt):
        for lr in (0.1, 0.1, 0.05):
            opt.param_groups[0]["lr"] = lr
            opt.step(lambda: weight.square().sum())
    return tmp_path / "log.zo"


def test_every_truncation_of_a_log(log):
    data, whole = log.read_bytes(), runlog.read(log)
    ends = [whole.header_bytes, *(record.end for record, _ in whole.records())]
    assert ends[-1] == len(data)
    for size in range(len(data)):
        log.write_bytes(data[:size])
        if size < whole.header_bytes:
            with pytest.raises(ValueError, match="can't be read as a log"):
                runlog.read(log)
            continue
        contents = runlog.read(log)
        intact = sum(end <= size for end in ends) - 1
        assert (contents.steps, contents.end.byte) == (intact, ends[intact])
        assert contents.end.torn == size - ends[intact]
        assert len(list(contents.records())) == intact


def test_every_flipped_bit_of_a_log(log):
    data, whole = log.read_bytes(), runlog.read(log)
    records = [record for record, _ in whole.records()]
    for bit in range(8 * len(data)):
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        log.write_bytes(spoilt)
        with pytest.raises(ValueError, match=r"can't be read as a log|is damaged at step"):
            runlog.read(log)
        if bit // 8 < whole.header_bytes:
            continue
        intact = [record for record in records if record.end <= bit // 8]
        contents = runlog.read(log, intact_prefix=True)
        found = [record for record, _ in contents.records()]
        assert contents.end.step == len(found) == len(intact)
        assert contents.end.byte == records[len(intact)].start
        for ours, theirs in zip(found, intact, strict=True):
            assert (ours.changes, ours.coefficients.tobytes()) == (
                theirs.changes,
                theirs.coefficients.tobytes(),
            )


def test_a_record_of_another_log_or_step_is_damage(log, tmp_path):
    whole = runlog.read(log)
    other = int.from_bytes(encode_header({**whole.header, "first_step": 7})[-4:], "little")
    record = next(whole.records())[0]
    for checksum, step in ((other, 3), (whole.checksum, 2)):
        spoilt = tmp_path / "spoilt.zo"
        spoilt.write_bytes(log.read_bytes() + encode_record(checksum, step, {}, record.coefficients))
        with pytest.raises(ValueError, match="is damaged at step 3"):
            runlog.read(spoilt)


STATE = {
    "optimizer": {"state": {0: {"step": torch.tensor(2.0)}}, "betas": (0.9, 0.99)},
    "dtype": torch.bfloat16,
}


def _checkpoint(path):
    runlog.save_checkpoint(path, 7, {"w": torch.tensor([1.0, -2.0]), "h": torch.ones(1).bfloat16()}, STATE)


def test_a_checkpoint_comes_back(tmp_path):
    path = tmp_path / "c.safetensors"
    _checkpoint(path)
    found = runlog.load_checkpoint(path)
    assert found.step == 7
    assert {name: weight.tolist() for name, weight in found.weights.items()} == {"w": [1, -2], "h": [1]}
    assert found.weights["h"].dtype == torch.bfloat16
    assert found.state["optimizer"]["state"][0]["step"].item() == 2
    assert found.state["optimizer"]["betas"] == (0.9, 0.99)
    assert found.state["dtype"] is torch.bfloat16


def test_every_truncation_and_flipped_bit_of_a_checkpoint(tmp_path):
    path = tmp_path / "c.safetensors"
    _checkpoint(path)
    data = path.read_bytes()
    for size in range(len(data)):
        path.write_bytes(data[:size])
        with pytest.raises(ValueError, match="the checkpoint"):
            runlog.load_checkpoint(path)
    for bit in range(8 * len(data)):
        spoilt = bytearray(data)
        spoilt[bit // 8] ^= 1 << bit % 8
        path.write_bytes(spoilt)
        with pytest.raises(ValueError, match="the checkpoint"):
            runlog.load_checkpoint(path)


def test_a_checkpoint_holds_no_objects(tmp_path):
    with pytest.raises(TypeError, match="state/x is of type object"):
        runlog.save_checkpoint(tmp_path / "c.safetensors", 0, {}, {"x": object()})
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_no_weights(tmp_path):
    path = tmp_path / "w.safetensors"
    path.write_bytes(b"nothing of the kind")
    with pytest.raises(ValueError, match="can't be read as safetensors"):
        runlog.load_weights(path)
    runlog.save_weights({"w": torch.ones(2)}, path)
    with pytest.raises(ValueError, match="does not match its digest"):
        runlog.load_checkpoint(path)


def crafted(path, change):
    """A log whose header is whole, checksum and all, but for what ``change`` did to it."""
    header = {
        "optimizer": "ZOSGD", "parameters": [{"name": "w", "shape": [3], "dtype": "float32"}], "group_sizes": [1],
        "first_step": 0, "weights": "sha256:0",
        "settings": {"seed": 0, "directions": 1, "compute_dtype": "float32", "groups": [{}]},
    }  # fmt: skip
    change(header)
    path.write_bytes(encode_header(header))
    return path


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda header: header.pop("settings"), "lacks the entry 'settings'"),
        (lambda header: header.update(first_step="0"), "'first_step' as '0'"),
        (lambda header: header["settings"].pop("groups"), "settings lacks the entry 'groups'"),
        (lambda header: header.update(parameters=["w"]), "parameter 0 is 'w'"),
        (lambda header: header["parameters"][0].pop("shape"), "parameter 0 lacks the entry 'shape'"),
    ],
    ids=["no settings", "step of text", "no groups", "a name", "no shape"],
)
def test_a_crafted_header_is_refused_by_what_it_lacks(change, message, tmp_path):
    with pytest.raises(DamagedError, match=message):
        read(crafted(tmp_path / "log.zo", change))


def test_a_header_that_is_no_json_is_refused(tmp_path):
    path, text = tmp_path / "log.zo", b"[" * 100_000
    start = struct.pack("<8sII", MAGIC, VERSION, len(text)) + text
    path.write_bytes(start + struct.pack("<I", crc32(start)))
    with pytest.raises(DamagedError, match="can't be read as such"):
        read(path)
