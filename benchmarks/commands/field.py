"""``python -m benchmarks field``: tests how random the field is, or hands its words to a battery outside."""

from __future__ import annotations

import argparse
import sys
from time import monotonic

from benchmarks.catalogue import READINGS
from benchmarks.commands.ending import tell_end
from zo_triton.commands.shared import Parser
from zo_triton.directions import check_seed


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    parser = commands.add_parser("field", help="test how random the field is")
    parser.add_argument("--out", help="folder, replaced whole (default reports/field)")
    parser.add_argument("--seed", type=int, default=0, help="of the field (default 0)")
    parser.add_argument("--full", action="store_true", help="2**30 words instead of 2**24: some ten minutes")
    parser.add_argument("--tiny", action="store_true", help="prove that everything works, in a second")
    parser.add_argument(
        "--stream", metavar="READING",
        help="test nothing: write the words of a reading (columns, rows, directions, tensors, steps, seeds, "
        "'seed halves' or '7 rounds') to standard output without end, for dieharder -g 200 or PractRand's stdin32",
    )  # fmt: skip
    parser.set_defaults(run=_field)


def _field(options: argparse.Namespace) -> int:
    check_seed(options.seed)
    if options.stream is not None:
        return _stream(options.stream, options.seed)
    from benchmarks.report import check_destination, new_record, publish

    target = check_destination(options.out or f"reports/{'tiny/' if options.tiny else ''}field")
    from benchmarks.field import run as quality
    from zo_triton._machine import environment
    from zo_triton._progress import monitor

    config = quality.FULL if options.full else quality.choose_config(options.tiny)
    origin, began = environment(options.seed), monotonic()
    with monitor(quality.plan_of(config)) as told:
        section = quality.run_field_quality(config, options.seed, told.enter)
    record = new_record(origin, {"field_quality": section}, options.tiny)
    tell_end(record, publish(record, target), monotonic() - began)
    return int(quality.has_failed(section))


def _stream(reading: str, seed: int) -> int:
    READINGS[reading]  # an unknown one is told before anything is loaded
    from benchmarks.field.words import stream

    try:
        for words in stream(reading, seed):
            sys.stdout.buffer.write(words)
    except BrokenPipeError:
        # The reader has had enough; Python must not complain about the flush at its exit.
        sys.stdout = None
    return 0
