"""What comes of a model: a strict step with the right differences, or how far it gets."""

from __future__ import annotations

import traceback
import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

import zo_triton as zo
from benchmarks.compatibility.model import Loss, Model
from benchmarks.compatibility.twin import Measure, seeded, subtracted, trained
from zo_triton.difference.errors import MissingRuleError

STRICT, ANNOUNCED, REFUSED, WRONG, CRASHED = "strict", "announced", "refused", "wrong", "crashed"
KEPT = "kept"
"""Strict, and right for the base's choices: a top-k or a comparison is another at θ + εz, and is not followed."""
ROUNDED = "rounded"
"""Strict, and past the bound of narrow weights, as backpropagation in their dtype is."""
ABSENT = "not run"
"""The model itself fails here, without any of the library's help."""

BOUNDS = {torch.float32: 1e-3, torch.bfloat16: 1e-2}
"""Largest median error by the dtype of the weights."""

EPS = 1e-4
"""The optimizers' own."""

DIRECTIONS = 4
FLOOR = 0.1
"""A difference counts at least as much as this share of the directions' root mean square."""

MARGIN = 2
"""How many times backpropagation's error is still rounding and no fault."""

LONGEST = 300
"""Characters of a reason."""

_LIBRARY = str(Path(zo.__file__).parent)


@dataclass(frozen=True)
class Outcome:
    """A row of the table.

    Attributes:
        word: One of the constants above.
        error: Median over directions of the relative error; None where nothing was measured.
        why: The functions announced, the reason of a refusal, or what went wrong.
    """

    word: str
    error: float | None = None
    why: str = ""


def outcome(model: Model) -> Outcome:
    """Measures one model; whatever it raises is an outcome too."""
    torch.manual_seed(0)
    try:
        module, loss = model.build()
        module = module.to(model.dtype).train()
        directions = zo.Directions(seed=0, step=0, num=DIRECTIONS)
        expected = subtracted(module, loss, directions, EPS)
    except Exception as error:
        return Outcome(ABSENT, why=told(error))
    bound = BOUNDS[model.dtype]
    try:
        found = _found(module, loss, directions, strict=True)
        judged = _judged(STRICT, found, expected, bound)
        if judged.word == WRONG and model.dtype is not torch.float32:
            own = _spread(_slopes(module, loss, directions), expected.differences)
            if _spread(found[1], expected.differences) <= MARGIN * own:
                return Outcome(ROUNDED, judged.error, f"backpropagation's own slopes are off by {own:.1e}")
        return judged
    except MissingRuleError as error:
        missing = told(error)
    except Exception as error:
        return Outcome(REFUSED if _is_refusal(error) else CRASHED, why=told(error))
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found = _found(module, loss, directions, strict=False)
        return _judged(ANNOUNCED, found, expected, bound, missing)
    except Exception as error:
        return Outcome(REFUSED if _is_refusal(error) else CRASHED, why=told(error))


def _found(module: nn.Module, loss: Loss, directions: zo.Directions, strict: bool) -> tuple[Tensor, Tensor]:
    return zo.differences(seeded(module, loss), trained(module), directions, EPS, strict=strict)


def _judged(
    word: str, found: tuple[Tensor, Tensor], measure: Measure, bound: float, why: str = ""
) -> Outcome:
    """The outcome by the error of the differences, and by that of the loss, which tells of other masks."""
    value, differences = found
    error, kept = _error(differences, measure.differences), _error(differences, measure.kept)
    base_error = float((value.double() - measure.base).abs() / measure.base.abs())
    if not base_error <= bound:
        return Outcome(WRONG, error, f"the loss is {float(value)}, not {float(measure.base)}. {why}")
    if error <= bound:
        return Outcome(word, error, why)
    if kept <= bound and bool(measure.flips.any()):
        flips = f"{int(measure.flips.sum())} of {len(differences)}"
        return Outcome(KEPT, kept, f"along {flips} directions another choice is made than at the base. {why}")
    return Outcome(
        WRONG, error, f"the differences are {differences.tolist()}, not {measure.differences.tolist()}. {why}"
    )


def _error(found: Tensor, expected: Tensor) -> float:
    """Median over directions of the relative error."""
    least = FLOOR * float(expected.square().mean().sqrt())
    return float(((found.double() - expected).abs() / expected.abs().clamp(min=least)).median())


def _spread(found: Tensor, expected: Tensor) -> float:
    """Relative error of all directions together."""
    return float((found.double() - expected).norm() / expected.norm())


def _slopes(module: nn.Module, loss: Loss, directions: zo.Directions) -> Tensor:
    """ε z_k·∇L(θ) by backpropagation in the weights' own dtype, [K]."""
    params = trained(module)
    gradients = torch.autograd.grad(seeded(module, loss)(), params, allow_unused=True)
    total = torch.zeros(directions.num, dtype=torch.float64)
    for tensor_id, gradient in enumerate(gradients):
        if gradient is not None:
            z = zo.sample(directions, tensor_id, gradient.shape)
            total += z.double().flatten(1) @ gradient.double().flatten()
    return EPS * total


def told(error: Exception) -> str:
    """The error in one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:LONGEST]


def _is_refusal(error: Exception) -> bool:
    """Whether the library raised it on purpose, with a message, rather than something that broke in it."""
    if not isinstance(error, (TypeError, ValueError, NotImplementedError)):
        return False
    frames = traceback.extract_tb(error.__traceback__)
    return frames[-1].filename.startswith(_LIBRARY) and (frames[-1].line or "").startswith(
        ("raise", "refuse")
    )
