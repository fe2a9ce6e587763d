"""One stage in a process of its own: an error that spoils a GPU's context, or a hang, ends no other stage.

Run as ``python -m benchmarks.gpu.stage NAME --seconds S --seed N --out FILE [--tiny]``.
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
from benchmarks.gpu.results import FAILED, StageContext, StageResults
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


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs a stage and leaves its findings in a file.

    Returns:
        1 if anything failed, else 0.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("name", choices=tuple(STAGES))
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--seed", type=int, required=True)
    parser.add_argument("--out", required=True)
    parser.add_argument("--tiny", action="store_true")
    options = parser.parse_args(arguments)
    chip = find_chip()
    device = torch.device("cuda" if chip.name else "cpu")
    results = StageResults(
        options.out, StageContext(device, options.tiny, options.seed, chip.has_bfloat16), options.seconds
    )
    try:
        with zo.use_engine("triton"):
            STAGES[options.name](results)
    except Exception as error:
        results.report("the stage itself", FAILED, f"{type(error).__name__}: {error}")
    results.write()
    return 1 if any(one["status"] == FAILED for one in results.incidents) else 0


if __name__ == "__main__":
    sys.exit(main())
