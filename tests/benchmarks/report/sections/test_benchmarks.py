"""The table of ops: exponents and ratios from benchmark entries."""

import pytest

from benchmarks.report.sections.benchmarks import ops

MIDDLE = {"K": 32, "batch": 128, "width": 256}


def entry(contender, ms, place="middle", op="update", **sizes):
    extra = {"op": op, "contender": contender, **MIDDLE, **sizes}
    if contender == "fused":
        extra["roofline"] = 0.25
    return {"group": f"op: {op}, {place}", "median_ms": ms(extra), "extra": extra}


def section(**laws):
    """Entries that follow a law of their sizes, at three values of K and of width."""
    places = {"middle": {}, "K=8": {"K": 8}, "K=128": {"K": 128}, "width=64": {"width": 64}}
    places["width=1024"] = {"width": 1024}
    return {
        "entries": [
            entry(contender, law, place, **sizes)
            for contender, law in laws.items()
            for place, sizes in places.items()
        ]
    }


def cells(blocks):
    return [cell.strip() for cell in blocks[1].splitlines()[2].strip("|").split("|")]


def test_exponents_ratio_and_ceiling():
    found = ops(
        section(
            fused=lambda at: 1e-3 * at["K"] * at["width"] ** 0.5,
            torch=lambda at: 1e-6 * at["K"] * at["width"] ** 2,
        )
    )
    assert "K = 32, batch 128, width 256" in found[0]
    op, ours, theirs, ratio, ceiling, *growth = cells(found)
    assert (op, ceiling) == ("update", "25 %")
    assert float(ours) == pytest.approx(0.512)
    assert float(theirs) == pytest.approx(2.1, rel=1e-2)
    assert ratio == "4.1×"
    assert growth == ["1", "–", "0.5", "1", "–", "2"], "one batch only: nothing to fit"


def test_other_benchmarks_and_halves_of_a_pair_are_no_rows():
    assert ops({"entries": [{"group": "field", "median_ms": 1.0, "extra": {"K": 32}}]}) == []
    assert ops(section(fused=lambda at: 1.0)) == []
    beside = [
        entry("fused", lambda at: 1.0, place="K=8", K=8),
        entry("torch", lambda at: 1.0, place="K=8", K=8),
    ]
    assert ops({"entries": beside}) == []
