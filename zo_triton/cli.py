"""The command line. Heavy imports wait until a subcommand needs them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

if TYPE_CHECKING:
    from rich.console import Console

FAILED = 1
USER_ERROR = 2
INTERRUPTED = 130


class _Parser(argparse.ArgumentParser):
    """Says what is wrong in one line; the usage is a ``--help`` away."""

    def error(self, message: str) -> NoReturn:
        self.exit(USER_ERROR, f"{self.prog}: error: {message} (see {self.prog} --help)\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one subcommand.

    Args:
        arguments: Without the program's name; None takes those of the process.

    Returns:
        0, 1 if a kernel failed to compile or a check or measurement on the GPU failed, 2 after a user's mistake,
        told in one line on stderr, or 130 after an interrupt.
    """
    options = _parser().parse_args(arguments)
    try:
        return options.run(options)
    except KeyboardInterrupt:
        print("zo-triton: interrupted; nothing was replaced.", file=sys.stderr)
        return INTERRUPTED
    except (ValueError, OSError, RuntimeError, ModuleNotFoundError) as error:
        text = " ".join(str(error).split())
        print(f"zo-triton: error: {text}", file=sys.stderr)
        return USER_ERROR


def _parser() -> argparse.ArgumentParser:
    parser = _Parser(prog="zo-triton", description="Zeroth-order training with fused kernels.")
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

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

    report = commands.add_parser("report", help="run the races and write a report (some minutes)")
    report.add_argument(
        "--out", default="reports/latest", help="folder, replaced whole (default reports/latest)"
    )
    report.add_argument("--seed", type=int, default=0, help="first of the seeds (default 0)")
    report.add_argument("--tiny", action="store_true", help="prove that everything works, in seconds")
    report.add_argument(
        "--compare",
        nargs=2,
        metavar=("A", "B"),
        help="run nothing: tell what changed from report A to report B",
    )
    report.add_argument(
        "--compare-fail", type=float, metavar="RATIO", help="fail if anything became so many times worse"
    )
    report.set_defaults(run=_report)

    race = commands.add_parser("race", help="race fused ZO against MeZO and backprop on one task")
    race.add_argument(
        "race",
        metavar="RACE",
        help="digits-mlp, nzk-linear, nzk-network, tiny-gpt, mnist-mlp, mnist-cnn, cifar-cnn or tiny-imagenet-cnn",
    )
    race.add_argument("--out", help="folder, replaced whole (default reports/RACE)")
    race.add_argument("--seed", type=int, default=0, help="first of the seeds (default 0)")
    race.set_defaults(run=_race)

    _add_nzk(commands)

    _add_compile(commands)

    from zo_triton.experiments.field_quality import command

    command.add_arguments(commands.add_parser("field", help="test how random the field is"))

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
        "tune", help="find the tile sizes that this machine's GPU likes best, and keep them for it"
    )
    tune.add_argument("--dry-run", action="store_true", help="measure and tell, keep nothing")
    tune.set_defaults(run=_tune)

    render = commands.add_parser("render", help="lay out a report's record again")
    render.add_argument("folder", metavar="FOLDER", help="with the record, results.json")
    render.set_defaults(run=_render)

    bench = commands.add_parser("bench", help="run the benchmarks of a checkout and refresh its report")
    bench.add_argument("--tiny", action="store_true", help="few repeats, report untouched")
    bench.set_defaults(run=_bench)
    return parser


def _add_compile(commands: argparse._SubParsersAction[_Parser]) -> None:
    compiling = commands.add_parser(
        "compile", help="compile every kernel for GPUs that need not be here; read the machine code"
    )
    compiling.add_argument(
        "--target", action="append", default=[], metavar="CHIP",
        help="sm_80, sm_90, sm_100 or gfx942; may be repeated (default all)",
    )  # fmt: skip
    compiling.add_argument(
        "--kernel", action="append", default=[], metavar="NAME",
        help="part of the name of a kernel or variant; may be repeated (default all)",
    )  # fmt: skip
    compiling.add_argument("--defaults", action="store_true", help="only the configs that launchers pick")
    compiling.add_argument("--json", metavar="FILE", help="write the record")
    compiling.add_argument("--figure", metavar="FILE", help="draw tensor against other clocks (.png or .svg)")
    compiling.add_argument("--out", metavar="DIR", help="write compile.json, compile.md and compile.png")
    compiling.set_defaults(run=_compile)


def _compile(options: argparse.Namespace) -> int:
    try:
        import triton  # noqa: F401
    except ImportError as error:
        raise ModuleNotFoundError(
            "compile needs Triton, which runs on Linux: pip install triton; all else works without it."
        ) from error
    from zo_triton.compilation import render, run
    from zo_triton.compilation.variants import VARIANTS
    from zo_triton.reporting.records import write_text

    if options.figure:
        render.check_figure(options.figure)
    jobs = run.choose(VARIANTS, options.target, options.kernel, options.defaults)
    from zo_triton.console import monitor
    from zo_triton.experiments.machine import environment

    with monitor(_console()) as told:
        told.say("compiling")
        record = run.compile_all(jobs, environment(seed=0), told.progress)
    print(render.table(record))
    if options.json:
        write_text(options.json, run.dumps(record))
    if options.figure:
        render.draw(record, options.figure)
    if options.out:
        print(f"wrote {render.write_folder(record, options.out)}")
    failed = run.failures(record)
    for row in failed:
        print(f"failed: {row['variant']} on {row['target']}: {row['error']}", file=sys.stderr)
    return FAILED if failed else 0


