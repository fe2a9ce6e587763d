"""``python -m benchmarks gpu``."""

from __future__ import annotations

import argparse
import sys

from zo_triton.commands.shared import FAILED, INTERRUPTED, Parser
from zo_triton.directions import check_seed

STILL_WORKS = "`make test` runs the kernels in Triton's interpreter and `make report` the CPU engine."


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    gpu = commands.add_parser(
        "gpu", help="check and measure everything on this machine's GPU (at most eight minutes)"
    )
    gpu.add_argument("--out", help="folder, replaced whole (default reports/DEVICE)")
    gpu.add_argument("--seed", type=int, help="of every random input (default: a fresh one)")
    gpu.add_argument(
        "--tiny", action="store_true", help="prove the path in a minute, in the interpreter without a GPU"
    )
    gpu.set_defaults(run=_gpu)


def _gpu(options: argparse.Namespace) -> int:
    from zo_triton import _chip

    reason = _chip.why_not(options.tiny, STILL_WORKS)
    if reason is not None:
        print(reason)
        return 0
    import secrets

    from benchmarks.report import check_destination

    found = _chip.find_chip()
    # Half as many digits as a seed may have are enough, and easier to type again.
    seed = secrets.randbelow(2**32) if options.seed is None else check_seed(options.seed)
    folder = check_destination(options.out or f"reports/{found.slug}{'-tiny' if options.tiny else ''}")
    from benchmarks.gpu.goals import line
    from benchmarks.gpu.run import has_failed, run_gpu, stage_folder
    from benchmarks.gpu.settings import STAGES, TINY_STAGES
    from zo_triton._progress import monitor

    print(f"device: {found.facts}; seed {seed}", flush=True)
    if not found.has_bfloat16:
        print("bfloat16 is missing on this chip and left out; float32 works.", flush=True)
    try:
        budgets = TINY_STAGES if options.tiny else STAGES
        with monitor(budgets) as told:
            record = run_gpu(found, folder, seed, options.tiny, told, budgets)
    except KeyboardInterrupt:
        print(
            f"python -m benchmarks: interrupted; the stages that were over are in {folder}, and what this one "
            f"had found by then is in {stage_folder(folder)}.",
            file=sys.stderr,
        )
        return INTERRUPTED
    for row in record["sections"]["gpu_goals"]["rows"]:
        print(line(row))
    print(f"wrote {folder / 'report.md'}")
    return FAILED if has_failed(record) else 0
