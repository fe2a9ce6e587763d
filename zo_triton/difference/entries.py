"""What the mode remembers of a tensor: its difference, or how to get it when somebody asks.

An entry dies with its base tensor. Who may still read a difference is counted (``Entry.readers``), because
the last reader may overwrite it; and ``Entry.exclusive`` says that no other entry looks at the same memory.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from weakref import KeyedRef

import torch
from torch import Tensor

from zo_triton import ops

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode


class Entry:
    """The difference of one base tensor.

    Attributes:
        difference: [P, *shape] in the compute dtype (float32 after a loss), or None while ``lazy`` is set.
        lazy: A :class:`PendingLinear`, :class:`PendingActivation` or :class:`Symbol` that computes the
            difference on demand, or None.
        exclusive: No other entry's difference lies in the same memory.
        readers: How many places may read ``difference`` again: the table and each pending entry.
        reference: Weak reference to the base tensor; its callback removes the entry from the table.
    """

    __slots__ = ("difference", "exclusive", "lazy", "readers", "reference")

    def __init__(
        self,
        difference: Tensor | None,
        lazy: PendingLinear | PendingActivation | Symbol | None = None,
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


class PendingLinear:
    """A linear layer whose difference is not computed yet, so that an activation can be fused into it.

    Args:
        index: Position among the run's linear layers.
        base: The unperturbed input as [N, in_features]: an alias, so that the input tensor itself may die.
        source: The input's entry, its difference resolved; None where the input carries none.
        weight: [out_features, in_features].
        weight_id: The weight's tensor id, -1 if it is not trained.
        bias_id: The bias's tensor id, -1 if there is none or it is not trained.
        shape: Of the layer's base output.
    """

    __slots__ = ("base", "bias_id", "depth", "index", "shape", "source", "spent", "weight", "weight_id")

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
        self.depth = 1
        if source is not None:
            source.readers += 1

    def resolve(self, mode: DifferenceMode) -> Tensor:
        """The pre-activation's difference, [P, *shape]; the layer lets go of its input."""
        if self.spent:
            mode.restart(keep=self.index)
        difference = self.compute(mode, "none", None)
        self.release()
        return difference

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

    def release(self) -> None:
        """Lets go of the input and its difference."""
        source, self.source = self.source, None
        self.base = self.weight = None
        if source is not None:
            source.let_go()


class PendingActivation:
    """An activation of a pending linear layer that is not computed yet: a whole network may follow.

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
        """f(x + δ) − f(x), [P, *shape]: by the linear layer's own epilogue if it is still pending."""
        source, base = self.source, self.base
        assert source is not None
        assert base is not None
        linear = source.lazy
        if isinstance(linear, PendingLinear) and linear.index not in mode.plan.keep:
            difference = linear.compute(mode, self.activation, base)
        else:
            difference = ops.activation_difference(base, mode.resolve(source), self.activation)
        self.release()
        return difference

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
