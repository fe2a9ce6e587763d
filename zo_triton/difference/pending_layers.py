"""Layers whose differences are not computed yet, so that what follows them is fused into their operation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton import ops
from zo_triton._memory import check_rest
from zo_triton._precision import convolution_factor, factor
from zo_triton.difference.entries import Entry
from zo_triton.ops import Node

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


class PendingLayer:
    """A layer whose difference is not computed yet, so that an activation can be fused into it.

    Args:
        index: Position among the run's pending layers.
        base: The unperturbed input, float32: an alias, so that the input tensor itself may die.
        source: The input's entry; None where the input carries no difference.
        weight: Float32.
        weight_id: The weight's tensor id, -1 if it is not trained.
        bias_id: The bias's tensor id, -1 if there is none or it is not trained.
        shape: Of the layer's base output.
        node: Where the noise on the output is drawn; None where weight and bias are perturbed themselves.
    """

    owned = True
    __slots__ = ("base", "bias_id", "index", "node", "shape", "source", "spent", "weight", "weight_id")

    def __init__(
        self,
        index: int,
        base: Tensor,
        source: Entry | None,
        weight: Tensor,
        weight_id: int,
        bias_id: int,
        shape: torch.Size,
        node: Node | None = None,
    ) -> None:
        self.index = index
        self.base: Tensor | None = base
        self.source = source
        self.weight: Tensor | None = weight
        self.weight_id = weight_id
        self.bias_id = bias_id
        self.shape = shape
        self.node = node
        self.spent = False
        if source is not None:
            source.readers += 1

    @property
    def reads(self) -> bool:
        """Whether it reads base results: not if nobody will ask for it any more."""
        return not self.spent

    def bases(self) -> Iterator[Tensor]:
        """The base results that it reads, itself or on the way to its input."""
        yield from (each for each in (self.base, self.weight) if each is not None)
        yield from () if self.source is None else self.source.bases()

    def resolve(self, mode: DifferenceMode) -> Tensor:
        """The pre-activation's difference, [P, *shape]; the layer lets go of its input."""
        difference = self.compute(mode, "none", None)
        self.release()
        return difference

    def compute(self, mode: DifferenceMode, activation: str, base_output: Tensor | None) -> Tensor:
        """The difference of ``activation(output)``, [P, *shape]."""
        raise NotImplementedError

    def release(self) -> None:
        """Lets go of the input and its difference."""
        source, self.source = self.source, None
        self.base = self.weight = None
        if source is not None:
            source.let_go()


class PendingLinear(PendingLayer):
    """A linear layer: base [N, in_features], weight [out_features, in_features].

    Attributes:
        depth: How many linear layers are pending one behind the other, this one included.
        transposed: The weight is stored as [in_features, out_features].
    """

    __slots__ = ("depth", "transposed")

    def __init__(self, *layer: Any, depth: int, transposed: bool = False) -> None:
        super().__init__(*layer)
        self.depth = depth
        self.transposed = transposed

    def compute(self, mode: DifferenceMode, activation: str, base_output: Tensor | None) -> Tensor:
        """The difference of ``activation(output)``, [P, *shape].

        If nobody else can read the input's difference any more, its memory is given to the result; the
        pre-activation's own difference is then out of reach (``spent``), and asking for it restarts the run.
        """
        if self.spent:
            mode.restart(keep=self.index)
        mode.reserve(self.shape.numel())
        if self.node is not None:
            return self._with_noise(mode, self.node, activation, base_output)
        given, source = self.given(mode), self.source
        assert self.base is not None
        assert self.weight is not None
        samples = self.base.shape[0]
        donate = source is not None and source.exclusive and source.readers == 1
        if base_output is not None and base_output.dim() != 2:
            base_output = base_output.reshape(samples, -1)
        result = ops.perturbed_linear(
            self.base,
            given,
            self.weight,
            mode.directions,
            mode.signed_eps,
            weight_id=self.weight_id,
            bias_id=self.bias_id,
            base_output=base_output,
            activation=activation,
            dtype=mode.compute_dtype,
            donate=donate,
            transposed=self.transposed,
        )
        if donate and source is not None and _same_memory(result, source.difference):
            self.spent = True
            self.release()
        return result if len(self.shape) == 2 else result.view(mode.evaluations, *self.shape)

    def _with_noise(
        self, mode: DifferenceMode, node: Node, activation: str, base_output: Tensor | None
    ) -> Tensor:
        """The same where the output is perturbed instead of the weight."""
        assert mode.nodes is not None
        assert self.base is not None
        assert self.weight is not None
        given, rows = self.given(mode), self.base.shape[0]
        still = None if base_output is None else base_output.reshape(rows, -1)
        if given is not None and mode.nodes.mask is None:
            result = ops.node_linear(
                given,
                self.weight,
                mode.directions,
                mode.signed_eps,
                node,
                base_output=still,
                activation=activation,
                transposed=self.transposed,
            )
        else:
            features = self.shape[-1]
            if given is None:
                change = torch.zeros(
                    mode.evaluations, rows, features, dtype=mode.compute_dtype, device=self.base.device
                )
            else:
                matrix = self.weight if self.transposed else self.weight.mT
                change = factor(given) @ factor(matrix.to(given.dtype))
            whole = slice(None)
            result = mode.nodes.add_noise(
                mode.directions, mode.signed_eps, node, change, still, activation, whole
            )
        return result.view(mode.evaluations, *self.shape)

    def given(self, mode: DifferenceMode) -> Tensor | None:
        """The input's difference, [P, N, in_features] in the compute dtype; None if it carries none."""
        if self.source is None:
            return None
        assert self.base is not None
        given = mode.resolve(self.source)
        if given.dtype != mode.compute_dtype:
            given = given.to(mode.compute_dtype)
        return given if given.dim() == 3 else given.reshape(mode.evaluations, self.base.shape[0], -1)


