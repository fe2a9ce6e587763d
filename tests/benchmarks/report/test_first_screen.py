"""The first screen says what the record holds, wins and losses alike, and no template goes wrong."""

from copy import deepcopy

import pytest

from benchmarks.report import first_screen, history
from benchmarks.report.markdown import render
from benchmarks.report.sections import step_time
from benchmarks.report.words import among


def sentences(record):
    return first_screen.blocks(record, [])[0].splitlines()


def found(record):
    return first_screen.findings(record)[0].splitlines()


def lost(record):
    """The table of what was lost: who did better, and where."""
    *_, title, table = first_screen.findings(record)
    assert title == "**Where fused lost**"
    return dict(tuple(cell.strip() for cell in line.split("|")[1:-1]) for line in table.splitlines()[2:])


def set_seconds(race, family, *seconds):
    """All runs of a family get to 95 % after so long, or never if that is None."""
    for method in race["methods"]:
        if method["family"] == family:
            method["runs"] = [deepcopy(method["runs"][0]) for _ in seconds]
            for run, each in zip(method["runs"], seconds, strict=True):
                taken = {"seconds": each, "steps": 20, "evaluations": 600}
                run["reached"]["0.95"] = None if each is None else taken


def leave_out(race, *families):
    race["methods"] = [one for one in race["methods"] if one["family"] not in families]


def test_the_findings_say_who_won_and_by_how_much(record):
    text = "\n".join(found(record))
    assert "fused ZO + Adam takes **0.28 s**" in text
    assert "MeZO loop 4.2 s (15× slower)" in text
    assert "backprop + Adam 0.06 s (**4.7× faster**)" in text
    assert "15× faster than MeZO loop" in text


def test_the_findings_list_every_loss(record):
    table = lost(record)
    assert table["backprop + Adam was sooner"] == "digits (4.7×)"
    assert table["backprop + SGD has the quicker step"].endswith("(6.2×)")
    assert table["MeZO loop needs less memory"].startswith("64-32-10")


def test_what_one_rival_does_better_stands_together(record):
    record["sections"]["race_again"] = {**record["sections"]["race"], "task": "letters"}
    assert lost(record)["backprop + Adam was sooner"] == "digits (4.7×); letters (4.7×)"


def test_one_race_is_the_only_one(record):
    worth, against, cost = sentences(record)
    assert worth == (
        "- **Worth it when** only losses can be had: of the forward-only methods the fused one was the soonest on "
        "digits (by 15× where another got there)."
    )
    assert against == (
        "- **Not when** a gradient can be had: backpropagation was sooner on digits (by 4.7× where both got "
        "there)."
    )
    assert cost == (
        "- **What it costs**, on digits: fused ZO + Adam makes 30 evaluations a step of 1 ms, 600 of them to 95 %; "
        "backprop + Adam makes 30 evaluations a step of 1 ms, 600 of them to 95 %, where a backward pass counts as "
        "two."
    )


def test_by_how_much_is_told_of_the_races_that_were_won(record):
    again = record["sections"]["race_again"] = deepcopy(record["sections"]["race"])
    again["task"] = "letters"
    set_seconds(again, "first", 50.0)
    worth, against, _ = sentences(record)
    assert "backpropagation was sooner in 1 of 2 races, on digits (by 4.7× where both got there)." in against
    assert "the soonest in both races (by 15× where another got there); also when" in worth
    assert (
        "also when backpropagation is the alternative: it was later in 1 of 2 races, on letters (by 179×"
        in worth
    )


def test_another_forward_only_method_that_is_sooner_is_named(record):
    set_seconds(record["sections"]["race"], "zeroth", 0.14)
    worth, against, _ = sentences(record)
    assert (
        worth
        == "- **Worth it when:** nothing here shows it; in no race was a fused method clearly the soonest."
    )
    assert "; nor when MeZO loop will do: sooner on digits (by 2.0× where both got there)." in against


def test_a_race_that_was_not_finished_is_admitted(record):
    set_seconds(record["sections"]["race"], "fused", None)
    worth, against, cost = sentences(record)
    assert worth == "- **Worth it when:** nothing here shows it; the fused method reached no race's target."
    alone = "sooner on digits, where only one of the two got there;"
    assert (
        f"a gradient can be had: backpropagation was {alone} nor when MeZO loop will do: {alone}" in against
    )
    assert (
        "nor when 95 % on digits is wanted within 6 s of training: the fused method did not get there."
        in against
    )
    assert "fused ZO + Adam makes 30 evaluations a step of 1 ms, did not reach 95 %;" in cost
    assert "fused ZO + Adam did not get there" in found(record)[0]
    assert lost(record)["fused ZO + Adam never got there"] == "95 % test accuracy on digits"


