"""How far a loss difference is from the truth as ε shrinks: propagated against subtracted losses."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call

import zo_triton as zo
from benchmarks.race.networks import make_mlp
from benchmarks.timing import round_digits


@dataclass(frozen=True)
class AccuracyConfig:
    """The plain numbers of the accuracy table."""

    sizes: tuple[int, ...] = (784, 256, 256, 10)
    batch: int = 128
    directions: int = 16
    seed: int = 0
    radii: tuple[float, ...] = (1e-2, 1e-3, 1e-4, 1e-5, 1e-6)


TINY = AccuracyConfig(sizes=(64, 32, 10), batch=32, directions=4, radii=(1e-2, 1e-5))
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


def direct_differences(
    model: torch.nn.Module, x: Tensor, y: Tensor, noise: Sequence[Tensor], eps: float, dtype: torch.dtype
) -> Tensor:
    """L(θ+εz_k) - L(θ) by subtracting two losses, all in one dtype.

    Args:
        model: Its weights are read, never changed.
        x: [N, features].
        y: [N] classes.
        noise: For each parameter its directions, [K, *shape].
        eps: ε.
        dtype: Of weights, inputs and losses.

    Returns:
        [K] in ``dtype``.
    """
    names = [name for name, _ in model.named_parameters()]
    weights = [parameter.detach().to(dtype) for parameter in model.parameters()]

    def loss(values: Sequence[Tensor]) -> Tensor:
        return F.cross_entropy(
            functional_call(model, dict(zip(names, values, strict=True)), (x.to(dtype),)), y
        )

    with torch.no_grad():
        base = loss(weights)
        moved = [
            loss([weight + eps * z[k].to(dtype) for weight, z in zip(weights, noise, strict=True)])
            for k in range(len(noise[0]))
        ]
    return torch.stack(moved) - base


def run_accuracy(config: AccuracyConfig, say: Callable[[str], None]) -> dict[str, Any]:
    """The record's section ``accuracy``: median relative errors against float64, a row an ε."""
    say("accuracy of differences")
    generator = torch.Generator().manual_seed(config.seed)
    model = make_mlp(config.sizes, config.seed)
    x = torch.randn(config.batch, config.sizes[0], generator=generator)
    y = torch.randint(config.sizes[-1], (config.batch,), generator=generator)
    params = list(model.parameters())
    directions = zo.Directions(config.seed, 0, config.directions)
    # Signs are the same numbers in both dtypes, so one reference serves all columns.
    noise = [zo.sample(directions, number, param.shape) for number, param in enumerate(params)]
    rows = []
    for eps in config.radii:
        truth = direct_differences(model, x, y, noise, eps, torch.float64)
        errors: dict[str, float | None] = {}
        for name, dtype in DTYPES.items():
            _, change = zo.differences(
                lambda: F.cross_entropy(model(x), y), params, directions, eps, compute_dtype=dtype
            )
            errors[f"propagated {name}"] = _error(change, truth)
        errors["direct float32"] = _error(direct_differences(model, x, y, noise, eps, torch.float32), truth)
        rows.append({"eps": eps, "errors": errors})
    return {
        "model": "-".join(map(str, config.sizes)),
        "batch": config.batch,
        "directions": config.directions,
        "rows": rows,
    }


def _error(change: Tensor, truth: Tensor) -> float | None:
    relative = ((change.double() - truth) / truth).abs().median().item()
    return round_digits(relative, 3) if relative > 0 else None
