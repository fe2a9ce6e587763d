"""Two records side by side: what is flagged, what is not, and what a machine's load must not flag."""

import copy
import math

import pytest

from benchmarks import __main__ as cli
from benchmarks.report import compare, write


def changed(record, path, value):
    """A copy with one entry replaced."""
    found = copy.deepcopy(record)
    place = found["sections"]
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    return found


def verdicts(before, after, allowed=1.1):
    return {change.what: change.verdict(allowed) for change in compare.compare(before, after)}


STEP = ("step_time", "cases", 0, "contenders", 0)
ZO = "step, 784-256-256-10, batch 128, K = 32: fused, one-sided"


def test_a_record_differs_from_itself_in_nothing(record):
    found = verdicts(record, record)
    assert set(found.values()) == {compare.SAME}
    assert {what.split(",")[0] for what in found} == {"step", "race", "memory"}
    assert "0 worse, 0 better" in compare.render(record, record)


def test_a_slower_step_is_flagged_and_a_faster_one_praised(record):
    slow = changed(record, (*STEP, "median_ms"), 40.0)
    slow = changed(slow, (*STEP, "quartiles_ms"), [39.0, 41.0])
    assert verdicts(record, slow)[ZO] == compare.WORSE
    assert verdicts(slow, record)[ZO] == compare.BETTER
    assert verdicts(record, slow, allowed=10.0)[ZO] == compare.SAME


def test_wide_quartiles_keep_a_change_from_being_one(record):
    slow = changed(record, (*STEP, "median_ms"), 10.0)
    narrow, wide = (changed(slow, (*STEP, "quartiles_ms"), pair) for pair in ([9.9, 10.1], [5.0, 15.0]))
    sure = changed(record, (*STEP, "quartiles_ms"), [7.9, 8.1])
    assert verdicts(sure, narrow)[ZO] == compare.WORSE
    assert verdicts(sure, wide)[ZO] == compare.SAME


def scaled(record, **factors):
    """Step times multiplied, by contender."""
    found = copy.deepcopy(record)
    for row in found["sections"]["step_time"]["cases"][0]["contenders"]:
        row["median_ms"] *= factors[row["name"]]
        row["fastest_ms"] *= factors[row["name"]]
    return found


def test_a_slower_machine_is_no_regression(record):
    after = scaled(record, zo=2, mezo=2, sgd=2)
    (ratio,) = {round(change.ratio, 6) for change in compare.compare(record, after) if "step," in change.what}
    assert ratio == 1.0
    assert set(verdicts(record, after).values()) == {compare.SAME}


def test_a_machine_whose_parts_disagree_proves_nothing(record):
    calm = changed(record, (*STEP, "quartiles_ms"), [7.99, 8.01])
    steady, loaded = scaled(calm, zo=1.3, mezo=1.0, sgd=1.0), scaled(calm, zo=1.3, mezo=0.8, sgd=1.25)
    for each in (steady, loaded):
        each["sections"]["step_time"]["cases"][0]["contenders"][0]["quartiles_ms"] = [10.39, 10.41]
    assert verdicts(calm, steady)[ZO] == compare.WORSE
    assert verdicts(calm, loaded)[ZO] == compare.SAME


def test_a_race_is_judged_by_the_range_of_its_seeds(record):
    slow = copy.deepcopy(record)
    for run in slow["sections"]["race"]["methods"][0]["runs"]:
        run["reached"]["0.95"]["seconds"] *= 1.15
    what = "race, digits: fused ZO + Adam to 95 %"
    assert verdicts(record, slow)[what] == compare.SAME
    for run in slow["sections"]["race"]["methods"][0]["runs"]:
        run["reached"]["0.95"]["seconds"] *= 2
    assert verdicts(record, slow)[what] == compare.WORSE


def raced(record, times):
    """All of a race at other speeds: of each method's steps and seconds, in turn."""
    found = copy.deepcopy(record)
    for row, factor in zip(found["sections"]["race"]["methods"], times, strict=True):
        row["step_ms"] *= factor
        for run in row["runs"]:
            for reached in filter(None, run["reached"].values()):
                reached["seconds"] *= factor
    return found


def test_a_race_on_a_slower_machine_is_no_regression(record):
    count = len(record["sections"]["race"]["methods"])
    after = raced(record, [3.0] * count)
    ratios = [each.ratio for each in compare.compare(record, after) if each.what.startswith("race")]
    assert ratios == pytest.approx([1.0] * len(ratios))
    assert set(verdicts(record, after).values()) == {compare.SAME}
    ours_alone = raced(record, [3.0] + [1.0] * (count - 1))
    assert verdicts(record, ours_alone)["race, digits: fused ZO + Adam to 95 %"] == compare.WORSE


