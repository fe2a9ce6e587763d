"""Choosing tile sizes: what the static model weeds, what a measurement decides, and what the command says."""

import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest
import torch

import zo_triton as zo
from zo_triton import cli, tuning
from zo_triton.kernels.choices import CANDIDATES, trying
from zo_triton.kernels.gram import gram
from zo_triton.kernels.launch import recording
from zo_triton.opcases.sizes import TINY

PRUNE = """
import json, torch
import zo_triton as zo
from zo_triton import tuning
from zo_triton.compilation.targets import TARGETS
from zo_triton.kernels.choices import asking, candidates
from zo_triton.kernels.gram import gram
from zo_triton.kernels.launch import launching_for, recording

out, tensors = torch.empty(32, 32, dtype=torch.float64), [torch.empty(1024, 1024)]
action = lambda: gram(out, tensors, [0], zo.Directions(0, 0, 32), torch.float32)
with launching_for("sm_90"), asking() as asked, recording():
    action()
(key,) = asked
keep, pruned = tuning.prune(action, key, [*candidates(key), {"BLOCK_K": 7}], TARGETS["sm_90"])
print(json.dumps([keep, pruned]))
"""


def action():
    gram(torch.empty(2, 2).double(), [torch.empty(8, 8)], [0], zo.Directions(0, 0, 2), torch.float32)


def choose(times):
    """What is chosen if the launcher's own and then each candidate take so long."""
    remaining = iter(times)

    def measure(call):
        with recording():
            call()
        taken = next(remaining)
        if isinstance(taken, Exception):
            raise taken
        return taken

    (choice,) = tuning.tune(action, "", measure)
    return choice


def test_the_static_model_weeds_what_spills_and_what_no_launch_takes():
    names = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    done = subprocess.run(
        [sys.executable, "-c", PRUNE], env=names, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    keep, pruned = json.loads(done.stdout)
    reasons = {json.dumps(config): reason for config, reason in pruned}
    assert keep == [dict(CANDIDATES["gram", "float32"][0])]
    assert "spills" in reasons[json.dumps(CANDIDATES["gram", "float32"][1])]
    assert '{"BLOCK_K": 7}' in reasons


def test_the_fastest_is_chosen():
    choice = choose([4.0, 3.0, 2.0])
    assert choice.config == CANDIDATES["gram", "float32"][1]
    assert choice.speed_up == 2.0
    assert "2.00 times faster with BLOCK_K 16, ROWS 16, COLS 64" in tuning.describe(choice)


def test_a_lead_within_the_noise_changes_nothing():
    choice = choose([4.0, 3.99, 3.97])
    assert choice.config is choice.own
    assert "its own config stays, 4 ms (3 timed, 0 pruned)" in tuning.describe(choice)


def test_a_candidate_that_the_device_refuses_is_one_less():
    choice = choose([4.0, RuntimeError("out of resource: shared memory\nand more"), 2.0])
    assert [reason for _, reason in choice.pruned] == ["RuntimeError: out of resource: shared memory"]
    assert choice.speed_up == 2.0


def test_the_launchers_own_must_work():
    with pytest.raises(RuntimeError, match="broken"):
        choose([RuntimeError("broken")])


def test_tuning_leaves_no_choice_behind():
    choose([4.0, 3.0, 2.0])
    with recording() as launches:
        action()
    with recording() as again, trying({}):
        action()
    assert launches[0].arguments["COLS"] == again[0].arguments["COLS"] == 32


def test_the_command_says_why_it_can_not_run(capsys, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert cli.main(["tune"]) == 0
    assert "finds no GPU: nothing to run here" in capsys.readouterr().out


@pytest.mark.parametrize("dry", [True, False])
def test_the_command_keeps_what_was_faster(dry, capsys, monkeypatch, tmp_path):
    monkeypatch.setenv("ZO_TRITON_CACHE", str(tmp_path))
    monkeypatch.setattr("zo_triton._chip.why_not", lambda: None)
    monkeypatch.setattr("zo_triton.kernels.choices.device_name", lambda index: "a-device")
    found = [choose([4.0, 3.0, 2.0]), replace(choose([4.0, 4.0, 4.0]), key="gram dtype=float32 rows=to-1")]
    monkeypatch.setattr(tuning, "tune_everything", lambda say: found)
    assert cli.main(["tune", *(["--dry-run"] if dry else [])]) == 0
    said, files = capsys.readouterr().out, list(tmp_path.iterdir())
    assert len(files) == (0 if dry else 1)
    assert ("1 of 2 differ from the launchers' own" in said) is not dry
    if not dry:
        configs = json.loads(files[0].read_text())["configs"]
        assert configs == {found[0].key: dict(found[0].config)}


def test_every_work_of_the_command_has_something_to_choose():
    def measure(call):
        return 1.0

    cases = tuning.tuned_cases(TINY, torch.bfloat16)
    found = tuning.tune_cases(cases, torch.device("cpu"), "", lambda message: None, measure)
    assert {choice.key.split()[0] for choice in found} == {op for op, _ in CANDIDATES}
    assert len(found) == len(cases)
