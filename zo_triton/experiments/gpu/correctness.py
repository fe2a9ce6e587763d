"""Every op on the device against the float64 reference, on fresh random inputs and into memory full of NaN."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import zo_triton as zo
from zo_triton import ops

Arguments = tuple[Any, ...]

HALF, SINGLE = torch.bfloat16, torch.float32
BOUNDS = {SINGLE: 1e-5, HALF: 2e-2}
"""Of the largest error, relative to the largest value; real-valued z agree to 1e-5, bfloat16 rounds to 2⁻⁹."""


def _randn(*shape: int, scale: float = 1.0) -> Tensor:
    return scale * torch.randn(*shape)


def _directions(distribution: str, rank: int | None = None) -> list[int]:
    return zo.Directions(int(torch.randint(2**40, ())), 3, 4, distribution, rank=rank).encode()


def _signed_eps(sides: int) -> Tensor:
    return 1e-3 * torch.tensor([1.0, -1.0][:sides]).repeat(4)


def _linear(
    distribution: str,
    dtype: torch.dtype,
    sides: int,
    first: bool = False,
    rank: int | None = None,
    size: int = 67,
) -> Arguments:
    """Ragged in every direction; prime sizes, or multiples of 64 for aligned loads."""
    samples, outputs = (53, 41) if size % 2 else (256, 128)
    difference = None if first else _randn(4 * sides, samples, size, scale=1e-3).to(dtype)
    base, weight = _randn(samples, size), _randn(outputs, size, scale=size**-0.5)
    return (
        torch.empty(4 * sides, samples, outputs, dtype=dtype), base, difference, weight, base @ weight.T,
        _directions(distribution, rank), 4, 5, _signed_eps(sides), "gelu",
    )  # fmt: skip


def _convolution(
    distribution: str, dtype: torch.dtype, sides: int, groups: int, rank: int | None = None
) -> Arguments:
    base, weight = _randn(3, 12, 13, 11), _randn(24, 12 // groups, 3, 3, scale=0.1)
    before = torch.conv2d(base, weight, None, (2, 1), (1, 2), (1, 2), groups)
    difference = _randn(4 * sides, *base.shape, scale=1e-3).to(dtype)
    return (
        torch.empty(4 * sides, *before.shape, dtype=dtype), base, difference, weight, before,
        _directions(distribution, rank), 2, 3, _signed_eps(sides), [2, 1], [1, 2], [1, 2], groups, "relu",
    )  # fmt: skip


def _network(sides: int, squared: bool) -> Arguments:
    inputs, outputs, weights = [_randn(37, 64)], [], []
    for rows, cols in ((32, 64), (10, 32)):
        weights.append(_randn(rows, cols, scale=cols**-0.5))
        outputs.append(inputs[-1] @ weights[-1].T)
        inputs.append(outputs[-1].relu())
    target = _randn(37, 10) if squared else torch.randint(10, (37,))
    return (
        torch.empty(4 * sides, 37), inputs[:2], outputs, weights, [0, 2], [1, 3], ["relu", "none"], target,
        _directions("rademacher"), _signed_eps(sides), 0.0 if squared else 0.1,
    )  # fmt: skip


def _sample(distribution: str, dtype: torch.dtype) -> Arguments:
    return torch.empty(4, 67, 45, dtype=dtype), _directions(distribution), 7, dtype, None


def _sum(distribution: str, rank: int | None = None) -> Arguments:
    return [_randn(67, 45), _randn(33)], [0, 1], _randn(4), _directions(distribution, rank), SINGLE


def _gram(distribution: str, rank: int | None = None) -> Arguments:
    out = torch.empty(4, 4, dtype=torch.float64)
    return out, [torch.zeros(67, 45), torch.zeros(33)], [0, 1], _directions(distribution, rank), SINGLE


def _windows() -> Arguments:
    values, places = _randn(8, 6, 49), torch.randint(49, (9, 16))
    return torch.empty(8, 6, 16), values * 1e-2, -torch.rand(6, 9, 16), places


CASES: dict[str, tuple[str, Callable[[], Arguments], torch.dtype]] = {
    "sample rademacher": ("sample", lambda: _sample("rademacher", SINGLE), SINGLE),
    "sample gaussian": ("sample", lambda: _sample("gaussian", SINGLE), SINGLE),
    "sample gaussian bfloat16": ("sample", lambda: _sample("gaussian", HALF), HALF),
    "sample laplace": ("sample", lambda: _sample("laplace", SINGLE), SINGLE),
    "sample uniform": ("sample", lambda: _sample("uniform", SINGLE), SINGLE),
    "accumulate rademacher": ("accumulate", lambda: _sum("rademacher"), SINGLE),
    "accumulate gaussian": ("accumulate", lambda: _sum("gaussian"), SINGLE),
    "accumulate rank 3": ("accumulate", lambda: _sum("gaussian", 3), SINGLE),
    "gram rademacher": ("gram", lambda: _gram("rademacher"), SINGLE),
    "gram gaussian": ("gram", lambda: _gram("gaussian"), SINGLE),
    "gram rank 3": ("gram", lambda: _gram("rademacher", 3), SINGLE),
    "linear float32": ("perturbed_linear", lambda: _linear("rademacher", SINGLE, 2), SINGLE),
    "linear float32 gaussian": ("perturbed_linear", lambda: _linear("gaussian", SINGLE, 1), SINGLE),
    "linear float32 rank 3": ("perturbed_linear", lambda: _linear("gaussian", SINGLE, 2, rank=3), SINGLE),
    "linear float32 first": ("perturbed_linear", lambda: _linear("rademacher", SINGLE, 2, first=True), SINGLE),
    "linear bfloat16": ("perturbed_linear", lambda: _linear("rademacher", HALF, 1), HALF),
    "linear bfloat16 both sides": ("perturbed_linear", lambda: _linear("rademacher", HALF, 2), HALF),
    "linear bfloat16 aligned": ("perturbed_linear", lambda: _linear("rademacher", HALF, 1, size=192), HALF),
    "linear bfloat16 first": ("perturbed_linear", lambda: _linear("rademacher", HALF, 1, first=True), HALF),
    "linear bfloat16 gaussian": ("perturbed_linear", lambda: _linear("gaussian", HALF, 1, size=192), HALF),
    "linear bfloat16 rank 3": ("perturbed_linear", lambda: _linear("rademacher", HALF, 2, rank=3), HALF),
    "conv float32": ("perturbed_conv2d", lambda: _convolution("rademacher", SINGLE, 2, 1), SINGLE),
    "conv float32 groups": ("perturbed_conv2d", lambda: _convolution("gaussian", SINGLE, 1, 3), SINGLE),
    "conv float32 depthwise": ("perturbed_conv2d", lambda: _convolution("rademacher", SINGLE, 2, 12), SINGLE),
    "conv bfloat16": ("perturbed_conv2d", lambda: _convolution("rademacher", HALF, 2, 1), HALF),
    "conv bfloat16 rank 3": ("perturbed_conv2d", lambda: _convolution("gaussian", HALF, 1, 1, 3), HALF),
    "mlp": ("mlp_differences", lambda: _network(1, False), SINGLE),
    "mlp squared error both sides": ("mlp_differences", lambda: _network(2, True), SINGLE),
    "activation": (
        "activation_difference",
        lambda: (torch.empty(4, 33, 7), _randn(33, 7), _randn(4, 33, 7, scale=0.1), "silu"),
        SINGLE,
    ),
    "windows": ("largest_difference", _windows, SINGLE),
    "cross-entropy": (
        "cross_entropy_difference",
        lambda: (torch.empty(4, 33), _randn(33, 7), _randn(4, 33, 7, scale=0.1), torch.randint(7, (33,)), 0.1),
        SINGLE,
    ),
}  # fmt: skip
"""From a case's name to its op, its random arguments on the CPU, and the compute dtype."""

