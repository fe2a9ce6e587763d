"""The table of models."""

from benchmarks.report.markdown import render
from benchmarks.report.sections.compatibility import SECTION


def text(section):
    return "\n\n".join(SECTION.blocks(section, lambda figure: []))


def test_models_that_do_not_run_here_are_not_counted(record):
    section = record["sections"]["compatibility"]
    step = "take a strict step with the right differences"
    assert f"1 of 2 models {step} (50.0 %); 0 are wrong or crash." in text(section)
    section["counts"] = {"strict": 3, "not run": 5, "crashed": 1}
    assert f"3 of 4 models {step} (75.0 %); 1 are wrong or crash." in text(section)


def test_who_misses_the_bound_is_not_counted_among_the_strict(record):
    section = record["sections"]["compatibility"]
    section["counts"] = {"strict": 2, "kept": 1, "rounded": 1}
    assert "2 of 4 models" in text(section)
    assert "1 more do for the base's choices" in text(section)
    assert "1 more is as far beyond the bound" in text(section)


def test_a_kind_whose_package_is_missing_says_so(record):
    assert "Left out: timm can't be imported here." in text(record["sections"]["compatibility"])


def test_a_reason_does_not_break_its_row(record):
    assert r"ValueError: a \| b" in render(record, [])
