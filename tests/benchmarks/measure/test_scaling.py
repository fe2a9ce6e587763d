from dataclasses import replace

import pytest

from benchmarks.measure.scaling import TINY, exchange_ms, received_bytes, run_scaling, step_ms
from benchmarks.report.sections.scaling import NOT_MEASURED, measured, simulated

RING = {"name": "ring", "latency_us": 100.0, "bytes_a_second": 1e6, "rounds": "ring"}
TREE = {**RING, "rounds": "log2"}
PART = {"start_ms": 3.0, "direction_ms": 2.0, "update_ms": 0.5}


def test_model_of_the_exchange():
    assert exchange_ms(RING, 1, 1000) == 0.0
    # Seven messages of 0.1 ms, and 7/8 of 4 000 + 64 bytes at 1 000 bytes a millisecond.
    assert received_bytes(8, 1000) == pytest.approx(3556)
    assert exchange_ms(RING, 8, 1000) == pytest.approx(0.7 + 3.556)
    assert exchange_ms(TREE, 8, 1000) == pytest.approx(0.3 + 3.556)


def test_model_of_a_step():
    assert step_ms(PART, RING, 1, 16) == pytest.approx(3 + 32 + 8)
    assert step_ms(PART, TREE, 4, 16) == pytest.approx(3 + 8 + 8 + exchange_ms(TREE, 4, 16))


def test_section_without_two_ranks_is_rendered():
    told = []
    section = run_scaling(replace(TINY, many=32), told.append)
    assert told == ["scaling: parts of a step"]
    assert section["two_ranks"] is None
    assert [network["name"] for network in section["networks"]] == ["100 Gb/s network"]
    assert all(part["base_ms"] > 0 and part["direction_ms"] >= 0 for part in section["parts"])
    assert section["curves"][0]["ranks"] == [1, 2, 4, 8, 16, 32]
    assert NOT_MEASURED in measured(section)[-1]
    assert "32" in simulated(section).splitlines()[-1]