def _gpu(options: argparse.Namespace) -> int:
    # Only the standard library is there for certain: no console, no progress bar.
    from zo_triton.experiments.gpu import chip

    reason = chip.why_not(options.tiny)
    if reason is not None:
        print(reason)
        return 0
    import secrets

    from zo_triton.reporting import check_destination

    found = chip.find_chip()
    seed = secrets.randbelow(2**32) if options.seed is None else options.seed
    if not 0 <= seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), got {seed}.")
    folder = check_destination(options.out or f"reports/{found.slug}{'-tiny' if options.tiny else ''}")
    from zo_triton.experiments.gpu.goals import line
    from zo_triton.experiments.gpu.run import has_failed, run_gpu

    print(f"device: {found.facts}; seed {seed}", flush=True)
    if not found.has_bfloat16:
        print("bfloat16 is missing on this chip and left out; float32 works.", flush=True)
    try:
        record = run_gpu(found, folder, seed, options.tiny, lambda message: print(message, flush=True))
    except KeyboardInterrupt:
        print(f"zo-triton: interrupted; the stages that were over are in {folder}.", file=sys.stderr)
        return INTERRUPTED
    for row in record["sections"]["gpu_goals"]["rows"]:
        print(line(row))
    print(f"wrote {folder / 'report.md'}")
    return FAILED if has_failed(record) else 0


def _tune(options: argparse.Namespace) -> int:
    from zo_triton.experiments.gpu import chip

    reason = chip.why_not()
    if reason is not None:
        print(reason)
        return 0
    from zo_triton.experiments.gpu.tune import describe, tune_everything
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


def _render(options: argparse.Namespace) -> int:
    from zo_triton.reporting import publish, read

    record = read(Path(options.folder) / "results.json")
    print(f"wrote {publish(record, options.folder)}")
    return 0


def _add_nzk(commands: argparse._SubParsersAction[_Parser]) -> None:
    from zo_triton.experiments.nzk.settings import EXPERIMENTS

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
    from zo_triton.reporting import check_destination, publish

    target = check_destination(options.out or f"reports/nzk/{options.name}")
    from zo_triton.console import monitor
    from zo_triton.experiments.nzk.run import choose_settings, run_experiment

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
    with monitor(_console()) as told:
        record = run_experiment(settings, told, options.engine, options.export)
    print(f"wrote {publish(record, target)}")
    return 0


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
    console = _console()
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


def _report(options: argparse.Namespace) -> int:
    if options.compare:
        return _compare(options)
    if options.compare_fail is not None:
        raise ValueError("--compare-fail needs --compare A B, the two reports.")
    from zo_triton.experiments.report import run_report

    return _measure(options, options.out, lambda say: run_report(options.seed, options.tiny, say))


def _compare(options: argparse.Namespace) -> int:
    from zo_triton.reporting import compare, read

    paths = [Path(each) for each in options.compare]
    before, after = (read(path if path.suffix == ".json" else path / "results.json") for path in paths)
    allowed = compare.ALLOWED if options.compare_fail is None else options.compare_fail
    print(compare.render(before, after, allowed))
    if options.compare_fail is None:
        return 0
    worse = [change for change in compare.compare(before, after) if change.verdict(allowed) == compare.WORSE]
    return FAILED if worse else 0


def _race(options: argparse.Namespace) -> int:
    from zo_triton.experiments.races import find_race
    from zo_triton.experiments.report import run_race

    find_race(options.race)
    return _measure(
        options,
        options.out or f"reports/{options.race}",
        lambda say: run_race(options.race, options.seed, say),
    )


def _measure(
    options: argparse.Namespace, folder: str, run: Callable[[Callable[[str], None]], dict[str, Any]]
) -> int:
    """Runs an experiment, telling what it does, and publishes its record."""
    # A wrong folder is told before the minutes are spent, not after.
    from zo_triton.reporting import check_destination, publish

    target = check_destination(folder)
    if not 0 <= options.seed < 2**32:
        raise ValueError(f"seed must be in [0, 2**32), got {options.seed}.")
    console = _console()
    if console.is_terminal:
        with console.status("starting") as status:
            record = run(status.update)
    else:
        record = run(lambda message: print(message, flush=True))
    print(f"wrote {publish(record, target)}")
    return 0


def _bench(options: argparse.Namespace) -> int:
    import subprocess

    checkout = Path(__file__).resolve().parents[1]
    if not (checkout / "benchmarks").is_dir() or not (checkout / "conftest.py").is_file():
        raise ValueError(
            f"bench needs a checkout with a benchmarks folder, and {checkout} is none; clone the project."
        )
    command = [sys.executable, "-m", "pytest", "--benchmark", *(["--tiny"] if options.tiny else [])]
    return subprocess.run(command, cwd=checkout).returncode


def _console() -> Console:
    from rich.console import Console

    return Console()


if __name__ == "__main__":
    sys.exit(main())
