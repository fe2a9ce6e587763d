from dataclasses import replace

import pytest

from benchmarks.measure import curves


def test_a_tiny_run_has_every_point():
    told = []
    section = curves.run_curves(curves.TINY, told.append)
    assert [row["batch"] for row in section["throughput"]["rows"]] == [1, 8]
    assert all(row["central"] > 0 and row["one_sided"] > 0 for row in section["throughput"]["rows"])
    assert [curve["axis"] for curve in section["growth"]] == ["batch", "width"]
    assert section["growth"][0]["fixed"] == "K = 2, width 8"
    for curve in section["growth"]:
        assert [one["name"] for one in curve["contenders"]] == list(curves.TIMED)
        assert all(len(one["ms"]) == len(curve["values"]) for one in curve["contenders"])
    assert len(told) == 6


def test_exponents_are_slopes_of_logarithms(monkeypatch):
    monkeypatch.setattr(
        curves,
        "_times",
        lambda methods, case, seconds: [2.0 * case.batch**power for power in (0, 1, 1.5, 2)][: len(methods)],
    )
    config = replace(curves.TINY, axes=(("batch", (2, 8, 32)),))
    found = curves.run_curves(config, lambda text: None)["growth"][0]["contenders"]
    assert [one["exponent"] for one in found] == pytest.approx([0, 1, 1.5, 2], abs=1e-6)