def test_a_target_that_is_no_longer_reached_is_worse(record):
    lost = copy.deepcopy(record)
    for run in lost["sections"]["race"]["methods"][3]["runs"]:
        run["reached"]["0.95"] = None
    what = "race, digits: backprop + Adam to 95 %"
    assert verdicts(record, lost)[what] == compare.WORSE
    assert verdicts(lost, record)[what] == compare.BETTER
    change = next(each for each in compare.compare(record, lost) if each.what == what)
    assert math.isinf(change.ratio)
    assert "not reached" in change.after
    assert "∞" in compare.render(record, lost)


def test_more_memory_is_flagged(record):
    more = changed(record, ("memory", "cases", 0, "methods", 0, "excess_mib"), 3.6)
    assert verdicts(record, more)["memory, 64-32-10: fused"] == compare.WORSE


def test_what_only_one_record_has_is_left_out(record):
    less = copy.deepcopy(record)
    del less["sections"]["memory"]
    less["sections"]["step_time"]["cases"][0]["contenders"].pop(0)
    assert ZO not in verdicts(record, less)
    other = changed(record, ("race", "task"), "another")
    assert not any(what.startswith("race") for what in verdicts(record, other))


def test_a_quick_report_beside_a_whole_one_flags_nothing(record):
    """Fewer sections, contenders, seeds and targets: what both have is compared, in both orders."""
    quick = copy.deepcopy(record)
    quick["sections"] = {name: quick["sections"][name] for name in ("gate", "race", "step_time", "accuracy")}
    race = quick["sections"]["race"]
    race["config"]["targets"] = [0.95]
    race["methods"] = [method for method in race["methods"] if method["name"] != "mezo-1"]
    for method in race["methods"]:
        method["runs"] = method["runs"][:2]
    quick["sections"]["step_time"]["cases"][0]["contenders"].pop(1)
    for pair in ((record, quick), (quick, record)):
        found = verdicts(*pair)
        assert {what.split(",")[0] for what in found} == {"step", "race"}
        assert set(found.values()) == {compare.SAME}


def test_another_machine_is_named(record):
    other = copy.deepcopy(record)
    other["environment"]["device"] = "another processor"
    assert "**Not the same device**: a processor and another processor." in compare.render(record, other)


@pytest.mark.parametrize("allowed", [0.9, math.nan, math.inf])
def test_a_ratio_that_flags_everything_is_refused(allowed, record):
    with pytest.raises(ValueError, match=f"must be at least 1, got {allowed}"):
        compare.render(record, record, allowed)


@pytest.fixture
def folders(record, tmp_path):
    """A record, and another whose fused step is five times slower."""
    slow = changed(record, (*STEP, "median_ms"), 40.0)
    slow = changed(slow, (*STEP, "fastest_ms"), 39.9)
    for name, each in (("before", record), ("after", slow)):
        write(tmp_path / name / "results.json", each)
    return str(tmp_path / "before"), str(tmp_path / "after")


def test_the_command_tells_and_fails_only_when_asked(folders, capsys):
    assert cli.main(["report", "--compare", *folders]) == 0
    assert "1 worse, 0 better" in capsys.readouterr().out
    assert cli.main(["report", "--compare", *folders, "--compare-fail", "1.5"]) == 1
    assert cli.main(["report", "--compare", *folders, "--compare-fail", "20"]) == 0
    assert cli.main(["report", "--compare", *reversed(folders), "--compare-fail", "1.5"]) == 0


def test_the_command_names_a_bad_record(folders, capsys, tmp_path):
    assert cli.main(["report", "--compare", folders[0], str(tmp_path / "nowhere")]) == 2
    assert "nowhere" in capsys.readouterr().err
    (tmp_path / "after" / "results.json").write_text("{")
    assert cli.main(["report", "--compare", *folders]) == 2
    assert "results.json is not complete JSON" in capsys.readouterr().err
    assert cli.main(["report", "--compare-fail", "1.5"]) == 2
    assert "--compare-fail needs --compare" in capsys.readouterr().err


def test_a_shorter_race_is_compared_over_its_own_length(record):
    short = changed(record, ("race", "config", "run_seconds"), 0.2)
    for method in short["sections"]["race"]["methods"][:1]:
        for run in method["runs"]:
            run["reached"]["0.95"] = None
    what = "race, digits: fused ZO + Adam to 95 %"
    assert what in verdicts(record, record)
    assert what not in verdicts(record, short)
    assert what not in verdicts(short, record)


def test_the_median_of_two_seeds_is_that_of_the_report(record):
    for method in record["sections"]["race"]["methods"]:
        method["runs"] = method["runs"][:2]
    found = {change.what: change.before for change in compare.compare(record, record)}
    assert found["race, digits: fused ZO + Adam to 95 %"] == "0.275 s"


def test_a_tiny_run_is_told(record):
    assert "tiny" not in compare.render(record, record)
    assert "**A tiny run is among them**" in compare.render(record, record | {"tiny": True})