class PendingConvolution(PendingLayer):
    """A two-dimensional convolution: base [N, C, H, W], weight [O, C / groups, kernel height, kernel width].

    Attributes:
        options: stride, padding, dilation and groups, as ``ops.perturbed_conv2d`` takes them.
    """

    __slots__ = ("options",)

    def __init__(self, *layer: Any, options: dict[str, Any]) -> None:
        super().__init__(*layer)
        self.options = options

    def compute(self, mode: DifferenceMode, activation: str, base_output: Tensor | None) -> Tensor:
        """The difference of ``activation(output)``, [P, *shape]."""
        if self.spent:
            mode.restart(keep=self.index)
        mode.reserve(self.shape.numel())
        return self.evaluate(mode, 0, mode.directions.num, activation, base_output)

    def pieces(
        self, mode: DifferenceMode, activation: str, base_output: Tensor, num: int
    ) -> Iterator[tuple[slice, Tensor]]:
        """The same, ``num`` directions at a time: the evaluations of each piece, and it. Not to be asked twice.

        Each piece lies in the memory of the one before.
        """
        memory = None
        for first in range(0, mode.directions.num, num):
            last = min(first + num, mode.directions.num)
            kept = None if memory is None else memory[: (last - first) * mode.sides]
            piece = self.evaluate(mode, first, last, activation, base_output, kept)
            memory = piece if memory is None else memory
            yield slice(first * mode.sides, last * mode.sides), piece
        self.spent = True
        self.release()

    def evaluate(
        self,
        mode: DifferenceMode,
        first: int,
        last: int,
        activation: str,
        base_output: Tensor | None,
        out: Tensor | None = None,
    ) -> Tensor:
        """For the directions first … last - 1."""
        assert self.base is not None
        assert self.weight is not None
        check_rest(self.weight.device)
        evaluations = slice(first * mode.sides, last * mode.sides)
        given = None if self.source is None else mode.resolve(self.source)[evaluations].to(mode.compute_dtype)
        if self.node is not None:
            return self._with_noise(mode, self.node, given, first, last, activation, base_output)
        return ops.perturbed_conv2d(
            self.base,
            given,
            self.weight,
            mode.directions[first:last],
            mode.signed_eps[evaluations],
            weight_id=self.weight_id,
            bias_id=self.bias_id,
            base_output=base_output,
            activation=activation,
            dtype=mode.compute_dtype,
            out=out,
            **self.options,
        )

    def _with_noise(
        self,
        mode: DifferenceMode,
        node: Node,
        given: Tensor | None,
        first: int,
        last: int,
        activation: str,
        base_output: Tensor | None,
    ) -> Tensor:
        """The same where the output is perturbed instead of the weight."""
        assert mode.nodes is not None
        assert self.weight is not None
        evaluations = slice(first * mode.sides, last * mode.sides)
        directions, steps = mode.directions[first:last], mode.signed_eps[evaluations]
        if given is not None and mode.nodes.mask is None:
            return ops.node_conv2d(
                given, self.weight, directions, steps, node,
                base_output=base_output, activation=activation, **self.options,
            )  # fmt: skip
        if given is None:
            shape = (steps.numel(), *self.shape)
            change = torch.zeros(shape, dtype=mode.compute_dtype, device=self.weight.device)
        else:
            moved = F.conv2d(
                convolution_factor(given.flatten(0, 1).float()),
                convolution_factor(self.weight),
                **self.options,
            )
            change = moved.view(given.shape[0], *self.shape).to(given.dtype)
        return mode.nodes.add_noise(directions, steps, node, change, base_output, activation, evaluations)


class PendingActivation:
    """An activation of a pending layer that is not computed yet: a whole network may follow.

    Args:
        source: The pre-activation's entry.
        activation: One that ``ops`` knows.
        base: The pre-activation, float32: an alias, so that the tensor itself may die.
    """

    reads = owned = True
    __slots__ = ("activation", "base", "source")

    def __init__(self, source: Entry, activation: str, base: Tensor) -> None:
        self.source: Entry | None = source
        self.activation = activation
        self.base: Tensor | None = base
        source.readers += 1

    def bases(self) -> Iterator[Tensor]:
        """The base results that it reads, itself or on the way to the pre-activation."""
        yield from () if self.base is None else (self.base,)
        yield from () if self.source is None else self.source.bases()

    def resolve(self, mode: DifferenceMode) -> Tensor:
        """f(x + δ) − f(x), [P, *shape]: by the layer's own epilogue if it is still pending."""
        source, base = self.source, self.base
        assert source is not None
        assert base is not None
        layer = source.lazy
        if isinstance(layer, PendingLayer) and layer.index not in mode.plan.keep:
            difference = layer.compute(mode, self.activation, base)
        else:
            difference = ops.activation_difference(base, mode.resolve(source), self.activation)
        self.release()
        return difference

    def pieces(self, mode: DifferenceMode, num: int) -> Iterator[tuple[slice, Tensor]] | None:
        """The same ``num`` directions at a time; None unless it is a convolution's that nobody has asked for."""
        assert self.source is not None
        assert self.base is not None
        layer = self.source.lazy
        if not isinstance(layer, PendingConvolution) or layer.spent or layer.index in mode.plan.keep:
            return None
        return layer.pieces(mode, self.activation, self.base, num)

    def release(self) -> None:
        """Lets go of the pre-activation."""
        source, self.source, self.base = self.source, None, None
        if source is not None:
            source.let_go()


def _same_memory(result: Tensor, difference: Tensor | None) -> bool:
    return difference is not None and result.data_ptr() == difference.data_ptr()
