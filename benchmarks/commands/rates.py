"""``python -m benchmarks rates``: whether the learning rates that the library advises hold."""

from __future__ import annotations

import argparse

from benchmarks.catalogue import NETWORKS as NAMES
from benchmarks.commands.listing import add_list
from zo_triton.commands.shared import FAILED, Parser


def add(commands: argparse._SubParsersAction[Parser]) -> None:
    """Adds the command."""
    rates = commands.add_parser(
        "rates",
        help="train with half the advised learning rate, then with four times the limit; write a page",
    )
    rates.add_argument("networks", nargs="*", metavar="NETWORK", help="by name (default all, with a page)")
    rates.add_argument("--out", help="file to write (default docs/learning-rates.md)")
    rates.add_argument(
        "--update", action="store_true", help="put the rows of the named networks in the place of the page's"
    )
    add_list(rates, networks=NAMES)
    rates.set_defaults(run=_rates)


def _rates(options: argparse.Namespace) -> int:
    for name in options.networks:
        NAMES[name]  # an unknown one is told before torch is loaded
    from pathlib import Path

    from benchmarks.rates import page
    from benchmarks.rates.networks import NETWORKS
    from benchmarks.rates.run import MOMENTA, measure
    from zo_triton._progress import monitor

    chosen = [NETWORKS[name] for name in options.networks or NETWORKS]
    cases = [(network, way, b) for network in chosen for way in network.ways for b in MOMENTA]
    rows = []
    with monitor() as told:
        for done, (network, way, momentum) in enumerate(cases, 1):
            row = measure(network, way, momentum)
            rows.append(row)
            told.progress(done, len(cases))
            told.say(
                f"{done} of {len(cases)}: {row.network}, {way}, momentum {momentum:g}: advised {row.advised:.3g}, "
                f"at half of it loss {row.first:.3g} to {row.late:.3g}, at four times the limit there up to "
                f"{row.highest:.3g} times that"
            )
    if options.out or options.update or not options.networks:
        target = Path(options.out) if options.out else page.PAGE
        kept = page.read(target.read_text(encoding="utf-8")) if options.update else []
        target.write_text(page.told(page.merged(kept, rows)), encoding="utf-8")
        print(f"wrote {target}")
    return 0 if all(row.falls and row.diverges for row in rows) else FAILED
