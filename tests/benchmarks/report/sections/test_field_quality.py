from benchmarks.report.sections.field_quality import (
    addresses,
    batteries,
    blocks,
    distributions,
    findings,
    planted,
)


def text(record):
    return "\n".join(blocks(record["sections"]["field_quality"], lambda name: []))


def test_the_verdict_follows_the_smallest_p_value(record):
    assert "smallest of all p-values is 0.0355. Nothing was flagged." in text(record)
    record["sections"]["field_quality"]["smallest_p"] = 9e-7
    assert "9.0e-07. **The field was flagged.**" in text(record)


def test_every_figure_has_its_cell(record):
    section = record["sections"]["field_quality"]
    assert [cell.strip() for cell in batteries(section).splitlines()[2].split("|")[1:-1]] == [
        "bits",
        "0.39",
        "each bit",
    ]
    row = distributions(section).splitlines()[2].split("|")[1:-1]
    assert [cell.strip() for cell in row] == ["rademacher", "1024", "-0.50", "exact", "+0.50", "exact", "–"]
    assert "| random ones | 2400     | 0       |" in addresses(section)
    assert "streams" in planted(section)


def test_a_fault_that_went_unnoticed_is_told(record):
    section = record["sections"]["field_quality"]
    section["planted"][0]["flagged_by"] = []
    assert "nothing" in planted(section)
    (sentence,) = findings(section).sentences
    assert "**Planted and not flagged: equal neighbours.**" in sentence
