"""The record's section ``field_quality``: everything that is asked of the field's randomness, and the answers."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from benchmarks.field import addressing, moments
from benchmarks.field.batteries import TESTS, Battery
from benchmarks.field.planted import PLANTED
from benchmarks.field.words import CHUNK, READINGS, Source, read_field
from benchmarks.timing import round_digits

BOUND = 1e-6
"""A p-value below this, among about 150, is no chance."""

DISTRIBUTIONS, ADDRESSES, GENERATORS = (
    f"random quality: {part}" for part in ("distributions", "addresses", "planted generators")
)


@dataclass(frozen=True)
class FieldConfig:
    """How much is drawn.

    Args:
        readings: Of :data:`READINGS`.
        chunks: Of each reading, 2**20 words each.
        words: Of a chunk that are looked at, a multiple of 2**19.
        draws: Of each distribution.
        values: A draw, a sixteenth of it for the sphere.
        box: Tensors, directions and steps of the box whose addresses are all drawn.
        blocks: Of each of its addresses.
        edges: Whether addresses at the edges and random ones are drawn as well.
        planted: Generators with a known fault that the batteries are tried on.
    """

    readings: tuple[str, ...] = tuple(READINGS)
    chunks: int = 2
    words: int = CHUNK
    draws: int = 4
    values: int = 1 << 14
    box: tuple[int, int, int] = (4, 8, 8)
    blocks: int = 64
    edges: bool = True
    planted: tuple[str, ...] = tuple(PLANTED)


TINY = FieldConfig(
    readings=("steps",), chunks=1, words=CHUNK // 2, draws=1, values=1 << 10, box=(2, 2, 2), edges=False,
    planted=("neighbouring streams that are equal",),
)  # fmt: skip
FULL = FieldConfig(chunks=128, draws=16, values=1 << 16, box=(8, 16, 32))
"""2**30 words."""


def choose_config(tiny: bool) -> FieldConfig:
    """Tiny, or full where ``ZO_TRITON_NIGHTLY=1`` says that there are minutes to spend, or the usual."""
    if tiny:
        return TINY
    return FULL if os.environ.get("ZO_TRITON_NIGHTLY") == "1" else FieldConfig()


def plan_of(config: FieldConfig) -> dict[str, float]:
    """Seconds on a quiet core of each thing that :func:`run_field_quality` says, by what it says."""
    chunk = 0.3 * config.words / CHUNK
    drawn = config.draws * config.values / (1 << 16)
    return {
        **{_reading(reading): chunk * config.chunks for reading in config.readings},
        DISTRIBUTIONS: drawn,
        ADDRESSES: 1.0,
        GENERATORS: chunk * len(config.planted),
    }


def _reading(name: str) -> str:
    return f"random quality: {name}"


def run_field_quality(config: FieldConfig, seed: int, say: Callable[[str], None]) -> dict[str, Any]:
    """Draws the field on the CPU engine and tests it.

    Args:
        config: How much.
        seed: Of the field.
        say: Told what runs now.

    Returns:
        The section; ``smallest_p`` is over everything but the planted generators.
    """
    batteries: dict[str, dict[str, float]] = {}
    for reading in config.readings:
        say(_reading(reading))
        batteries[reading] = _examine(read_field, reading, seed, config.chunks, config.words).p_values()
    tests: list[dict[str, Any]] = [
        {
            "name": name,
            "looks": looks,
            "p": {reading: _digits(p_values[name]) for reading, p_values in batteries.items()},
        }
        for name, looks in TESTS.items()
    ]
    say(DISTRIBUTIONS)
    laws = []
    for number, (name, law) in enumerate(moments.LAWS.items()):
        found: dict[str, Any] = moments.examine(law, seed, config.draws, config.values, number << 16)
        found["z"] = [None if z is None else round(z, 2) for z in found["z"]]
        found["ks"] = None if found["ks"] is None else _digits(found["ks"])
        laws.append({"name": name, **found})
    say(ADDRESSES)
    addresses = _addresses(config, seed)
    say(GENERATORS)
    planted = [_planted(name, seed, config.words) for name in config.planted]
    smallest = min(
        *(p for test in tests for p in test["p"].values()),
        *(moments.p_value(z) for law in laws for z in law["z"]),
        *(law["ks"] for law in laws if law["ks"] is not None),
    )
    total = len(config.readings) * config.chunks * config.words
    return {
        "note": _note(total, len(config.readings)),
        "seed": seed,
        "words": total,
        "bound": BOUND,
        "smallest_p": _digits(smallest),
        "readings": {reading: READINGS[reading] for reading in config.readings},
        "tests": tests,
        "distributions": laws,
        "addresses": addresses,
        "planted": planted,
    }


def has_failed(section: dict[str, Any]) -> bool:
    """Whether the field was flagged, an address collided, or a planted fault went unnoticed."""
    return (
        section["smallest_p"] < section["bound"]
        or any(row["collisions"] for row in section["addresses"])
        or any(row["smallest_p"] >= section["bound"] for row in section["planted"])
    )


def _examine(source: Source, reading: str, seed: int, chunks: int, words: int) -> Battery:
    battery = Battery()
    for number in range(chunks):
        battery.add(source(reading, seed, number)[:words])
    return battery


def _planted(name: str, seed: int, words: int) -> dict[str, Any]:
    p_values = _examine(PLANTED[name], "directions", seed, 1, words).p_values()
    flagged = [test for test, p in p_values.items() if p < BOUND]
    return {
        "name": name,
        "words": words,
        "smallest_p": _digits(min(p_values.values())),
        "flagged_by": flagged,
    }


def _addresses(config: FieldConfig, seed: int) -> list[dict[str, Any]]:
    tensors, directions, steps = config.box
    whole = np.arange(config.blocks)
    kinds = {
        f"all of {tensors} tensors, 3 parts each, {directions} directions, {steps} steps, "
        f"{config.blocks} blocks, seeds "
        "0 and 2⁶⁴ - 1": (addressing.box(*config.box), whole)
    }
    if config.edges:
        kinds["at the edges of every counter"] = addressing.edges(), addressing.edge_blocks()
        kinds["random ones"] = addressing.anywhere(seed, 2000), addressing.edge_blocks()
    rows = []
    for name, (addresses, blocks) in kinds.items():
        drawn, collisions = addressing.count_collisions(addressing.draw_blocks, addresses, blocks)
        rows.append({"name": name, "addresses": drawn, "collisions": collisions})
    return rows


def _note(words: int, readings: int) -> str:
    return (
        f"{words} words of the CPU engine's field in {readings} readings, each test's p-value over "
        "all words of a reading. "
        f"P-values are two-sided; bounds and sizes were fixed before anything was drawn. One below "
        f"{BOUND:g} would be a "
        "fault."
    )


def _digits(value: float) -> float:
    return round_digits(float(value), 3)
