"""Noise on the outputs of layers instead of their weights, and what a run remembers of it.

An *application* is one call of a linear layer or a convolution. Each element of its output is a node, and gets a
random sign of its own, sample by sample; samples have losses of their own, so that a step of K directions over N
samples measures K·N numbers. Parameters that are not reached by such layers alone are perturbed themselves, along
the same directions.

Williams, "Simple statistical gradient-following algorithms", 1992; Ren et al., arXiv 2210.03310.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any, NamedTuple
from weakref import ref

import torch
from torch import Tensor

from zo_triton import ops
from zo_triton.difference.applications import Application, LayerSize
from zo_triton.difference.entries import storage_of
from zo_triton.difference.reduced_losses import Losses, ReducedLosses
from zo_triton.directions import Directions
from zo_triton.ops import Node

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

Choose = Callable[[Sequence["LayerSize"], int, Directions], frozenset[int]]
"""From the layers' sizes, N and the directions to the ids of the parameters that had better be perturbed
themselves."""


MOST_PROGRAMS = 16
"""Programs that are remembered: batches of several sizes, training and evaluation mode."""


@dataclass(frozen=True)
class NodePlan:
    """What a run learns about the closure and hands on to the next one.

    Args:
        weights: Ids of the parameters that are perturbed themselves.
        samples: N, how many samples the latest run's loss had; None before the first.
        choose: Decides which layers to perturb in their weights; None for no more than have to be.
        chosen: It has decided.
        known: For each program that was found to keep its samples apart, the numbers of the applications whose
            tokens reach no loss of an earlier token.
    """

    weights: frozenset[int] = frozenset()
    samples: int | None = None
    choose: Choose | None = None
    chosen: bool = False
    known: Mapping[Any, frozenset[int]] = field(default_factory=dict)

    def knowing(self, program: Any, causal: frozenset[int]) -> NodePlan:
        """With one program more."""
        latest = list(self.known.items())[-MOST_PROGRAMS + 1 :]
        return replace(self, known={**dict(latest), program: causal})


class Mask(NamedTuple):
    """Which nodes a run to find out what depends on what perturbs.

    Attributes:
        kept: [P, N, T] of 0 and 1; T is 1 where all tokens of a sample are treated alike.
        eps: Size of the noise.
        only: Numbers of the applications that get noise; None for all.
    """

    kept: Tensor
    eps: float
    only: frozenset[int] | None = None


@dataclass(eq=False)
class Nodes:
    """The applications and the losses of one run of the closure.

    Args:
        plan: What is known.
        shapes: Of all parameters in the order of their ids.
        directions: Of the run.
        first_application: Number of the first application, so that several parts of a batch differ in their signs.
        mask: Set in a run that finds out what depends on what.

    Attributes:
        directions: Those of the run, with the columns of the parameters that are perturbed themselves.
        applications: Calls of layers, in order.
        losses: What the closure has returned, once it has.
        reduced: The losses behind single numbers.
        functions: Hash of the functions that the closure has called.
        weights: Ids of the parameters that are perturbed themselves: the plan's, and what the run has found.
    """

    plan: NodePlan
    shapes: Sequence[torch.Size]
    directions: Directions
    first_application: int = 0
    mask: Mask | None = None
    applications: list[Application] = field(default_factory=list)

    def __post_init__(self) -> None:
        self.weights = set(self.plan.weights)
        self.functions = 0
        self.reduced = ReducedLosses()
        self.losses: Losses | None = None
        columns = [shape if i in self.weights else (0,) for i, shape in enumerate(self.shapes)]
        # The nodes' columns follow those of the parameters that are perturbed themselves.
        self.directions = self.directions.with_offsets(()).over([*columns, (0,)])
        self._column = self.directions.offset(len(columns))

    def met(self, function: Callable, args: tuple, kwargs: dict) -> None:
        """Adds a function to what the run is known by: whether attention is causal is one of its arguments."""
        switches = [each for each in (*args, *kwargs.values()) if type(each) in (bool, str)]
        self.functions = hash((self.functions, function, *switches))

    @property
    def causal(self) -> frozenset[int]:
        """Numbers of the applications whose tokens reach no loss of an earlier token."""
        return self.plan.known.get(self.program, frozenset())

    @property
    def program(self) -> Any:
        """What a run is known by: its functions, and the shapes of its losses and its layers."""
        assert self.losses is not None
        layers = tuple((each.ids, each.shape) for each in self.applications)
        return self.functions, self.losses.differences.shape[1:], layers

    def close(self, mode: DifferenceMode, value: Tensor) -> Tensor:
        """The loss differences [P, N] or [P, N, T] of the closure's value: the run is over.

        Raises:
            ValueError: It can't be told apart what each sample has contributed, or there is no sample.
        """
        self.losses = self._losses_of(mode, value)
        self.reduced.clear()
        if self.losses.differences.numel() == 0:
            raise ValueError(
                f"the batch is empty: its losses have shape {tuple(self.losses.differences.shape[1:])}, and with "
                "noise on activations each sample is judged by its own; leave empty batches out."
            )
        return self.losses.differences

    def is_node(self, tensor_id: int) -> bool:
        """Whether a trained parameter is perturbed where its layer's output is."""
        return tensor_id >= 0 and tensor_id not in self.weights

    def perturb_itself(self, *ids: int) -> None:
        """Something else than a layer reads these parameters; at its end the run will start again without them."""
        self.weights.update(ids)

    def enter(
        self,
        weight_id: int,
        bias_id: int,
        input: Tensor,
        weight: Tensor,
        shape: torch.Size,
        leading: int | None = None,
        transposed: bool = False,
        convolution: tuple[Any, ...] | None = None,
    ) -> Node | None:
        """Remembers a call of a layer; None if its parameters are perturbed themselves.

        Args are those of :class:`Application`.
        """
        on_nodes = [each for each in (weight_id, bias_id) if self.is_node(each)]
        if not on_nodes:
            return None
        others = {each for each in (weight_id, bias_id) if each >= 0} - set(on_nodes)
        if others:  # a bias that something else reads as well
            self.perturb_itself(*on_nodes)
            return None
        rows = shape[0] if convolution is not None else prod(shape[:-1])
        known = self.plan.samples
        samples = known if known is not None and rows % known == 0 else shape[0] if len(shape) > 1 else 1
        node = Node(self.first_application + len(self.applications), self._column, samples)
        application = Application(
            node, weight_id, bias_id, input, weight, shape, transposed, convolution, leading
        )
        self._column += application.positions
        self.applications.append(application)
        return node

    def before_write(self, targets: Sequence[Tensor]) -> None:
        """Takes copies of inputs that are about to be overwritten, and forgets the losses behind such numbers."""
        written = {storage_of(target) for target in targets} - {0}
        self.reduced.forget(written)
        for application in self.applications:
            if storage_of(application.input) in written:
                application.input = application.input.clone()

    def _losses_of(self, mode: DifferenceMode, value: Tensor) -> Losses:
        """The loss differences behind what the closure returned.

        Raises:
            ValueError: It can't be told apart what each sample has contributed.
        """
        if value.dim() in (1, 2):
            difference = mode.difference(value)
            if difference is not None:
                return Losses(ref(value), difference.float(), 1.0 / max(1, value.numel()))
        found = self.reduced.find(value)
        if found is None:
            raise ValueError(
                f"the closure returned a tensor of shape {tuple(value.shape)}, and of which losses it was made "
                "can't be seen: with noise on activations each sample needs a loss of its own. Return the "
                "losses [N] (reduction='none'), or [N, T] of tokens, or end the closure with F.cross_entropy, "
                "F.nll_loss, F.mse_loss, .mean() or .sum(), a multiple of such, or a sum of them over the same "
                "samples; or use perturb='weights'."
            )
        return found

    def add_noise(
        self,
        directions: Directions,
        signed_eps: Tensor,
        node: Node,
        change: Tensor,
        base: Tensor | None,
        activation: str,
        evaluations: slice,
    ) -> Tensor:
        """Puts a layer's difference and its noise through an activation.

        Args:
            directions: Those that ``change`` belongs to.
            signed_eps: Theirs.
            node: Where the noise is drawn.
            change: [P, *shape], the difference without the noise; overwritten.
            base: [*shape], the base pre-activation, or None.
            activation: What follows.
            evaluations: Which of the run's these are.
        """
        if self.mask is not None:
            change = change + self._masked(self.mask, node, change, evaluations)
            return change if base is None else ops.activation_difference(base, change, activation)
        flat = change.view(change.shape[0], node.samples, -1)
        still = None if base is None else base.reshape(node.samples, -1)
        ops.node_epilogue(flat, directions, signed_eps, node, base_output=still, activation=activation)
        return change

    def _masked(self, mask: Mask, node: Node, change: Tensor, evaluations: slice) -> Tensor:
        """The noise of a run with a mask, [P, *shape]."""
        number = node.application - self.first_application
        if mask.only is not None and number not in mask.only:
            return torch.zeros_like(change)
        kept, application = mask.kept[evaluations], self.applications[number]
        positions, tokens = application.positions, kept.shape[2]
        signs = ops.node_sample(self.directions[:1], node, positions, change.device)[0]
        if application.rows_a_sample == tokens:
            noise = kept.unsqueeze(3) * signs.view(1, node.samples, tokens, -1)
        else:
            noise = kept.amax(2).unsqueeze(2) * signs
        return (mask.eps * noise).reshape(change.shape).to(change.dtype)
