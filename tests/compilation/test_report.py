"""A compile record in a report's folder: kept, shown, and refused when it is none."""

import json

import pytest

from benchmarks.report import check_destination, compiled

ROW = {
    "variant": "linear bf16", "kernel": "perturbed_linear", "target": "sm_90", "default": True, "error": None,
    "config": {"BLOCK_N": 128, "BLOCK_F": 64, "num_warps": 8, "num_stages": 3}, "registers": 128, "spills": 0,
    "stack": 0, "shared": 2048, "matrix": {"HGMMA": 64}, "occupancy": {"warps": 16, "limit": "registers"},
    "roofline": {
        "tensor": 1024.0, "other_per_tensor": 0.5, "bound": "tensor", "serial": 0.6, "overlapped": 1.0,
        "per_value": None,
    },
}  # fmt: skip
FAILED = {
    "variant": "broken", "kernel": "x", "target": "sm_90", "default": True, "config": {}, "error": "no such thing",
}  # fmt: skip


def record(*rows, **changes):
    environment = {"commit": "0123456789abcdef", "versions": {"triton": "3.9.0"}}
    return {
        "format": "zo_triton compile",
        "schema": 1,
        "environment": environment,
        "rows": list(rows),
        **changes,
    }


def test_a_record_is_carried_and_its_section_added(tmp_path):
    old, fresh = tmp_path / "old", tmp_path / "fresh"
    old.mkdir(), fresh.mkdir()
    (old / "compile.json").write_text(
        json.dumps(record(ROW, {**ROW, "target": "sm_80", "variant": "elsewhere"}, FAILED))
    )
    (old / "compile.svg").write_bytes(b"picture")
    text = "\n\n".join(compiled.carry(old, fresh))
    assert text.startswith("## Compiled kernels\n")
    assert "128×64 w8 s3" in text
    assert "0.60–1.00" in text
    assert "broken: FAILED" in text
    assert "1 of the launchers' own configs on all chips fail" in text
    assert "elsewhere" not in text
    assert {file.name for file in fresh.iterdir()} == {"compile.json", "compile.svg"}
    assert check_destination(old) == old.resolve()


def test_a_report_without_a_record_stays_as_it_is(tmp_path):
    assert compiled.carry(tmp_path / "missing", tmp_path) == []


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ('{"format": ', "is not complete JSON"),
        ("[]", "is not a zo_triton compile record"),
        (json.dumps(record(schema=2)), "has schema 2, not 1; run `zo-triton compile --out` again"),
    ],
)
def test_a_bad_record_is_named(text, message, tmp_path):
    file = tmp_path / "compile.json"
    file.write_text(text)
    with pytest.raises(ValueError, match=f"compile.json {message}"):
        compiled.read(file)
