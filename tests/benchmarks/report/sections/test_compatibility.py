"""The table of models."""

from benchmarks.report.sections.compatibility import SECTION


def text(section):
    return "\n\n".join(SECTION.blocks(section, lambda figure: []))


def test_models_that_do_not_run_here_are_not_counted(record):
    section = record["sections"]["compatibility"]
    assert "1 of 2 models take a strict step (50.0 %); 0 are wrong or crash." in text(section)
    section["counts"] = {"strict": 3, "not run": 5, "crashed": 1}
    assert "3 of 4 models take a strict step (75.0 %); 1 are wrong or crash." in text(section)


def test_a_kind_whose_package_is_missing_says_so(record):
    assert "Left out: timm can't be imported here." in text(record["sections"]["compatibility"])


def test_a_reason_does_not_break_its_row(record):
    assert r"ValueError: a \| b" in text(record["sections"]["compatibility"])