def test_rivals_that_never_got_there_are_told(record):
    set_seconds(record["sections"]["race"], "zeroth", None)
    assert "was the soonest on digits, where no other got there." in sentences(record)[0]


def test_nobody_got_there(record):
    for family in ("fused", "zeroth", "first"):
        set_seconds(record["sections"]["race"], family, None)
    worth, against, _ = sentences(record)
    assert "reached no race's target" in worth
    assert against.startswith("- **Not when** 95 % on digits is wanted within 6 s")
    assert "against backprop" not in first_screen.blocks(record, [])[1]


def test_a_tie_is_no_win_for_anybody(record):
    leave_out(record["sections"]["race"], "zeroth")
    set_seconds(record["sections"]["race"], "first", 0.2801)
    worth, against, _ = sentences(record)
    assert (
        worth
        == "- **Worth it when:** nothing here shows it; in no race was a fused method clearly the soonest."
    )
    assert against == "- **Not when:** nothing here speaks against it; nobody was clearly sooner."
    set_seconds(record["sections"]["race"], "first", 0.27)
    assert "backpropagation was sooner on digits (by 1.04× where both got there)." in sentences(record)[1]


def test_the_fused_method_alone_has_nobody_to_beat(record):
    leave_out(record["sections"]["race"], "zeroth", "first")
    record["sections"] = {"race": record["sections"]["race"]}
    worth, against, cost = sentences(record)
    assert worth == "- **Worth it when:** nothing here shows it; no other method took part."
    assert "nobody was clearly sooner" in against
    assert cost.endswith("makes 30 evaluations a step of 1 ms, 600 of them to 95 %.")
    assert len(found(record)) == 1, "where nothing was compared, nothing was lost or won"
    assert found(record)[0].endswith("takes **0.28 s**.")


@pytest.mark.parametrize("how", ["failed", "absent"])
def test_a_fused_method_that_did_not_run_is_told(record, how):
    race = record["sections"]["race"]
    if how == "absent":
        leave_out(race, "fused")
    else:
        race["methods"][0] |= {"error": "RuntimeError: no", "runs": [], "step_ms": None}
    _, against, cost = sentences(record)
    assert ("the task is like digits: the fused method failed there" in against) == (how == "failed")
    assert cost == "- **What it costs** is not known: no fused method ran on digits."
    text = render(record, [])
    assert "fused ZO + Adam failed" in text or "no fused method took part" in text


def test_the_table_has_every_contender_soonest_first(record):
    table = first_screen.blocks(record, [])[1].splitlines()
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in table]
    seconds, against = "seconds to 95 % on digits", "against backprop"
    assert cells[0] == ["contender", seconds, against, "CPU s", "evaluations", "ms a step", "peak MiB"]
    assert cells[2:] == [
        ["backprop + Adam", "0.06", "1×", "0.09", "600", "1", "–"],
        ["**fused ZO + Adam**", "0.28", "4.67×", "0.42", "600", "1", "–"],
        ["MeZO loop", "4.2", "70×", "6.3", "600", "1", "0"],
        ["MeZO loop, K = 1", "not reached", "–", "–", "–", "1", "–"],
    ]
    del record["sections"]["memory"]
    assert "peak MiB" not in first_screen.blocks(record, [])[1]


def test_the_page_opens_with_sentences_table_figure_and_contents(record):
    text = render(record, ["race_result.svg"])
    places = [
        text.index(part)
        for part in (
            "**Worth it when**", "| contender ", "](race_result.svg)", "## Contents", "## What was found",
            "## The race: digits",
        )
    ]  # fmt: skip
    assert places == sorted(places)


@pytest.mark.parametrize("name", ["field_quality", "gate", "memory", "benchmarks"])
def test_without_a_race_it_opens_with_what_was_found(record, name):
    record["sections"] = {name: record["sections"][name]}
    opening, _, rest = render(record, []).partition("## Contents")
    assert first_screen.findings(record)[0] in opening
    assert "## What was found" not in rest
    assert ("Where fused lost" in opening) == (name == "memory")


def test_without_anything_found_there_are_the_contents(record):
    record["sections"] = {"scaling": record["sections"]["scaling"]}
    assert render(record, []).split("\n\n")[1] == "## Contents"


def test_without_backpropagation_nothing_is_said_of_it(record):
    race = record["sections"]["race"]
    race["methods"] = [method for method in race["methods"] if method["family"] != "first"]
    assert "nobody was clearly sooner, but backpropagation took no part." in sentences(record)[1]


def test_a_memory_case_without_a_fused_method_is_left_out_of_the_findings(record):
    case = record["sections"]["memory"]["cases"][0]
    case["methods"] = [method for method in case["methods"] if method["family"] != "fused"]
    assert "Peak memory of a fused step" not in render(record, [])


