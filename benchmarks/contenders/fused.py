"""This project's contenders: the fused estimate fed to torch's optimizers, and ZO-SGD."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

import zo_triton as zo
from benchmarks.contenders.contender import Contender, Method, Setting, falling_rate, set_rate, trained


def hardware_dtype() -> torch.dtype:
    """bfloat16 where the processor multiplies it in hardware, float32 otherwise."""
    if torch.cuda.is_available():
        return torch.bfloat16 if torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32
    # torch's own switch for bfloat16 also accepts processors that only emulate it.
    native = torch.cpu._is_avx512_bf16_supported() or torch.cpu._is_amx_tile_supported()
    return torch.bfloat16 if native else torch.float32


WIDE = 64
"""Inputs from which on a linear layer's differences are multiplied faster in bfloat16.

A step of :class:`benchmarks.race.gpt.TinyGPT` took 1.3 times as long in float32 at width 64, as long at 32, and a
tenth less at 16; with convolutions of 4 and 8 channels it took 1.3 times as long.
"""


def suited_dtype(model: nn.Module) -> torch.dtype:
    """What differences of layers' outputs are computed in: :func:`hardware_dtype`, if a layer is worth it."""
    wide = any(
        isinstance(layer, nn.Conv2d) or (isinstance(layer, nn.Linear) and layer.in_features >= WIDE)
        for layer in model.modules()
    )
    return hardware_dtype() if wide or torch.cuda.is_available() else torch.float32


class Fused(Contender):
    """:class:`zo_triton.FusedTrainer` with Adam, or with SGD and momentum, behind the contenders' interface.

    Args:
        model: Trained in place.
        setting: All of it counts.
        sides: 1 or 2.
        momentum: None for Adam, else SGD's μ.
        compute_dtype: Of the differences; None takes :func:`hardware_dtype`, or :func:`suited_dtype` where
            activations are perturbed.
        perturb: Where: ``weights``, ``activations`` or ``auto``.
    """

    def __init__(
        self,
        model: nn.Module,
        setting: Setting,
        sides: int = 1,
        momentum: float | None = None,
        compute_dtype: torch.dtype | None = None,
        perturb: str = "weights",
    ) -> None:
        optimizer: torch.optim.Optimizer
        if momentum is None:
            optimizer = torch.optim.Adam(trained(model), lr=setting.lr, fused=True)
        else:
            optimizer = torch.optim.SGD(trained(model), lr=setting.lr, momentum=momentum)
        if compute_dtype is None:
            compute_dtype = hardware_dtype() if perturb == "weights" else suited_dtype(model)
        self.trainer = zo.FusedTrainer(
            model, optimizer, setting.directions, setting.eps, setting.seed, sides, compute_dtype,
            loss=setting.loss, ranks=setting.ranks, perturb=perturb,
        )  # fmt: skip
        if perturb != "weights":  # whose compiled calls know float32 alone
            self.computes_in = (
                "float32" if self.trainer.is_fused else str(compute_dtype).removeprefix("torch.")
            )
        self.evaluations_per_step = 1 + sides * setting.directions
        self._decay = falling_rate(optimizer, setting.decay_steps)

    def step(self, x: Tensor, y: Tensor) -> float:
        """One update; returns the base loss."""
        loss = self.trainer.step(x, y)
        self._decay()
        return loss

    def take_rate(self, lr: float) -> None:
        """Sets the optimizer's."""
        set_rate(self.trainer.optimizer, lr)

    def replayable(self) -> zo.FusedTrainer:
        """The trainer."""
        return self.trainer

    def state(self) -> dict[str, Any]:
        """The trainer's."""
        return self.trainer.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes it over."""
        self.trainer.load_state_dict(state)


class FusedSGD(Contender):
    """:class:`zo_triton.ZOSGD` behind the contenders' interface.

    Args:
        model: Trained in place.
        setting: All but its decay counts.
        sides: 1 or 2.
        momentum: μ.
        compute_dtype: Of the differences; None takes :func:`hardware_dtype`.
        rank: Perturb matrices by rank-r products; None for full rank.
        aggregator: Makes coefficients of projected gradients.
        chunk: Directions evaluated at once; None chooses.
    """

    def __init__(
        self,
        model: nn.Module,
        setting: Setting,
        sides: int = 1,
        momentum: float = 0.0,
        compute_dtype: torch.dtype | None = None,
        rank: int | None = None,
        aggregator: str = "average",
        chunk: int | None = None,
    ) -> None:
        self.model, self.loss = model, setting.loss
        self.optimizer = zo.ZOSGD(
            trained(model),
            lr=setting.lr,
            directions=setting.directions,
            eps=setting.eps,
            seed=setting.seed,
            sides=sides,
            momentum=momentum,
            compute_dtype=compute_dtype or hardware_dtype(),
            rank=rank,
            aggregator=aggregator,
            chunk=chunk,
            ranks=setting.ranks,
        )
        self.evaluations_per_step = 1 + sides * setting.directions

    def step(self, x: Tensor, y: Tensor) -> float:
        """One update; returns the base loss."""
        return self.optimizer.step(lambda: self.loss(self.model(x), y))

    def take_rate(self, lr: float) -> None:
        """Sets the optimizer's."""
        set_rate(self.optimizer, lr)

    def replayable(self) -> zo.ZOSGD:
        """The optimizer."""
        return self.optimizer

    def state(self) -> dict[str, Any]:
        """The optimizer's."""
        return self.optimizer.state_dict()

    def load_state(self, state: dict[str, Any]) -> None:
        """Takes it over."""
        self.optimizer.load_state_dict(state)


ASKS = (
    "keeps the inputs of its layers in memory until the update, and needs samples that don't depend on each other, "
    "with a loss of each"
)
"""What perturbing outputs takes that perturbing weights does not."""

MOMENTUM = 0.9
"""Of the fused ZO-SGD in races."""

DTYPE = str(hardware_dtype()).removeprefix("torch.")
"""Of the fused methods' differences."""

METHODS = (
    Method("zo", "fused, one-sided", "fused", FusedSGD, DTYPE),
    Method("zo-central", "fused, central", "fused", lambda m, s: FusedSGD(m, s, sides=2), DTYPE),
    Method(
        "zo-float32", "fused, one-sided, float32", "fused",
        lambda m, s: FusedSGD(m, s, compute_dtype=torch.float32),
    ),
    Method("zo-rank-1", "fused, one-sided, rank 1", "fused", lambda m, s: FusedSGD(m, s, rank=1), DTYPE),
    Method(
        "zo-align", "fused, one-sided, align", "fused", lambda m, s: FusedSGD(m, s, aggregator="align"), DTYPE
    ),
    Method("zo-whole", "fused, one-sided, whole step", "fused", lambda m, s: Fused(m, s, momentum=0.0)),
    Method(
        "zo-activations-sgd", "fused on activations, orthogonal signs", "fused",
        lambda m, s: Fused(m, s, momentum=0.0, perturb="activations"), DTYPE, asks=ASKS,
    ),
    Method("zo-adam", "fused ZO + Adam", "fused", Fused, DTYPE),
    Method(
        "zo-activations", "fused ZO on activations + Adam", "fused",
        lambda m, s: Fused(m, s, perturb="activations"), DTYPE, asks=ASKS,
    ),
    Method(
        "zo-auto", "fused ZO, weights or activations, + Adam", "fused",
        lambda m, s: Fused(m, s, perturb="auto"), DTYPE, asks=ASKS,
    ),
    Method("zo-sgd", "fused ZO + momentum", "fused", lambda m, s: Fused(m, s, momentum=MOMENTUM), DTYPE),
)  # fmt: skip
