"""A ``transformers.Trainer`` that trains with forward passes only; all but its step is Trainer's own."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection
from copy import copy
from functools import partial
from inspect import signature
from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from zo_triton.directions import Directions
from zo_triton.optim import ZOSGD, estimate_gradient
from zo_triton.optim.checks import check_settings, default_distribution
from zo_triton.optim.optimizer import ZOOptimizer

try:
    from accelerate.optimizer import AcceleratedOptimizer
    from transformers import Trainer, TrainingArguments
    from transformers.training_args import ParallelMode
except ImportError as error:
    raise ImportError(
        "zo_triton.integrations.transformers needs transformers and accelerate: "
        "pip install 'zo_triton[transformers]'."
    ) from error

_TRAINERS = ("params", "lr", "weight_decay", "ranks", "perturb", "maximize")
"""Arguments of ZOSGD that are not settings of a ZOTrainer: it has its own for them, trains in one process and to a
lower loss, and, as Trainer's losses are means already, does not see each sample's."""

DEFAULTS = {name: each.default for name, each in signature(ZOSGD).parameters.items() if name not in _TRAINERS}
"""The settings that a ZOTrainer takes beside Trainer's arguments, with ZOSGD's defaults."""

_OF_GRADIENTS = (
    "optim", "optim_args", "optim_target_modules", "adam_beta1", "adam_beta2", "adam_epsilon", "max_grad_norm",
)  # fmt: skip
"""Arguments of Trainer's that say what is to be done with gradients."""

_OF_ZOSGD_ALONE = {"momentum", "low_precision"}