def add_asking(race, seconds):
    """A fused method that asks for more than losses, sooner than the others; compiled backpropagation."""
    ours = deepcopy(race["methods"][0])
    ours |= {"name": "asking", "label": "fused nodes + Adam", "asks": "keeps inputs"}
    compiled = deepcopy(race["methods"][-1]) | {"label": "backprop, compiled", "compiled": True}
    for run in ours["runs"]:
        run["reached"]["0.95"] = {"seconds": seconds, "steps": 20, "evaluations": 600}
    for run in compiled["runs"]:
        run["reached"]["0.95"]["seconds"] = 0.03
    race["methods"] += [ours, compiled]


def test_what_a_method_asks_for_is_told_beside_what_the_others_take(record):
    add_asking(record["sections"]["race"], 0.04)
    worth, against, cost = sentences(record)
    assert "of the forward-only methods the fused one was the soonest on digits (by 15×" in worth, (
        "rivals that see losses alone are measured by ours that sees no more"
    )
    assert (
        "also when backpropagation would not be compiled: eager it was later on digits (by 1.5× "
        "where both got there)." in worth
    )
    assert "backpropagation was sooner on digits (by 1.3× where both got there)" in against
    assert cost.endswith(
        "Fused nodes + Adam keeps inputs; fused ZO + Adam, which asks for losses alone, took 7.0× as long."
    )


def test_a_method_that_asks_and_beats_the_compiled_one_is_told_once(record):
    add_asking(record["sections"]["race"], 0.02)
    worth, against, _ = sentences(record)
    assert "also when backpropagation is the alternative: it was later on digits (by 1.5×" in worth
    assert "compiled" not in worth
    assert against == "- **Not when:** nothing here speaks against it; nobody was clearly sooner."


def test_a_method_that_asks_stands_alone(record):
    race = record["sections"]["race"]
    add_asking(race, 0.02)
    race["methods"] = race["methods"][1:]
    worth, _, cost = sentences(record)
    assert "only losses can be had" not in worth
    assert cost.endswith(" keeps inputs.")


def test_losses_alone_may_never_get_there(record):
    race = record["sections"]["race"]
    set_seconds(race, "fused", None)
    add_asking(race, 0.02)
    assert sentences(record)[2].endswith("; fused ZO + Adam, which asks for losses alone, did not get there.")


@pytest.fixture
def busy(record):
    record["environment"] |= {"cores": 2, "cores busy before": 1.2}
    return record


def test_beside_other_programs_nobody_was_sooner(busy):
    text, table, *_ = first_screen.blocks(busy, [])
    assert text == "- **Who was sooner is not told:** other programs ran beside the races."
    assert "against backprop" not in table
    assert "seconds to 95 % on digits" in table


def test_beside_other_programs_only_what_rests_on_no_times_is_found(busy):
    text = "\n".join(first_screen.findings(busy))
    assert "**Accuracy of a loss difference**" in text
    assert not any(told in text for told in ("faster", "slower", "sooner", "**One step**", "test accuracy"))


def test_a_busy_machines_figures_never_become_headlines(busy):
    assert history.entry_of(busy) is None
    busy["environment"]["cores busy before"] = 0.1
    assert "step ms" in history.entry_of(busy)["figures"]


def test_a_lost_comparison_that_is_not_there_is_no_place(record):
    record["sections"] = {"accuracy": record["sections"]["accuracy"]}
    record["sections"]["accuracy"]["rows"][1]["errors"]["propagated float32"] = 1e-6
    assert "**Fused lost no comparison here.**" in first_screen.findings(record)[0]


@pytest.mark.parametrize(
    ("some", "everything", "text"),
    [
        (["a"], ["a"], "on a"),
        (["a", "b"], ["a", "b"], "in both races"),
        (["a", "b", "c"], ["a", "b", "c"], "in all 3 races"),
        (["a"], ["a", "b"], "in 1 of 2 races, on a"),
        (["a", "c"], ["a", "b", "c"], "in 2 of 3 races, on a and c"),
    ],
)
def test_races_are_counted_and_named(some, everything, text):
    assert among(some, everything, "race") == text


def test_a_step_is_told_beside_those_who_took_part(record):
    section = record["sections"]["step_time"]
    case = section["cases"][0]
    ours, mezo, sgd = case["contenders"]
    told = step_time.findings(section).sentences[0]
    assert "8 ms, 15× faster than MeZO loop." in told
    mezo["median_ms"] = 8.0
    assert "8 ms, as quick as MeZO loop." in step_time.findings(section).sentences[0]
    mezo["median_ms"] = 4.0
    assert "8 ms, slower than every other zeroth-order contender." in step_time.findings(section).sentences[0]
    case["contenders"] = [ours, sgd]
    assert "K = 32 takes 8 ms." in step_time.findings(section).sentences[0]
