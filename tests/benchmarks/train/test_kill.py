"""Training runs killed at random moments, in processes of its own, ends as if nothing had happened."""

import multiprocessing
import os
import random
import time

import pytest

from benchmarks.__main__ import main
from benchmarks.train.training import choose, resume, train

KILLS = 50 if os.environ.get("ZO_TRITON_NIGHTLY") == "1" else 3
STEPS = 60 * KILLS
IMPORTED = [
    "benchmarks.train.training", "safetensors.torch", "sklearn.datasets", "torch._dynamo",
    "zo_triton.cpu", "zo_triton.difference", "zo_triton.ops",
]  # fmt: skip
TOLD = ["--steps", str(STEPS), "--directions", "16", "--checkpoint-every", "3"]


@pytest.fixture
def start():
    """Starts the command in a process forked from one that has imported what it needs, which takes seconds."""
    server = multiprocessing.get_context("forkserver")
    server.set_forkserver_preload(IMPORTED)

    def begin(*arguments):
        process = server.Process(target=main, args=(["train", *arguments],))
        process.start()
        return process

    return begin


def size(path):
    return path.stat().st_size if path.exists() else 0


@pytest.mark.slow
def test_kills_at_random_moments_change_nothing(start, tmp_path):
    """A kill comes within 2 ms after a random step, so that the log or, at every third, the checkpoint is at work.

    After each, the log is a beginning of the straight run's.
    """
    straight, killed = tmp_path / "straight", tmp_path / "killed"
    for _ in train(choose(steps=STEPS, directions=16, checkpoint_every=3), straight).progress:
        pass
    expected = (straight / "log.zo").read_bytes()
    moments, bytes_a_step = random.Random(5), (len(expected) - 1000) // STEPS
    for kill in range(KILLS):
        process = start(*TOLD, "--out", str(killed)) if kill == 0 else start("--resume", str(killed))
        wanted = size(killed / "log.zo") + moments.randrange(1, 40) * bytes_a_step
        while size(killed / "log.zo") < wanted and process.is_alive():
            time.sleep(0.0002)
        time.sleep(moments.random() * 0.002)
        assert process.is_alive()
        process.kill()
        process.join()
        assert expected.startswith((killed / "log.zo").read_bytes())
    for _ in resume(killed).progress:
        pass
    names = sorted(path.name for path in straight.iterdir())
    assert sorted(path.name for path in killed.iterdir()) == names
    for name in names:
        assert (killed / name).read_bytes() == (straight / name).read_bytes(), name
