"""One stage in a process of its own: an error that spoils a GPU's context, or a hang, ends no other stage.

Run as ``python -m zo_triton.experiments.gpu.stage NAME --seconds S --seed N --out FILE [--tiny]``.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence

import torch

import zo_triton as zo
from zo_triton.experiments.gpu.ceilings import run_ceilings
from zo_triton.experiments.gpu.checks import run_checks
from zo_triton.experiments.gpu.chip import find_chip
from zo_triton.experiments.gpu.desk import FAILED, Desk, Place
from zo_triton.experiments.gpu.kernel_times import run_kernels
from zo_triton.experiments.gpu.layer_rates import run_layers
from zo_triton.experiments.gpu.races import run_digits, run_mnist
from zo_triton.experiments.gpu.step_times import run_steps

STAGES: dict[str, Callable[[Desk], None]] = {
    "checks": run_checks,
    "ceilings": run_ceilings,
    "kernels": run_kernels,
    "layers": run_layers,
    "steps": run_steps,
    "digits": run_digits,
    "mnist": run_mnist,
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
    desk = Desk(options.out, Place(device, options.tiny, options.seed, chip.has_bfloat16), options.seconds)
    try:
        with zo.use_engine("triton"):
            STAGES[options.name](desk)
    except Exception as error:
        desk.report("the stage itself", FAILED, f"{type(error).__name__}: {error}")
    desk.write()
    return 1 if any(one["status"] == FAILED for one in desk.incidents) else 0


if __name__ == "__main__":
    sys.exit(main())
