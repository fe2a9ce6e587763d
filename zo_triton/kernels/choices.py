"""Which tile sizes a launch takes: its launcher's own, or what was found faster on this device and kept.

A choice is plain data: a *situation* (operation, sides, distribution, dtype, …) in words, and a config, tile sizes
with launch options. :mod:`zo_triton.tuning` measures choices and keeps one file a device; launchers look there and
nowhere else. Tiles decide in which order a sum is taken, so another choice is another rounding: choices are left
alone under ``torch.use_deterministic_algorithms(True)`` and ``ZO_TRITON_TUNING=0``.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from pathlib import Path

import torch
import triton

from zo_triton._files import cache_folder, replacing, slug
from zo_triton._warn import warn
from zo_triton.kernels.layer import tiles

Config = Mapping[str, int]
FORMAT, SCHEMA = "zo_triton tuning", 1

CANDIDATES: dict[tuple[str, str], tuple[Config, ...]] = {
    ("perturbed_linear", "bfloat16"): (
        tiles(128, 128, 32, 4, 4),
        tiles(128, 128, 64, 8, 3),
        tiles(256, 64, 32, 4, 3),
        tiles(64, 128, 64, 8, 3),
    ),
    ("perturbed_linear", "float32"): (
        tiles(64, 128, 32, 4, 2),
        tiles(64, 64, 32, 8, 2),
        tiles(64, 64, 32, 4, 2),
        tiles(32, 64, 32, 8, 1),
        tiles(32, 32, 32, 4, 2),
    ),
    ("perturbed_conv2d", "bfloat16"): (
        tiles(128, 64, 32, 8, 2),
        tiles(128, 64, 32, 8, 1),
        tiles(64, 64, 32, 4, 2),
        tiles(64, 64, 32, 8, 1),
        tiles(128, 128, 64, 8, 3),
        tiles(128, 64, 64, 4, 2),
        tiles(64, 64, 64, 4, 3),
        tiles(256, 64, 32, 4, 3),
    ),
    # Not 64 × 64 × 32 in eight warps, which Triton 3.6 multiplies in TF32 on sm_100, asked or not.
    ("perturbed_conv2d", "float32"): (
        tiles(64, 128, 32, 4, 1),
        tiles(32, 128, 32, 4, 2),
        tiles(64, 64, 32, 4, 1),
        tiles(32, 64, 32, 8, 1),
        tiles(32, 32, 32, 8, 1),
        tiles(32, 32, 32, 4, 1),
    ),
    ("mlp_differences", "float32"): tuple(
        {"BLOCK_N": samples, "BLOCK_I": 64, "num_warps": warps, "num_stages": 3}
        for samples, warps in ((64, 8), (32, 8), (64, 4), (32, 4))
    ),
    ("node_linear", "bfloat16"): (
        tiles(128, 128, 64, 8, 3),
        tiles(128, 128, 64, 8, 4),
        tiles(128, 256, 64, 8, 3),
        tiles(64, 128, 64, 4, 3),
    ),
    ("node_linear", "float32"): (
        tiles(128, 64, 32, 4, 2),
        tiles(64, 64, 32, 8, 2),
        tiles(64, 64, 32, 4, 2),
        tiles(128, 64, 32, 8, 2),
    ),
    ("node_conv2d", "bfloat16"): (
        tiles(128, 64, 32, 8, 2),
        tiles(128, 64, 32, 4, 2),
        tiles(64, 64, 32, 4, 2),
        tiles(128, 128, 64, 8, 3),
        tiles(128, 64, 64, 4, 3),
        tiles(256, 64, 64, 8, 3),
    ),
    ("node_conv2d", "float32"): (
        tiles(128, 128, 32, 8, 2),
        tiles(64, 128, 32, 4, 2),
        tiles(64, 64, 32, 4, 1),
        tiles(32, 64, 32, 8, 1),
    ),
    ("node_mlp_differences", "float32"): tuple(
        {"BLOCK_N": rows, "num_warps": warps, "num_stages": 1}
        for rows, warps in ((128, 8), (64, 8), (64, 4), (32, 4))
    ),
    ("accumulate", "float32"): (
        {"ROWS": 32, "COLS": 128, "num_warps": 4},
        {"ROWS": 64, "COLS": 64, "num_warps": 8},
        {"ROWS": 16, "COLS": 128, "num_warps": 4},
        {"ROWS": 32, "COLS": 64, "num_warps": 4},
    ),
    ("gram", "float32"): (
        {"BLOCK_K": 32, "ROWS": 16, "COLS": 32, "num_warps": 4},
        {"BLOCK_K": 16, "ROWS": 16, "COLS": 64, "num_warps": 4},
    ),
}
"""Configs worth trying beside the launcher's own, by operation and dtype."""

