"""What an estimator refuses before anything is drawn, evaluated or changed."""

from __future__ import annotations

from collections.abc import Sequence
from math import isfinite

import torch
from torch import Tensor

from zo_triton.directions import Directions

COMPUTE_DTYPES = (torch.float32, torch.bfloat16)


def check_eps(eps: float) -> None:
    """Refuses a smoothing radius that gives no difference quotient.

    Raises:
        ValueError: ``eps`` is not a positive finite number.
    """
    if not eps > 0 or not isfinite(eps):
        raise ValueError(f"eps must be positive and finite, got {eps}; 1e-4 suits most models.")


def check_evaluation(sides: int, compute_dtype: torch.dtype, chunk: int | None) -> None:
    """Refuses settings of the evaluation that no engine has.

    Raises:
        ValueError: ``sides`` is not 1 or 2, ``compute_dtype`` is neither float32 nor bfloat16, or ``chunk``
            is below 1.
    """
    if sides not in (1, 2):
        raise ValueError(f"sides must be 1 (one-sided) or 2 (central differences), got {sides!r}.")
    if compute_dtype not in COMPUTE_DTYPES:
        raise ValueError(f"compute_dtype must be torch.float32 or torch.bfloat16, got {compute_dtype}.")
    if chunk is not None and chunk < 1:
        raise ValueError(f"chunk must be at least 1 direction, or None to choose it, got {chunk}.")


def check_parameters(params: Sequence[Tensor], directions: Directions, names: Sequence[str] = ()) -> None:
    """Refuses parameters that the field can't perturb.

    Args:
        params: The trained tensors in the order of their ids.
        directions: Supplies the distribution and the rank.
        names: What to call them in an error; by default their positions.

    Raises:
        TypeError: A parameter is no tensor, not of a real floating type, or sparse.
        ValueError: There are none, one comes twice, they lie on several devices, or the field can't address
            one of them.
    """
    if not params:
        raise ValueError("there are no parameters to train; pass model.parameters().")
    for position, param in enumerate(params):
        name = f"parameter {names[position] if names else position!r}"
        if not isinstance(param, Tensor):
            raise TypeError(f"{name} must be a tensor, got {type(param).__name__}.")
        if not param.is_floating_point():
            raise TypeError(
                f"{name} has dtype {param.dtype}; only real floating-point tensors can be moved along a "
                "direction: leave it out."
            )
        if param.layout != torch.strided:
            raise TypeError(f"{name} has layout {param.layout}; only dense tensors are trained.")
        if param.device != params[0].device:
            raise ValueError(
                f"{name} lies on {param.device} but the first one on {params[0].device}; move the model to "
                "one device."
            )
        directions.check_shape(name, param.shape)
    different = len({id(param) for param in params})
    if different < len(params):
        raise ValueError(
            f"{len(params)} parameters are only {different} different tensors; pass each once, or one "
            "would be moved along two directions."
        )


def check_coefficients(coefficients: Tensor, directions: Directions) -> None:
    """Refuses what can't be the coefficients of these directions.

    Raises:
        TypeError: They are no float32 tensor.
        ValueError: There are not K of them, or one is not finite.
    """
    if not isinstance(coefficients, Tensor) or coefficients.dtype != torch.float32:
        raise TypeError(
            f"coefficients must be a float32 tensor, got {getattr(coefficients, 'dtype', type(coefficients))}; "
            "call .float()."
        )
    if coefficients.shape != (directions.num,):
        raise ValueError(
            f"expected {directions.num} coefficients, one a direction, got shape {tuple(coefficients.shape)}."
        )
    if not bool(coefficients.isfinite().all()):
        raise ValueError("a coefficient is NaN or infinite; leave that direction out by a coefficient of 0.")
