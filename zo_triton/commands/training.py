"""``zo-triton train``."""

from __future__ import annotations

import argparse

from zo_triton.commands.shared import Parser, make_console


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    train = commands.add_parser("train", help="train a model with a progress bar")
    train.add_argument(
        "--task",
        default="digits",
        help="digits (default), nzk-linear, nzk-network, tiny-gpt, mnist-mlp, mnist-cnn, cifar-cnn or "
        "tiny-imagenet-cnn",
    )
    train.add_argument(
        "--method",
        default="zo-adam",
        help="zo-adam (default), zo-sgd, mezo-adam, mezo-1, adam or sgd",
    )
    train.add_argument("--lr", type=float, help="learning rate; default: one that suits the method")
    train.add_argument("--directions", type=int, help="directions a step of a zeroth-order method")
    train.add_argument("--seed", type=int, default=0, help="of weights, batches and directions (default 0)")
    train.add_argument("--steps", type=int, help="default: what suits the task, 500 for digits")
    train.add_argument("--engine", help="reference, cpu or triton; default: the device's own")
    train.set_defaults(run=_train)


def _train(options: argparse.Namespace) -> int:
    from zo_triton.experiments.train import train

    run = train(
        options.task,
        options.method,
        options.lr,
        options.directions,
        options.seed,
        options.steps,
        options.engine,
    )
    console = make_console()
    if run.note:
        console.print(run.note, highlight=False, soft_wrap=True)
    if not console.is_terminal:
        for now in run.progress:
            if now.step % 50 == 0 or now.step in (1, run.steps):
                print(f"step {now.step}/{run.steps} loss {now.loss:.4f} accuracy {100 * now.accuracy:.1f} %")
        return 0
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn(options.method), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn(),
        TextColumn("loss {task.fields[loss]:.4f} accuracy {task.fields[accuracy]:.1f} %"),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task(options.task, total=run.steps, loss=float("nan"), accuracy=float("nan"))
        for now in run.progress:
            bar.update(task, completed=now.step, loss=now.loss, accuracy=100 * now.accuracy)
    return 0
