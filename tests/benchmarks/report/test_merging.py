import copy

import pytest

from benchmarks.report import merge_benchmarks, new_record


@pytest.fixture
def entry(record):
    return copy.deepcopy(record["sections"]["benchmarks"]["entries"][0])


def ids(record):
    return [one["id"] for one in record["sections"]["benchmarks"]["entries"]]


def test_fresh_results_replace_their_own_and_keep_the_rest(record, entry):
    entry["id"] = "benchmarks/ops/bench_ops.py::bench_new"
    merged = merge_benchmarks(record, [entry])
    assert ids(merged) == [
        "benchmarks/ops/bench_ops.py::bench_gram",
        "benchmarks/ops/bench_ops.py::bench_new",
    ]
    entry["median_ms"] = 9.0
    again = merge_benchmarks(merged, [entry])
    assert [one["median_ms"] for one in again["sections"]["benchmarks"]["entries"]] == [0.5, 9.0]
    assert len(ids(record)) == 1


def test_an_id_from_before_the_files_moved_is_no_second_entry(record, entry):
    record["sections"]["benchmarks"]["entries"][0]["id"] = "benchmarks/bench_ops.py::bench_gram"
    entry["median_ms"] = 9.0
    (merged,) = merge_benchmarks(record, [entry])["sections"]["benchmarks"]["entries"]
    assert (merged["id"], merged["median_ms"]) == ("benchmarks/ops/bench_ops.py::bench_gram", 9.0)
    assert ids(merge_benchmarks(record, [])) == ["benchmarks/ops/bench_ops.py::bench_gram"]


def test_a_red_gate_loses_its_old_speed(record):
    assert ids(merge_benchmarks(record, [], failed=ids(record))) == []


def test_a_complete_session_forgets_deleted_benchmarks(record, entry):
    entry["id"] = "benchmarks/ops/bench_ops.py::bench_new"
    assert ids(merge_benchmarks(record, [entry], complete=True)) == [entry["id"]]


def test_tiny_results_do_not_mix_with_full_ones(record, entry):
    with pytest.raises(ValueError, match="tiny benchmarks would mix with a full report"):
        merge_benchmarks(record, [entry], tiny=True)
    empty = new_record(record["environment"], {})
    assert merge_benchmarks(empty, [entry], tiny=True)["tiny"] is True


def test_an_incomplete_entry_is_refused(record, entry):
    del entry["threads"]
    with pytest.raises(ValueError, match="bench_gram' lacks 'threads'"):
        merge_benchmarks(record, [entry])
