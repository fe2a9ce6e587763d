"""One stage in a process of its own: an error that spoils a GPU's context, or a hang, ends no other stage.

Run as ``python -m benchmarks.gpu.stage NAME --seconds S --seed N --out FILE [--shard I --shards N] [--tiny]``, and
once more with the same file to go on where an earlier process ended.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from functools import partial

import torch

import zo_triton as zo
from benchmarks.gpu.ceilings import run_ceilings
from benchmarks.gpu.checks import run_checks
from benchmarks.gpu.kernel_times import run_kernels
from benchmarks.gpu.layer_rates import run_layers
from benchmarks.gpu.races import run_race
from benchmarks.gpu.results import FAILED, SpoiledError, StageContext, StageResults
from benchmarks.gpu.step_times import run_steps
from zo_triton._chip import find_chip

STAGES: dict[str, Callable[[StageResults], None]] = {
    "checks": run_checks,
    "ceilings": run_ceilings,
    "kernels": run_kernels,
    "layers": run_layers,
    "steps": run_steps,
    "digits": partial(run_race, name="digits-gpu", section="race"),
    "mnist": partial(run_race, name="mnist-gpu", section="race_mnist"),
}


SPOILED = 3
"""Status of a process whose device refuses everything after an error."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a stage and leaves its findings in a file.

    Returns:
        1 if anything failed, :data:`SPOILED` if the rest needs another process, else 0.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=tuple(STAGES))
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--shard", type=int, default=0)
    parser.add_argument("--shards", type=int, default=1)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(arguments)
    chip = find_chip()
    device = torch.device("cuda" if chip.name else "cpu")
    context = StageContext(device, options.tiny, options.seed, chip.has_bfloat16)
    results = StageResults(options.out, context, options.seconds, options.shard, options.shards)
    try:
        with zo.use_engine("triton"):
            STAGES[options.name](results)
    except SpoiledError:
        return SPOILED
    except Exception as error:
        results.report("the stage itself", FAILED, f"{type(error).__name__}: {error}")
    results.write()
    return 1 if any(one["status"] == FAILED for one in results.incidents) else 0


if __name__ == "__main__":
    sys.exit(main())
