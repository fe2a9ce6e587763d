"""Steps on transformers: losing is told as plainly as winning, and every figure is the record's."""

import copy

import pytest

from benchmarks.report.sections.transformers import SECTION


@pytest.fixture
def section(record):
    return record["sections"]["transformers"]


def told(section):
    return SECTION.blocks(section, lambda figure: [])[2]


def test_the_first_sentences_tell_what_was_won_and_what_was_lost(section):
    assert told(section).splitlines() == [
        "- Beside the MeZO loop's along as many directions a step is faster on GPT-2, K = 4 (2.4×); slower on "
        "GPT-2, K = 1 (1.3×).",
        "- Beside a pass of the MeZO loop an evaluation is faster on GPT-2, K = 4 (1.5×); slower on GPT-2, K = 1 "
        "(1.3×).",
        "- Beside vmap's a step is faster on GPT-2, K = 4 (1.6×); slower on GPT-2, K = 1 (1.6×).",
        "- An evaluation costs 1 to 3 plain forward passes.",
        "- Peak memory over the 475 MiB of weights of GPT-2 small, K = 4: fused, one-sided, float32 900 MiB, MeZO "
        "loop, K = 1 180 MiB.",
    ]
    (found,) = SECTION.findings(section).sentences
    head, *points = found.splitlines()
    assert head == "**Steps on transformers** (fused, one-sided, float32, one thread):"
    assert [point.strip() for point in points] == told(section).splitlines()


def test_many_wins_are_counted_and_every_loss_is_named(section):
    lost, won = section["cases"]
    section["cases"] = [lost, *(copy.deepcopy(won) for _ in range(3))]
    section["cases"][2]["contenders"][0]["median_ms"] /= 2
    assert "a step is faster in 3 of 4 cases (2.4× to 4.8×); slower on GPT-2, K = 1 (1.3×)." in told(section)


def test_what_is_lost_everywhere_is_said_of_every_case(section):
    for case in section["cases"]:
        case["contenders"][0]["median_ms"] = 1200.0
    assert "faster" not in told(section)
    assert "slower on GPT-2, K = 1 (40×) and GPT-2, K = 4 (10×)" in told(section)


def test_a_tie_is_neither(section):
    section["cases"] = section["cases"][1:]
    section["cases"][0]["contenders"][0]["median_ms"] = 120.2
    assert "along as many directions a step is as quick on GPT-2, K = 4." in told(section)


def test_every_lost_step_and_peak_is_listed(section):
    assert SECTION.findings(section).lost == [
        ("MeZO loop has the quicker step", "GPT-2, K = 1 (1.3×)"),
        ("vmap has the quicker step", "GPT-2, K = 1 (1.6×)"),
        ("MeZO loop, K = 1 needs less memory", "GPT-2 small"),
    ]


def test_the_history_keeps_the_largest_k(section):
    assert SECTION.headline(section) == {
        "MeZO over fused, GPT-2, K = 4": pytest.approx(2.4),
        "vmap over fused, GPT-2, K = 4": pytest.approx(1.6),
    }


def test_a_slower_step_and_a_larger_peak_are_changes(section):
    later = copy.deepcopy(section)
    later["cases"][0]["contenders"][0]["median_ms"] *= 2
    later["memory"][0]["methods"][0]["excess_mib"] *= 3
    ratios = {change.what: change.ratio for change in SECTION.changes(section, later)}
    assert ratios["step, GPT-2, d = 256, K = 1: fused, one-sided, float32"] == pytest.approx(2)
    assert ratios["memory, GPT-2 small: fused, one-sided, float32"] == pytest.approx(3)


def test_a_case_without_a_rival_has_a_dash(section):
    del section["cases"][1]["contenders"][2]
    table = SECTION.blocks(section, lambda figure: [])[3]
    cells = [cell.strip() for cell in table.splitlines()[-1].split("|")[1:-1]]
    assert cells[:7] == ["GPT-2", "4", "float32", "50", "2.4×", "1.5×", "–"]
    assert cells[8:] == ["120", "–", "10"]
