"""``python -m benchmarks nzk``."""

from __future__ import annotations

import argparse
from time import monotonic

from benchmarks.commands.ending import tell_end
from zo_triton.commands.shared import Parser


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    from benchmarks.nzk.settings import EXPERIMENTS

    nzk = commands.add_parser("nzk", help="run an experiment of the kernel theory with the paper's settings")
    nzk.add_argument("name", choices=tuple(EXPERIMENTS), metavar="NAME", help=", ".join(EXPERIMENTS))
    nzk.add_argument("--steps", type=int, help="of every curve (default 16000)")
    nzk.add_argument("--lr", type=float, help="learning rate of every method (default 1e-3)")
    nzk.add_argument("--draws", type=int, help="of the empirical kernels (default 10000)")
    nzk.add_argument(
        "--directions",
        type=int,
        help="averaged in a kernel (default 1); for the networks, a step of the real one (default 100)",
    )
    nzk.add_argument("--seed", type=int, default=0, help="of data, weights and directions (default 0)")
    nzk.add_argument("--out", help="folder, replaced whole (default reports/nzk/NAME)")
    nzk.add_argument("--engine", help="of the runs in parameter space: reference, cpu or triton")
    nzk.add_argument("--resize", default="bilinear", help="of images: bilinear (default) or area")
    nzk.add_argument("--export", metavar="DATA.mat", help="write the data in MATLAB's format as well")
    nzk.add_argument("--tiny", action="store_true", help="prove that everything works, in seconds")
    nzk.set_defaults(run=_nzk)


def _nzk(options: argparse.Namespace) -> int:
    from benchmarks.report import check_destination, publish

    target = check_destination(options.out or f"reports/{'tiny/' if options.tiny else ''}nzk/{options.name}")
    from benchmarks.nzk.run import choose_settings, run_experiment
    from zo_triton._progress import monitor

    settings = choose_settings(
        options.name,
        options.steps,
        options.lr,
        options.draws,
        options.directions,
        options.seed,
        options.resize,
        options.tiny,
    )
    began = monotonic()
    with monitor() as told:
        record = run_experiment(settings, told, options.engine, options.export)
    tell_end(record, publish(record, target), monotonic() - began)
    return 0