_tried: ContextVar[Mapping[str, Config] | None] = ContextVar("tried", default=None)
_asked: ContextVar[dict[str, Config] | None] = ContextVar("asked", default=None)


def situation(op: str, dtype: torch.dtype, **facts: object) -> str:
    """A choice's key: what decides which tiles are fast, in words."""
    words = {"dtype": str(dtype).removeprefix("torch."), **facts}
    return " ".join((op, *(f"{name}={fact}" for name, fact in words.items())))


def candidates(key: str) -> tuple[Config, ...]:
    """The configs of :data:`CANDIDATES` for a situation, none for one that has no choice."""
    op, dtype, *_ = key.split()
    return CANDIDATES.get((op, dtype.removeprefix("dtype=")), ())


def upper(number: int, *bounds: int) -> str:
    """The first bound that is not below the number, in words; sizes between two bounds share a situation."""
    return next((f"to-{bound}" for bound in bounds if number <= bound), "more")


def pick(device: torch.device, key: str, own: Config) -> Config:
    """The config of a launch.

    Args:
        device: Where the launch runs.
        key: From :func:`situation`.
        own: The launcher's rule, taken unless something was found faster.
    """
    asked = _asked.get()
    if asked is not None:
        asked[key] = own
    tried = _tried.get()
    if tried is not None:
        return tried.get(key, own)
    if device.type != "cuda" or torch.are_deterministic_algorithms_enabled():
        return own
    return kept(device_name(device.index or 0)).get(key, own)


@contextmanager
def trying(configs: Mapping[str, Config]) -> Iterator[None]:
    """Inside, launches take these configs by situation, and otherwise their launchers' own."""
    token = _tried.set(configs)
    try:
        yield
    finally:
        _tried.reset(token)


@contextmanager
def asking() -> Iterator[dict[str, Config]]:
    """Gathers the situations that launches inside are in, each with its launcher's own config."""
    asked: dict[str, Config] = {}
    token = _asked.set(asked)
    try:
        yield asked
    finally:
        _asked.reset(token)


@cache
def device_name(index: int) -> str:
    """Of a GPU, as in the file's name."""
    return slug(torch.cuda.get_device_name(index))


def file_of(device: str) -> Path:
    """A device's choices under this Triton, whose next version may compile the same tiles otherwise."""
    return cache_folder() / f"{device}-triton-{triton.__version__}.json"


def keep(device: str, found: Mapping[str, Config | None]) -> Path:
    """Adds choices to those that are kept for a device, and takes them from now on; None forgets an earlier one.

    Raises:
        OSError: The file can't be written; what was there stays.
    """
    path = file_of(device)
    path.parent.mkdir(parents=True, exist_ok=True)
    merged = {**_read(path), **found}
    configs = {key: dict(config) for key, config in merged.items() if config is not None}
    record = {"format": FORMAT, "schema": SCHEMA, "device": device, "configs": dict(sorted(configs.items()))}
    with replacing(path) as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
    kept.cache_clear()
    return path


@cache
def kept(device: str) -> Mapping[str, Config]:
    """What was found faster on a device; nothing where nobody measured, or ``ZO_TRITON_TUNING=0``."""
    return {} if os.environ.get("ZO_TRITON_TUNING") == "0" else _read(file_of(device))


def _read(path: Path) -> dict[str, Config]:
    """A file's choices; none, and a warning, if it is damaged: launches go on with their own."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if (record["format"], record["schema"]) != (FORMAT, SCHEMA):
            raise ValueError("another format or schema")
        for key, config in record["configs"].items():
            if config not in [dict(each) for each in candidates(key)]:
                raise ValueError(f"no known config for {key!r}")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        warn(
            f"{path} is no file of tuned choices ({error}) and is ignored; run `zo-triton tune` again.",
            UserWarning,
        )
        return {}
    return dict(record["configs"])