STREAMED = {"accumulate"}
"""Ops that add to what is there: their output can't be NaN before."""


def run_correctness(device: torch.device, seed: int) -> list[dict[str, Any]]:
    """Runs every case.

    Returns:
        Rows of ``name``, ``op``, ``error`` (largest, relative to the largest value), ``bound``, ``passed`` and
        ``problem``, the reason where the op did not run.
    """
    rows = []
    for number, (name, (op, build, dtype)) in enumerate(CASES.items()):
        torch.manual_seed(seed + number)
        bound = 0.0 if name == "sample rademacher" else BOUNDS[dtype]
        row: dict[str, Any] = {"name": name, "op": op, "error": None, "bound": bound, "problem": ""}
        try:
            error = error_of(op, build(), device)
            row["error"] = error if error == error else None
            row["problem"] = "" if error == error else "NaN in the result"
        # A kernel may fail in any way, and the others are still to be run.
        except Exception as problem:
            row["problem"] = (
                f"{type(problem).__name__}: {str(problem).splitlines()[0] if str(problem) else ''}"
            )
        row["passed"] = row["error"] is not None and row["error"] <= bound
        rows.append(row)
    return rows


def error_of(op: str, arguments: Arguments, device: torch.device) -> float:
    """The op's largest error on the device, relative to the reference's largest value; NaN if any is NaN."""
    function = getattr(torch.ops.zo_triton, op)
    theirs, ours = _moved(arguments, torch.device("cpu")), _moved(arguments, device)
    if op not in STREAMED:
        ours[0].fill_(torch.nan)
    with zo.use_engine("reference"):
        function(*theirs)
    with zo.use_engine("triton"):
        function(*ours)
    wanted, found = (each[0] if op in STREAMED else [each[0]] for each in (theirs, ours))
    errors = [
        (b.cpu().double() - a.double()).abs().max() / a.double().abs().max()
        for a, b in zip(wanted, found, strict=True)
    ]
    return torch.stack(errors).max().item()


def _moved(arguments: Any, device: torch.device) -> Any:
    """Copies of all tensors in nested lists."""
    if isinstance(arguments, Tensor):
        return arguments.to(device, copy=True)
    if isinstance(arguments, (list, tuple)):
        return type(arguments)(_moved(each, device) for each in arguments)
    return arguments


def every_op_is_covered() -> bool:
    """Whether no registered op lacks a case."""
    return {op for op, _, _ in CASES.values()} == set(ops.SCHEMAS)
