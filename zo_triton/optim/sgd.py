"""Stochastic gradient descent on a zeroth-order estimate, as a torch optimizer."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

import torch

from zo_triton.optim.aggregators import Aggregator
from zo_triton.optim.checks import check_sgd_group
from zo_triton.optim.descent import Estimate, descend, make_state
from zo_triton.optim.optimizer import ZOOptimizer
from zo_triton.optim.saved_state import LATER

if TYPE_CHECKING:
    from zo_triton.distributed import Ranks


class ZOSGD(ZOOptimizer):
    """SGD on a zeroth-order gradient estimate: forward passes only.

    A step draws K fresh directions z_k, measures the loss differences L(θ+εz_k) - L(θ), and descends
    ĝ = Σ_k a_k·z_k by the rule of :class:`torch.optim.SGD`: g = ĝ + λθ, v ← μv + g, θ ← θ - ηv. No ``.grad``
    is read or written. Without momentum the weights are updated in place, all K directions in one pass, and
    nothing of the parameters' size is stored.

    Every parameter passed is trained, also with ``requires_grad=False``: no autograd takes part. For adapters in
    a frozen model pass ``[p for p in model.parameters() if p.requires_grad]``. A
    parameter's place in the groups, all in order, is its id in the field. float16 and bfloat16 parameters
    keep a float32 master copy in the state, in which small updates add up; if a parameter was overwritten
    from outside (``model.load_state_dict``), its new value is taken over. With ``low_precision="stochastic"``
    there is no copy: the moved weight is rounded up or down at random, right in the mean, and reproducibly.

    ``lr``, ``momentum``, ``weight_decay`` and ``maximize`` belong to each parameter group, so torch's schedulers
    work; the other settings are attributes and may be changed between steps. The state dict holds them and the
    number of steps done, so a reloaded run goes on with the same directions. Only ``chunk`` and ``strict``
    are left out: they belong to the machine, and change a difference by rounding at most.

    If the closure raises, or the loss is NaN or infinite
    (:class:`zo_triton.NonFiniteLossError`), the step has not happened: weights,
    state, ``steps_done`` and torch's random state are as they were. If memory runs out while directions are
    evaluated, half as many are tried at once; if one is still too many, MemoryError, and nothing has happened.

    Args:
        params: Tensors, named tensors or parameter groups, as for any torch optimizer.
        lr: Learning rate η, not negative.
        directions: K, directions a step.
        eps: Smoothing radius ε.
        seed: Key of the noise, in [0, 2**64).
        distribution: rademacher, gaussian, uniform, laplace, sphere or hadamard; None is rademacher for weights and
            hadamard for activations.
        sides: 1 for L(θ+εz) - L(θ), 2 for central differences.
        aggregator: average, normalized, ranked, best, align, or a function of your own: from the projected
            gradients [K] and a function that computes the directions' Gram matrix, to the coefficients a_k [K]. A
            state dict holds its name, and is loaded by an optimizer made with the function.
        momentum: μ in [0, 1).
        weight_decay: λ, not negative.
        compute_dtype: Dtype of the differences, float32 or bfloat16.
        rank: Perturb matrices by A·Bᵀ/√rank; None for full rank.
        rounds: Philox rounds, 10 or 7.
        chunk: Directions evaluated at once; None chooses.
        strict: Refuse functions without an exact difference rule instead of warning.
        low_precision: How float16 and bfloat16 parameters are updated: "master" or "stochastic".
        ranks: Share each step's measuring among processes that all hold this optimizer.
        perturb: "weights"; "activations": signs on layers' outputs, each sample measured by its own loss; "auto":
            each layer where it costs less. See :func:`zo_triton.estimate_gradient` for what the closure must
            return.
        maximize: Climb instead: the closure returns what is to grow, a reward. A group's option, as in torch.

    Attributes:
        steps_done: Successful steps, the ``step`` of the directions drawn next.
        last: The :class:`Measurement` of the latest step, or the :class:`NodeMeasurement` of one that perturbed
            activations; None before the first.
        plan: How the latest step was cut up: K, the chunk, the layers that keep their input's memory, and whether
            the base pass is recorded where there are several chunks.
        log: Gets each step's coefficients before the weights move, as :class:`zo_triton.ReplayLog` does when it is
            attached; None if nothing does. Copies of the optimizer have none.

    Raises:
        TypeError: A parameter is not of a real floating type, or a count is no integer.
        ValueError: A setting is out of range, parameters lie on several devices, or the field can't address
            one of them.

    Warns:
        UserWarning: Some of the parameters have ``requires_grad=False`` and others do not.

    Example:
        >>> import torch, zo_triton as zo
        >>> w = torch.tensor([1.0, -2.0])
        >>> opt = zo.ZOSGD([w], lr=0.1, directions=8, seed=0)
        >>> loss = opt.step(lambda: w.square().sum())
    """

    def __init__(
        self,
        params: Iterable[Any],
        lr: float,
        directions: int = 64,
        eps: float = 1e-4,
        seed: int = 0,
        distribution: str | None = None,
        sides: int = 1,
        aggregator: str | Aggregator = "average",
        momentum: float = 0.0,
        weight_decay: float = 0.0,
        compute_dtype: torch.dtype = torch.float32,
        rank: int | None = None,
        rounds: int = 10,
        chunk: int | None = None,
        strict: bool = False,
        low_precision: str = "master",
        ranks: Ranks | None = None,
        perturb: str = "weights",
        maximize: bool = False,
    ) -> None:
        super().__init__(
            params,
            {"lr": lr, "momentum": momentum, "weight_decay": weight_decay, "maximize": maximize},
            ranks, directions=directions, eps=eps, seed=seed, distribution=distribution, sides=sides,
            aggregator=aggregator, compute_dtype=compute_dtype, rank=rank, rounds=rounds, chunk=chunk,
            strict=strict, low_precision=low_precision, perturb=perturb,
        )  # fmt: skip

    def _check_group(self, group: Mapping[str, Any]) -> None:
        check_sgd_group(group)

    def _prepared(self, estimate: Estimate) -> Callable[[], None]:
        groups, stochastic = self.param_groups, self.low_precision == "stochastic"
        estimates = [estimate.negated() if group["maximize"] else estimate for group in groups]
        words = self.next_directions() if stochastic else None
        scratch = make_state(groups, self.state, estimate, stochastic)

        def move() -> None:
            first_id = 0
            for group, along in zip(groups, estimates, strict=True):
                descend(
                    group["params"], first_id, self.state, float(group["lr"]), group["momentum"],
                    group["weight_decay"], along, scratch, words,
                )  # fmt: skip
                first_id += len(group["params"])

        return move

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for name, value in LATER.items():
                group.setdefault(name, value)