class ZOTrainer(Trainer):
    """A Trainer whose step measures loss differences along random directions instead of going backwards.

    It takes what Trainer takes, and as keywords the settings of :class:`zo_triton.ZOSGD`: ``directions``, ``eps``,
    ``sides``, ``distribution``, ``aggregator``, ``momentum``, ``compute_dtype``, ``rank``, ``rounds``, ``chunk``,
    ``strict``, ``low_precision``, and ``seed``, which is ``args.seed`` by default. ``learning_rate``,
    ``weight_decay`` (of the parameters that Trainer lets decay) and the scheduler are those of ``args``. Parameters
    with ``requires_grad=False`` are left as they are.

    The loss of a batch is what Trainer's ``training_step`` computes, so ``compute_loss`` of a subclass,
    ``compute_loss_func``, label smoothing and autocast count. The batches of an accumulation are one step on their
    common loss, weighed as Trainer weighs them. The loss that is reported is the base loss.

    The optimizer is a ZOSGD unless one is given. It writes no gradient: nothing is clipped, and no ``grad_norm`` is
    logged. Any other torch optimizer, given as to any Trainer by ``optimizers`` or ``optimizer_cls_and_kwargs``,
    gets the estimate as ``.grad``, which ``max_grad_norm`` clips and of which ``grad_norm`` is logged.

    Args:
        model: As for Trainer.
        args: As for Trainer.
        *others: Trainer's further positional arguments.
        **settings: Trainer's further keywords, and ZOSGD's settings.

    Attributes:
        zo: The settings by name, defaults included; a ZOSGD that was given keeps its own.

    Raises:
        ImportError: transformers or accelerate is not installed; when the module is imported.
        TypeError: A setting has the wrong type.
        ValueError: A setting is out of range, would have no effect, or needs a backward pass; or the model would be
            sharded or copied. Nothing has been started then.

    Example:
        >>> from zo_triton.integrations.transformers import ZOTrainer
        >>> def fine_tune(model, args, dataset):
        ...     return ZOTrainer(model=model, args=args, train_dataset=dataset, directions=16, eps=1e-3).train()
    """

    def __init__(
        self,
        model: nn.Module | None = None,
        args: TrainingArguments | None = None,
        *others: Any,
        **settings: Any,
    ) -> None:
        perturb = settings.pop("perturb", "weights")
        if perturb != "weights":
            raise ValueError(
                f"a ZOTrainer perturbs weights, got perturb={perturb!r}: the losses that Trainer hands on are "
                "means over a batch already. Train with zo.ZOSGD and each sample's losses, or leave it out."
            )
        given = {name: settings.pop(name) for name in DEFAULTS if name in settings}
        self._round: list[tuple[dict[str, Any], Any]] = []
        super().__init__(model, args, *others, **settings)
        self.zo = SimpleNamespace(**{**DEFAULTS, "seed": self.args.seed, **given})
        self.zo.distribution = self.zo.distribution or default_distribution(perturb)
        check_settings({**vars(self.zo), "steps_done": 0, "perturb": perturb})
        self._check_optimizer(given)

    def _check_optimizer(self, given: Collection[str]) -> None:
        """Refuses arguments that the optimizer would leave without effect."""
        kind = self.optimizer_cls_and_kwargs[0] if self.optimizer_cls_and_kwargs else type(self.optimizer)
        own = kind is not type(None)
        name_of_kind = kind.__name__ if own else "ZOSGD"
        makes_gradients = own and not issubclass(kind, ZOOptimizer)
        unseen = _OF_ZOSGD_ALONE & set(given) if makes_gradients else set(given) if own else set()
        if unseen:
            raise ValueError(
                f"{', '.join(sorted(unseen))} would have no effect: a {name_of_kind} was given, and its own "
                "settings hold; say it there."
            )
        for name in _OF_GRADIENTS:
            value, default = getattr(self.args, name), getattr(TrainingArguments, name)
            if not makes_gradients and value and value != default:
                raise ValueError(
                    f"{name}={getattr(value, 'value', value)!r} would have no effect, because a {name_of_kind} "
                    "makes no gradients; leave it out, or pass a torch optimizer in optimizers=(…, None), which "
                    "gets the estimate as .grad."
                )

    def create_accelerator_and_postprocess(self) -> None:
        """Trainer's own, but nothing goes backwards; the first to see ``args``, it also refuses what it must."""
        _check_arguments(self.args)
        super().create_accelerator_and_postprocess()
        self.accelerator.backward = _no_backward

    def get_optimizer_cls_and_kwargs(  # Trainer's takes no self, and is called on one
        self, args: TrainingArguments, model: Any = None
    ) -> tuple[type[Optimizer], dict[str, Any]]:
        """ZOSGD and its settings, of which Trainer makes the optimizer if it was given none."""
        return ZOSGD, {**vars(self.zo), "lr": args.learning_rate}

    def get_batch_samples(self, *args: Any, **kwargs: Any) -> Any:
        """Trainer's own; it begins an accumulation, and what is left of one that was broken off is dropped."""
        self._round.clear()
        return super().get_batch_samples(*args, **kwargs)

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Tensor | int | None = None
    ) -> Tensor:
        """Keeps the batch, and measures the loss of all that were kept if it is the last of an accumulation.

        Args:
            model: As the accelerator has prepared it.
            inputs: A batch.
            num_items_in_batch: The labels that count in all batches of the accumulation.

        Returns:
            The base loss of the accumulation's batches if this is the last, 0 before, so that they sum up to it.
        """
        self._round.append((self._prepare_inputs(inputs), num_items_in_batch))
        loss = self._measure(partial(self._loss, model)) if self.accelerator.sync_gradients else 0.0
        return torch.tensor(loss, dtype=torch.float32, device=self.args.device)

    def _loss(self, model: nn.Module) -> Tensor:
        """What Trainer makes of the kept batches: their losses, weighed, and summed up as gradients would be."""
        # Trainer takes labels out of a batch, but a step may need it again, for more directions.
        losses = [
            super(ZOTrainer, self).training_step(model, copy(each), items) for each, items in self._round
        ]
        return torch.stack([loss.float() for loss in losses]).sum()

    def _measure(self, closure: Callable[[], Tensor]) -> float:
        """Prepares what Trainer's ``optimizer.step()`` will do; returns the base loss."""
        if (optimizer := self._zo_optimizer) is not None:
            return optimizer.measure(closure)
        assert self.optimizer is not None, "Trainer makes one before the first step"
        zo, groups = self.zo, self.optimizer.param_groups
        # The count of steps, which a checkpoint holds, names the directions: a resumed run goes on with them.
        directions = Directions(
            zo.seed, self.state.global_step, zo.directions, zo.distribution, zo.rounds, zo.rank
        )
        return estimate_gradient(
            closure, [param for group in groups for param in group["params"] if param.requires_grad],
            directions, zo.eps, zo.sides, zo.aggregator, zo.compute_dtype, zo.chunk, zo.strict,
        )  # fmt: skip

    @property
    def _zo_optimizer(self) -> ZOOptimizer | None:
        """The optimizer, without what Accelerate has wrapped around it, if it is one that makes no gradients."""
        optimizer = self.optimizer
        if isinstance(optimizer, AcceleratedOptimizer):
            optimizer = optimizer.optimizer
        return optimizer if isinstance(optimizer, ZOOptimizer) else None

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Trainer's count of a forward pass, which it takes for a third of a step, for what a step here does.

        The base is one pass; each evaluation multiplies twice in every layer, by the weights and by their noise.
        """
        settings = self._zo_optimizer or self.zo
        passes = 1 + 2 * settings.directions * settings.sides
        return super().floating_point_ops(inputs) * passes // 3

    def log(self, logs: dict[str, float], *args: Any, **kwargs: Any) -> None:
        """Trainer's own, without the norm of a gradient where there is none."""
        if self._zo_optimizer is not None:
            logs.pop("grad_norm", None)
        super().log(logs, *args, **kwargs)


def _no_backward(loss: Tensor, **kwargs: Any) -> None:
    """In the place of Accelerate's ``backward``."""


def _check_arguments(args: TrainingArguments) -> None:
    """Refuses what needs a backward pass, and what would train anything but one whole model in one process."""
    plugins = {"deepspeed": "ACCELERATE_USE_DEEPSPEED", "fsdp": "ACCELERATE_USE_FSDP"}
    for name, variable in plugins.items():
        if getattr(args, name) or os.environ.get(variable, "false").lower() in ("1", "true"):
            raise ValueError(
                f"{name} shards parameters, and a step must see them whole; leave it out, and {variable} unset: "
                "neither gradients nor any state of the optimizer have to be kept."
            )
    if args.fp16:
        raise ValueError(
            "fp16=True scales the loss for a backward pass, and there is none; use bf16=True, or load the model in "
            "float16."
        )
    if args.parallel_mode != ParallelMode.NOT_PARALLEL:
        raise ValueError(
            f"{args.parallel_mode} copies the model to average gradients, and there are none; start one process "
            "that sees one device (CUDA_VISIBLE_DEVICES=0). To share the directions among processes write the loop "
            "yourself, with zo.ZOSGD(…, ranks=zo.Ranks())."
        )
