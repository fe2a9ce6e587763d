"""What a race tells beside its table."""

import copy

import pytest

from benchmarks.report.registry import find_section
from benchmarks.report.sections.race import table
from benchmarks.report.sections.race.figures import curves_against
from benchmarks.report.statistics import quartiles_reached

RACE = find_section("race")


def text_of(section):
    return "\n\n".join(RACE.blocks(section, lambda figure: []))


def test_who_is_left_out_and_who_warned_is_told(samples):
    section = samples["race"]
    first, *others = section["methods"]
    told = {
        **section,
        "methods": [{**first, "warnings": ["UserWarning: `x` is coarse"]}, *others],
        "left_out": [{"name": "evosax", "label": "evosax OpenES", "why": "not installed: jax, evosax."}],
    }
    text = text_of(told)
    assert "- evosax OpenES is left out: not installed: jax, evosax." in text
    assert f"- {first['label']} warned: `UserWarning: 'x' is coarse`" in text


def test_cpu_time_stands_beside_wall_clock_where_every_run_has_it(samples):
    section = copy.deepcopy(samples["race"])
    lines = table(section).splitlines()
    head = [cell.strip() for cell in lines[0].split("|")]
    assert head[2:5] == ["seconds to 95 %", "CPU s to 95 %", "evaluations to 95 %"]
    run = section["methods"][0]["runs"][0]
    for taken in run["reached"].values():
        del taken["cpu_seconds"]
    assert "CPU s" not in text_of(section)
    assert "evaluations to 95 %" in text_of(section)


def test_older_records_tell_neither(samples):
    text = text_of(samples["race"])
    assert "left out" not in text
    assert "warned" not in text


@pytest.mark.parametrize(
    ("seconds", "quartiles"),
    [
        ([1, 2, 3, 4, None], (2.0, 4.0)),
        ([1, 2, None, None, None], (2.0, None)),
        ([1, 2, 3, None], (1.75, None)),
        ([7], (7.0, 7.0)),
        ([None], (None, None)),
        ([], (None, None)),
    ],
)
def test_a_seed_that_never_got_there_counts_only_where_it_has_weight(seconds, quartiles):
    runs = [{"reached": {"0.9": None if one is None else {"seconds": one}}} for one in seconds]
    assert quartiles_reached(runs, 0.9, "seconds") == quartiles


def test_a_tie_is_told_as_one(samples):
    ours, *others = samples["race"]["methods"]
    for other in others:
        other["runs"] = copy.deepcopy(ours["runs"])
    found = find_section("race").findings(samples["race"])
    assert found.sentences[0].count("(as soon)") == len(others)
    assert found.lost == []


def test_a_fused_method_that_failed_does_not_speak_for_one_that_ran(samples):
    race = samples["race"]
    slow = copy.deepcopy(race["methods"][0]) | {"label": "fused ZO-SGD"}
    for run in slow["runs"]:
        run["reached"]["0.95"] = None
    race["methods"][0] |= {"error": "RuntimeError: no memory", "runs": []}
    race["methods"].append(slow)
    assert "fused ZO-SGD did not get there" in find_section("race").findings(race).sentences[0]


def test_who_got_to_one_checkpoint_only_is_a_dot(record):
    from matplotlib.figure import Figure

    section = record["sections"]["race"]
    for run in section["methods"][0]["runs"]:
        run["curve"] = run["curve"][:2]
    figure = Figure()
    curves_against("seconds", 1)(figure, section)
    markers = [line.get_marker() for line in figure.axes[0].get_lines()[:2]]
    assert markers == ["o", "None"]


def test_k_is_told_where_it_was_tuned(samples):
    section = samples["race"]
    section["config"]["directions"] = [16, 64]
    section["tuning"]["directions"] = [16, 64]
    for method in section["methods"]:
        walks = method["family"] != "first"
        method["directions"] = 64 if walks else None
        method["trials"] = [
            {**trial, "directions": directions}
            for directions in ((16, 64) if walks else (None,))
            for trial in method["trials"]
        ]
    text = text_of(section)
    assert "walk K directions a step, of 16 or 64 those that got there soonest" in text
    _, table, sweep = ([line for line in block.splitlines() if "|" in line] for block in tables_of(text))
    assert [cell.strip() for cell in table[0].split("|")[1:5]] == ["method", "tuned lr", "tuned K", "trials"]
    cells = {row.split("|")[1].strip(): [cell.strip() for cell in row.split("|")[2:5]] for row in table[2:]}
    assert cells["fused ZO + Adam"] == ["0.1", "64", "4"]
    assert cells["backprop + Adam"] == ["0.1", "–", "2"]
    rows = [[cell.strip() for cell in row.split("|")[1:-1]] for row in sweep]
    assert rows[0] == ["method", "K", "lr 0.01", "lr 0.1"]
    assert rows[2] == ["fused ZO + Adam", "16", "(40 %)", "25 steps"]
    assert rows[3] == ["fused ZO + Adam", "64", "(40 %)", "**25 steps**"]
    assert rows[-1] == ["backprop + Adam", "–", "(40 %)", "**25 steps**"]


def tables_of(text):
    return [block for block in text.split("\n\n") if block.startswith("|")]
