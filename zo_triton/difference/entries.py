"""What the mode remembers of a tensor: its difference, or how to get it when somebody asks.

An entry dies with its base tensor. Who may still read a difference is counted (``Entry.readers``), because
the last reader may overwrite it; and ``Entry.exclusive`` says that no other entry looks at the same memory.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any
from weakref import KeyedRef

import torch
from torch import Tensor

from zo_triton import ops

if TYPE_CHECKING:
    from zo_triton.difference.chains import PendingChain
    from zo_triton.difference.mode import DifferenceMode


class Entry:
    """The difference of one base tensor.

    Attributes:
        difference: [P, *shape] in the compute dtype (float32 after a loss), or None while ``lazy`` is set.
        lazy: A :class:`PendingLayer`, :class:`PendingActivation`, ``PendingChain`` or :class:`Symbol` that
            computes the difference on demand, or None.
        exclusive: No other entry's difference lies in the same memory.
        readers: How many places may read ``difference`` again: the table and each pending entry.
        reference: Weak reference to the base tensor; its callback removes the entry from the table.
    """

    __slots__ = ("difference", "exclusive", "lazy", "readers", "reference")

    def __init__(
        self,
        difference: Tensor | None,
        lazy: PendingLayer | PendingActivation | PendingChain | Symbol | None = None,
        exclusive: bool = False,
    ) -> None:
        self.difference = difference
        self.lazy = lazy
        self.exclusive = exclusive
        self.readers = 0
        self.reference: KeyedRef[int, Tensor] | None = None

    def forget(self) -> None:
        """The table no longer reads this entry: its base tensor died or was overwritten."""
        self.reference = None
        self.let_go()

    def let_go(self) -> None:
        """One reader fewer; without any, what is pending will never be computed."""
        self.readers -= 1
        if self.readers == 0 and self.lazy is not None:
            self.lazy.release()


class Symbol:
    """A trained parameter under another name: its alias (``.data``, ``.detach()``) or its transpose."""

    __slots__ = ("parameter", "tensor_id", "transposed")

    def __init__(self, parameter: Tensor, tensor_id: int, transposed: bool) -> None:
        self.parameter = parameter
        self.tensor_id = tensor_id
        self.transposed = transposed

    def resolve(self, mode: DifferenceMode) -> Tensor:
        """sε·z of the parameter, [P, *shape]."""
        difference = mode.materialise(self.tensor_id, self.parameter)
        return difference.mT if self.transposed else difference

    def release(self) -> None:
        """Nothing is held."""


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
    """

    __slots__ = ("base", "bias_id", "index", "shape", "source", "spent", "weight", "weight_id")

    def __init__(
        self,
        index: int,
        base: Tensor,
        source: Entry | None,
        weight: Tensor,
        weight_id: int,
        bias_id: int,
        shape: torch.Size,
    ) -> None:
        self.index = index
        self.base: Tensor | None = base
        self.source = source
        self.weight: Tensor | None = weight
        self.weight_id = weight_id
        self.bias_id = bias_id
        self.shape = shape
        self.spent = False
        if source is not None:
            source.readers += 1

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
    """

    __slots__ = ("depth",)

    def __init__(self, *layer: Any, depth: int) -> None:
        super().__init__(*layer)
        self.depth = depth

    def compute(self, mode: DifferenceMode, activation: str, base_output: Tensor | None) -> Tensor:
        """The difference of ``activation(output)``, [P, *shape].

        If nobody else can read the input's difference any more, its memory is given to the result; the
        pre-activation's own difference is then out of reach (``spent``), and asking for it restarts the run.
        """
        if self.spent:
            mode.restart(keep=self.index)
        assert self.base is not None
        assert self.weight is not None
        given, donate, samples = None, False, self.base.shape[0]
        source = self.source
        if source is not None:
            given = mode.resolve(source)
            if given.dtype != mode.compute_dtype:
                given = given.to(mode.compute_dtype)
            if given.dim() != 3:
                given = given.reshape(mode.evaluations, samples, -1)
            donate = source.exclusive and source.readers == 1
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
        )
        if donate and source is not None and _same_memory(result, source.difference):
            self.spent = True
            self.release()
        return result if len(self.shape) == 2 else result.view(mode.evaluations, *self.shape)


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
        evaluations = slice(first * mode.sides, last * mode.sides)
        given = None if self.source is None else mode.resolve(self.source)[evaluations].to(mode.compute_dtype)
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


class PendingActivation:
    """An activation of a pending layer that is not computed yet: a whole network may follow.

    Args:
        source: The pre-activation's entry.
        activation: One that ``ops`` knows.
        base: The pre-activation, float32: an alias, so that the tensor itself may die.
    """

    __slots__ = ("activation", "base", "source")

    def __init__(self, source: Entry, activation: str, base: Tensor) -> None:
        self.source: Entry | None = source
        self.activation = activation
        self.base: Tensor | None = base
        source.readers += 1

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


def storage_of(tensor: Tensor) -> int:
    """Address of the tensor's memory, 0 where it has none."""
    return tensor.untyped_storage().data_ptr()


def _same_memory(result: Tensor, difference: Tensor | None) -> bool:
    return difference is not None and result.data_ptr() == difference.data_ptr()
