"""``python -m benchmarks gpu`` and ``tune``: what needs the device itself."""

from __future__ import annotations

import argparse
import sys

from zo_triton.commands.shared import FAILED, INTERRUPTED, Parser
from zo_triton.directions import check_seed


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the commands."""
    gpu = commands.add_parser(
        "gpu", help="check and measure everything on this machine's GPU (at most eight minutes)"
    )
    gpu.add_argument("--out", help="folder, replaced whole (default reports/DEVICE)")
    gpu.add_argument("--seed", type=int, help="of every random input (default: a fresh one)")
    gpu.add_argument(
        "--tiny", action="store_true", help="prove the path in a minute, in the interpreter without a GPU"
    )
    gpu.set_defaults(run=_gpu)

    tune = commands.add_parser(
        "tune", help="find the tile sizes that are fastest on this machine's GPU, and keep them for it"
    )
    tune.add_argument("--dry-run", action="store_true", help="measure and tell, keep nothing")
    tune.set_defaults(run=_tune)


def _gpu(options: argparse.Namespace) -> int:
    # Only the standard library is there for certain: no console, no progress bar.
    from benchmarks.gpu import chip

    reason = chip.why_not(options.tiny)
    if reason is not None:
        print(reason)
        return 0
    import secrets

    from benchmarks.report import check_destination

    found = chip.find_chip()
    # Half as many digits as a seed may have are enough, and easier to type again.
    seed = secrets.randbelow(2**32) if options.seed is None else check_seed(options.seed)
    folder = check_destination(options.out or f"reports/{found.slug}{'-tiny' if options.tiny else ''}")
    from benchmarks.gpu.goals import line
    from benchmarks.gpu.run import has_failed, run_gpu

    print(f"device: {found.facts}; seed {seed}", flush=True)
    if not found.has_bfloat16:
        print("bfloat16 is missing on this chip and left out; float32 works.", flush=True)
    try:
        record = run_gpu(found, folder, seed, options.tiny, lambda message: print(message, flush=True))
    except KeyboardInterrupt:
        print(
            f"python -m benchmarks: interrupted; the stages that were over are in {folder}.", file=sys.stderr
        )
        return INTERRUPTED
    for row in record["sections"]["gpu_goals"]["rows"]:
        print(line(row))
    print(f"wrote {folder / 'report.md'}")
    return FAILED if has_failed(record) else 0


def _tune(options: argparse.Namespace) -> int:
    from benchmarks.gpu import chip

    reason = chip.why_not()
    if reason is not None:
        print(reason)
        return 0
    from benchmarks.gpu.tune import describe, tune_everything
    from zo_triton.kernels.choices import device_name, keep

    found = tune_everything(lambda message: print(message, flush=True))
    for choice in found:
        print(describe(choice))
    if not options.dry_run:
        faster = {choice.key: choice.config if choice.config is not choice.own else None for choice in found}
        differ = sum(config is not None for config in faster.values())
        path = keep(device_name(0), faster)
        print(f"wrote {path}: {differ} of {len(found)} differ from the launchers' own")
    return 0
