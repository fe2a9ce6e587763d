"""Adam on a zeroth-order estimate, as a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.optim.adam import adam

from zo_triton.optim.aggregators import Aggregator
from zo_triton.optim.checks import check_adam_group, check_movable
from zo_triton.optim.descent import Estimate, full_precision, in_full_precision, up_to_date
from zo_triton.optim.optimizer import ZOOptimizer

if TYPE_CHECKING:
    from zo_triton.distributed import Ranks


class ZOAdam(ZOOptimizer):
    """Adam on a zeroth-order gradient estimate: forward passes only.

    A step measures as :class:`zo_triton.ZOSGD`'s does, and all that is said there of parameters, seeds, failed
    steps, ranks and state dicts holds here. It then writes the estimate ĝ = Σ_k a_k·z_k out, for as long as the
    step takes, and does to the weights what :class:`torch.optim.Adam` does for that gradient, by torch's own
    function: on a CPU the same bits as :func:`zo_triton.estimate_gradient` and ``torch.optim.Adam.step``. No
    ``.grad`` is read or written. float16 and bfloat16 parameters are updated in a float32 copy, which the state
    keeps.

    The groups' options and the state are torch's: ``lr``, ``betas``, ``eps`` (Adam's; the smoothing radius is the
    attribute ``eps``), ``weight_decay``, ``amsgrad``, ``maximize``; ``step``, ``exp_avg``, ``exp_avg_sq``.

    A small network on the CPU is trained faster by :class:`zo_triton.FusedTrainer` with ``torch.optim.Adam``, whose
    compiled step never writes ĝ out.

    Args:
        params: Tensors, named tensors or parameter groups, as for any torch optimizer.
        lr: Learning rate, not negative.
        directions: K, directions a step.
        eps: Smoothing radius ε; Adam's own is ``adam_eps``.
        seed: Key of the noise, in [0, 2**64).
        distribution: rademacher, gaussian, uniform, laplace, sphere or hadamard; None is rademacher for weights and
            hadamard for activations.
        sides: 1 for L(θ+εz) - L(θ), 2 for central differences.
        aggregator: As for :class:`zo_triton.ZOSGD`.
        betas: Of the running averages of the gradient and of its square, in [0, 1).
        adam_eps: Added to the denominator.
        weight_decay: λ, added to the gradient as λθ.
        amsgrad: Divide by the greatest average of squares so far.
        maximize: Climb instead.
        compute_dtype: Dtype of the differences, float32 or bfloat16.
        rank: Perturb matrices by A·Bᵀ/√rank; None for full rank.
        rounds: Philox rounds, 10 or 7.
        chunk: Directions evaluated at once; None chooses.
        strict: Refuse functions without an exact difference rule instead of warning.
        ranks: Share each step's measuring among processes that all hold this optimizer.
        perturb: "weights", "activations" or "auto".

    Attributes:
        steps_done: Successful steps, the ``step`` of the directions drawn next.
        last: What the latest step measured; None before the first.

    Raises:
        TypeError: A parameter is not of a real floating type, or a count is no integer.
        ValueError: A setting is out of range, parameters lie on several devices, or the field can't address
            one of them.

    Warns:
        UserWarning: Some of the parameters have ``requires_grad=False`` and others do not.

    Example:
        >>> import torch, zo_triton as zo
        >>> w = torch.tensor([1.0, -2.0])
        >>> opt = zo.ZOAdam([w], lr=0.1, directions=8)
        >>> loss = opt.step(lambda: w.square().sum())
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float = 1e-3,
        directions: int = 64,
        eps: float = 1e-4,
        seed: int = 0,
        distribution: str | None = None,
        sides: int = 1,
        aggregator: str | Aggregator = "average",
        betas: tuple[float, float] = (0.9, 0.999),
        adam_eps: float = 1e-8,
        weight_decay: float = 0.0,
        amsgrad: bool = False,
        maximize: bool = False,
        compute_dtype: torch.dtype = torch.float32,
        rank: int | None = None,
        rounds: int = 10,
        chunk: int | None = None,
        strict: bool = False,
        ranks: Ranks | None = None,
        perturb: str = "weights",
    ) -> None:
        options = {"lr": lr, "betas": betas, "eps": adam_eps, "weight_decay": weight_decay}
        super().__init__(
            params, {**options, "amsgrad": amsgrad, "maximize": maximize}, ranks,
            directions=directions, eps=eps, seed=seed, distribution=distribution, sides=sides,
            aggregator=aggregator, compute_dtype=compute_dtype, rank=rank, rounds=rounds, chunk=chunk,
            strict=strict, low_precision="master", perturb=perturb,
        )  # fmt: skip

    def _check_group(self, group: Mapping[str, Any]) -> None:
        check_adam_group(group)

    def _prepared(self, estimate: Estimate) -> Callable[[], None]:
        if self.low_precision != "master":
            raise ValueError(
                f"ZOAdam keeps a float32 copy of low-precision weights, got low_precision={self.low_precision!r}: "
                "its moments are in float32 anyway. Leave it at 'master', or take ZOSGD."
            )
        for group in self.param_groups:
            for param in group["params"]:
                in_full_precision(param, self.state)
                own = self.state[param]
                _make_moments(param, own, group["amsgrad"])
                check_movable(param, {name: value for name, value in own.items() if name != "step"})
        return partial(self._move_along, estimate.written_out(self._parameters()))

    def _move_along(self, gradients: list[Tensor]) -> None:
        first_id = 0
        for group in self.param_groups:
            params = group["params"]
            states = [self.state[param] for param in params]
            weights = [up_to_date(param, self.state) for param in params]
            # A tensor's or NumPy's float32 would be computed with as such; what a log holds are Python's floats.
            beta1, beta2 = map(float, group["betas"])
            adam(
                [weight.detach() for weight in weights],
                gradients[first_id : first_id + len(params)],
                [state["exp_avg"] for state in states],
                [state["exp_avg_sq"] for state in states],
                [state["max_exp_avg_sq"] for state in states] if group["amsgrad"] else [],
                [state["step"] for state in states],
                amsgrad=group["amsgrad"], maximize=group["maximize"], beta1=beta1, beta2=beta2,
                lr=float(group["lr"]), weight_decay=float(group["weight_decay"]), eps=float(group["eps"]),
            )  # fmt: skip
            for param, weight in zip(params, weights, strict=True):
                if param is not weight:
                    param.copy_(weight)
            first_id += len(params)


def _make_moments(param: Tensor, state: dict[str, Any], amsgrad: bool) -> None:
    """Torch's state of a parameter, in full precision, where there is none yet."""
    if "step" not in state:
        state["step"] = torch.zeros((), dtype=torch.float32, device="cpu")
    for name in ("exp_avg", "exp_avg_sq", *(["max_exp_avg_sq"] if amsgrad else [])):
        if name not in state:
            state[name] = torch.zeros_like(param, dtype=full_precision(param), requires_grad=False)
