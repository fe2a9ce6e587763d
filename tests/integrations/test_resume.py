"""A run that was cut off by kill -9 goes on from its last checkpoint as if nothing had happened, bit for bit."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from resumed_program import SAVE_EVERY, STEPS, new_trainer
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

PROGRAM = Path(__file__).with_name("resumed_program.py")
ROOT = PROGRAM.parents[2]
CUT = 5
FILES = ("model.safetensors", "optimizer.pt", "scheduler.pt", "rng_state.pth", "trainer_state.json")


def written(folder):
    """The losses in the event files below a folder, by step; a step that was run twice was logged twice."""
    return {
        (event.step, event.value)
        for file in folder.rglob("events.*")
        for events in [EventAccumulator(str(file)).Reload()]
        if "train/loss" in events.Tags()["scalars"]
        for event in events.Scalars("train/loss")
    }


def assert_same_end(whole, resumed):
    for name in FILES:
        one, other = (folder / f"checkpoint-{STEPS}" / name for folder in (whole, resumed))
        assert one.read_bytes() == other.read_bytes(), name


def test_a_killed_run_goes_on_bit_for_bit(tmp_path):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(map(str, (*sys.path, ROOT)))}
    with subprocess.Popen(
        [sys.executable, PROGRAM, cut, str(CUT)], env=environment, stdout=subprocess.DEVNULL
    ) as killed:
        new_trainer(whole).train()
    assert killed.returncode == -signal.SIGKILL
    saved = sorted(path.name for path in cut.glob("checkpoint-*"))
    assert saved == [f"checkpoint-{step}" for step in range(SAVE_EVERY, CUT, SAVE_EVERY)]
    new_trainer(cut).train(resume_from_checkpoint=True)
    assert_same_end(whole, cut)
    assert written(cut) == written(whole)
    assert {step for step, _ in written(whole)} == set(range(1, STEPS + 1))


@pytest.mark.parametrize("optimizer", ["zosgd-bfloat16", "adamw"])
def test_other_optimizers_go_on_bit_for_bit(tmp_path, optimizer):
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    new_trainer(whole, optimizer).train()
    new_trainer(resumed, optimizer).train(resume_from_checkpoint=str(whole / f"checkpoint-{SAVE_EVERY}"))
    assert_same_end(whole, resumed)
