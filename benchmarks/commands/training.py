"""``python -m benchmarks train``."""

from __future__ import annotations

import argparse
import sys
from time import monotonic
from typing import TYPE_CHECKING

from benchmarks.catalogue import ENGINES, METHODS, TASKS
from benchmarks.commands.listing import add_list
from zo_triton.commands.shared import INTERRUPTED, Parser

if TYPE_CHECKING:
    from benchmarks.train.training import Run

_ASKED = (
    "task",
    "method",
    "lr",
    "directions",
    "seed",
    "steps",
    "engine",
    "halve_after",
    "checkpoint_every",
    "shards",
)


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    train = commands.add_parser("train", help="train a model with a progress bar")
    train.add_argument("--task", help=f"{', '.join(TASKS)} (default digits)")
    train.add_argument("--method", help=f"{', '.join(METHODS)} (default zo-adam)")
    add_list(train, tasks=TASKS, methods=METHODS, engines=ENGINES)
    train.add_argument("--lr", type=float, help="learning rate; default: one that suits the method")
    train.add_argument("--directions", type=int, help="directions a step of a zeroth-order method")
    train.add_argument("--seed", type=int, help="of weights, batches and directions (default 0)")
    train.add_argument(
        "--steps", type=int,
        help="default: what suits the task, 500 for digits; with --resume: more than it had, to go on for longer",
    )  # fmt: skip
    train.add_argument("--engine", help="reference, cpu or triton; default: the device's own")
    train.add_argument(
        "--halve-after", type=int, metavar="N",
        help="steps after which the learning rate is halved, after 2N it is a third, and so on; 0 keeps it "
        "(default: the task's own number)",
    )  # fmt: skip
    place = train.add_mutually_exclusive_group()
    place.add_argument("--out", metavar="DIR", help="keep settings, first weights, log and checkpoints there")
    place.add_argument("--resume", metavar="DIR", help="go on with the run that is there, from its last step")
    train.add_argument(
        "--checkpoint-every", type=int, metavar="N", help="steps between checkpoints with --out (default 100)"
    )
    train.add_argument(
        "--intact-prefix",
        action="store_true",
        help="with --resume: cut a damaged log off where its damage begins",
    )
    train.add_argument(
        "--distributed", action="store_true",
        help="share zo-adam or zo-sgd among the processes of torchrun -m benchmarks train --distributed",
    )  # fmt: skip
    train.add_argument(
        "--shards", type=int, metavar="S",
        help="with --distributed: runs into which the directions are cut, a multiple of the ranks (default 4)",
    )  # fmt: skip
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    # An unknown name is told before torch is loaded.
    for table, name in ((TASKS, options.task), (METHODS, options.method), (ENGINES, options.engine)):
        if name is not None:
            table[name]
    from benchmarks.train.training import choose, resume, train

    folder = options.out or options.resume
    asked = {name: getattr(options, name) for name in _ASKED}
    if options.intact_prefix and options.resume is None:
        raise ValueError("--intact-prefix needs --resume DIR, the run whose log is damaged.")
    if options.checkpoint_every is not None and options.out is None and options.resume is None:
        raise ValueError("--checkpoint-every needs --out DIR, where the checkpoints go.")
    if options.shards is not None and not options.distributed:
        raise ValueError("--shards needs --distributed, the ranks that share them.")
    try:
        if options.distributed:
            from benchmarks.train.shared_training import shared_run

            with shared_run(asked, options.out, options.resume, options.intact_prefix) as (run, leads):
                _show(run, folder, leads)
        elif options.resume is None:
            _show(train(choose(**asked), options.out), folder)
        else:
            _show(resume(options.resume, options.intact_prefix, **asked), folder)
    except KeyboardInterrupt:
        if folder is None:
            raise
        more = " --distributed, under torchrun" if options.distributed else ""
        print(
            f"python -m benchmarks: interrupted; go on with: python -m benchmarks train --resume {folder}{more}",
            file=sys.stderr,
        )
        return INTERRUPTED
    return 0


def _show(run: Run, folder: str | None, leads: bool = True) -> None:
    """Trains, and tells on a bar or in lines how it goes; of many ranks only the one that leads does."""
    if not leads:
        for _ in run.progress:
            pass
        return
    from zo_triton._progress import NOTE, monitor, spell

    steps, accuracies, began = run.settings.steps, {}, monotonic()
    with monitor() as told:
        if run.note:
            told.say(NOTE + run.note)
        if run.done:
            told.say(f"{NOTE}going on after step {run.done} of {steps}")
        for now in run.progress:
            accuracies[now.step] = now.accuracy
            told.progress(
                now.step,
                steps,
                f"step {now.step}/{steps} loss {now.loss:.4f} accuracy {100 * now.accuracy:.1f} %",
            )
    if accuracies:
        best = max(accuracies, key=lambda step: accuracies[step])
        print(
            f"ended after {len(accuracies)} steps at accuracy {100 * accuracies[steps]:.1f} %, "
            f"at best {100 * accuracies[best]:.1f} % in step {best}, after {spell(monotonic() - began)}"
            + (f"; {folder} holds the run" if folder else "")
        )
