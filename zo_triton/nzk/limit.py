"""η* of the run that an optimizer makes, at a model's present weights."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

from zo_triton.nzk.probe import check_known, probe_lr, trained_by
from zo_triton.optim import ZOSGD


def max_stable_lr_of(optimizer: ZOSGD, model: nn.Module, x: Tensor, loss: str = "cross_entropy") -> float:
    """η* of a :class:`zo_triton.ZOSGD`, with its directions and momentum, from the curvature on x.

    Under ``perturb="activations"`` or ``"auto"`` it is gradient descent's 2(1+b)/λ_max, above which nothing holds:
    what noise such directions bring is not in it.

    Args:
        optimizer: With one parameter group, full rank and the aggregator ``average``, not ``maximize``; its lr
            is not used.
        model: Whose parameters it trains, all or some. The curvature is measured in eval mode, along those it
            trains.
        x: Samples [n, …]; some dozens do.
        loss: One of :data:`zo_triton.nzk.probe.LOSSES`.

    Returns:
        η*, its lower bound where only bounds can be had, or inf where there is no curvature.

    Raises:
        TypeError: As :func:`zo_triton.nzk.check_lr_of`.
        ValueError: As :func:`zo_triton.nzk.check_lr_of`.

    Example:
        >>> import torch, zo_triton as zo
        >>> model, x = torch.nn.Linear(3, 1), torch.randn(64, 3, generator=torch.Generator().manual_seed(0))
        >>> few, many = (zo.ZOSGD(model.parameters(), lr=1.0, directions=count) for count in (1, 64))
        >>> zo.nzk.max_stable_lr_of(few, model, x, "mse") < zo.nzk.max_stable_lr_of(many, model, x, "mse")
        True
    """
    check_known(optimizer)
    group, on_weights = optimizer.param_groups[0], optimizer.perturb == "weights"
    with trained_by(optimizer, model), at_rest(model):
        probe = probe_lr(
            model, x, 1.0, optimizer.directions, loss,
            optimizer.distribution if on_weights else "gaussian", group["momentum"],
        )  # fmt: skip
    if on_weights:
        return probe.lower
    return 2 * (1 + group["momentum"]) / probe.largest if probe.largest > 0 else float("inf")


@contextmanager
def at_rest(model: nn.Module) -> Iterator[None]:
    """The model in eval mode, and afterwards each module in its own."""
    modes = {module: module.training for module in model.modules()}
    model.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode
