"""Programs of elementwise operations and row sums, on engines that have them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import torch
from torch import Tensor

from zo_triton.ops.engines import engine_for, load_engine


def offers_rows(device: torch.device) -> bool:
    """Whether the device's engine runs programs; else formulas run operation after operation."""
    return device.type == "cpu" and engine_for(device) == "cpu"


def needs_whole_rows(operations: Iterable[str]) -> bool:
    """Whether some of these operations do, so that a program of them takes no part of a row by itself."""
    return not load_engine("cpu").OF_ROWS.isdisjoint(operations)


def row_program(
    shape: tuple[int, ...],
    leaves: Sequence[tuple[int, tuple[int, ...], bool, str]],
    operations: Sequence[tuple[str, tuple[int | float, ...]]],
    outputs: Sequence[tuple[int | float, bool, bool]],
    evaluations: int,
    given: int = -1,
) -> Any:
    """The CPU engine's ``RowProgram``; see there."""
    engine = load_engine("cpu")
    lying, steps = [engine.Leaf(*leaf) for leaf in leaves], [engine.Operation(*each) for each in operations]
    return engine.RowProgram(shape, lying, steps, outputs, evaluations, given)


def activation_terms(base: Tensor, activation: str) -> tuple[Tensor, Tensor]:
    """Two tensors of the base's shape that the CPU engine's rule of ``activation`` reads beside it."""
    return load_engine("cpu").base_terms(base, activation)
