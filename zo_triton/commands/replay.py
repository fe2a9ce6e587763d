"""``zo-triton replay``."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from zo_triton.commands.shared import Parser

if TYPE_CHECKING:
    from zo_triton.runlog import Contents


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    replay = commands.add_parser("replay", help="make a run's weights again from its log, bit for bit")
    replay.add_argument("log", metavar="LOG", help="as training wrote it")
    replay.add_argument(
        "--from", dest="start", metavar="FILE", help="safetensors with the weights it began with"
    )
    replay.add_argument("--out", metavar="FILE", help="safetensors to write")
    replay.add_argument("--steps", type=int, help="how many to take (default all)")
    replay.add_argument("--engine", help="reference, cpu or triton; default: the device's own")
    replay.add_argument(
        "--intact-prefix",
        action="store_true",
        help="take a damaged log up to its damage instead of refusing it",
    )
    only = replay.add_mutually_exclusive_group()
    only.add_argument("--inspect", action="store_true", help="tell what the log says, replay nothing")
    only.add_argument(
        "--verify", action="store_true", help="tell whether every byte, and --from, is right; replay nothing"
    )
    replay.set_defaults(run=_replay)


def _replay(options: argparse.Namespace) -> int:
    telling = options.inspect or options.verify
    if not telling and (options.start is None or options.out is None):
        raise ValueError("replay needs --from FILE and --out FILE; or --inspect, or --verify.")
    from zo_triton.runlog import check_weights, load_weights, read

    if options.inspect:
        print(_description(read(options.log, intact_prefix=True)))
        return 0
    contents = read(options.log, options.intact_prefix)
    if options.verify:
        if options.start is not None:
            check_weights(contents, load_weights(options.start))
        print(f"intact: {contents.steps} steps{_end_of(contents)}")
        if options.start is not None:
            print(f"{options.start}: the weights it began with")
        return 0
    steps = _write(options, contents)
    print(f"wrote {options.out}: the weights after step {contents.first_step + steps}{_end_of(contents)}")
    return 0


def _write(options: argparse.Namespace, contents: Contents) -> int:
    from zo_triton.ops import use_engine
    from zo_triton.runlog import load_weights, replay, save_weights

    with use_engine(options.engine):
        weights = replay(contents, load_weights(options.start), options.steps)
    save_weights(weights, options.out)
    return contents.steps if options.steps is None else int(options.steps)


def _description(contents: Contents) -> str:
    from math import prod

    from zo_triton.runlog.format import OVERHEAD

    header, count = contents.header, contents.settings["directions"]
    weights = sum(prod(shape) for shape in contents.shapes.values())
    body = contents.end.byte - contents.header_bytes
    mean = f", {body / contents.steps:.1f} on average with changed settings" if contents.steps else ""
    lines = [
        f"steps: {contents.steps}, from {contents.first_step} to {contents.end.step}{_end_of(contents)}",
        f"bytes a step: {4 * count + OVERHEAD} (4 for each of {count} coefficients and {OVERHEAD}){mean}",
        f"bytes: {contents.size}; the {weights} weights themselves take {weights * 4} in float32",
        f"weights at the start: {header['weights']}",
        f"written by zo_triton {header['zo_triton']}, optimizer {header['optimizer']}",
    ]
    lines += [f"{name}: {value}" for name, value in header["measured"].items()]
    lines += [f"{name}: {value}" for name, value in contents.settings.items()]
    for entry in header["parameters"]:
        lines.append(f"parameter {entry['name']}: {entry['dtype']} {entry['shape']}")
    return "\n".join(lines)


def _end_of(contents: Contents) -> str:
    end = contents.end
    if end.damage:
        return f"; damaged at step {end.step}, byte {end.byte}: {end.damage}"
    if end.torn:
        return f"; then {end.torn} bytes of a torn record of step {end.step} at byte {end.byte}, as a crash leaves"
    return ""
