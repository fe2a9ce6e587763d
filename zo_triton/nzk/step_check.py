"""One step of any training run on any torch model, against the kernel that it realised."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call

from zo_triton.directions import Directions
from zo_triton.nzk.evolution import check_lr
from zo_triton.nzk.function_space import check_kind
from zo_triton.nzk.tangent_kernel import Linearized, linearize
from zo_triton.nzk.walk import realised_factors


@dataclass(frozen=True)
class StepError:
    """What :class:`StepCheck` found; every figure is relative to |predicted Δf|.

    Attributes:
        error: |Δf - predicted|: all that parts theory and step.
        kernels: |J·Δθ - predicted|: what the kernels measured and walked, without the model's curvature. With
            one-sided differences it holds their bias, of order ε.
        curvature: |Δf - J·Δθ|: how far the model is from linear over this step; 0 for a linear one.
        rounding: What rounding the weights to their dtype alone contributes, by its standard deviation.
    """

    error: float
    kernels: float
    curvature: float
    rounding: float


class StepCheck:
    """Compares one training step with the kernel it realised: Δf = -lr·K̂·∂L/∂f, for (1/2n)|f-y|² -(lr/n)·K̂·(f-y).

    The model is evaluated in float64 before and after, and its Jacobian once: for checks, not for every step.

    Args:
        model: Any module that :func:`zo_triton.nzk.linearize` takes; its trained parameters in the order of
            ``model.parameters()`` are the field's tensors.
        inputs: x, [n, …].
        loss: Maps the model's outputs (float64) to the scalar loss that the step descends.
        compute_dtype: Of the step's differences; decides the directions' rounding.

    Example:
        >>> import torch, zo_triton as zo
        >>> from zo_triton.nzk import StepCheck
        >>> model, x, y = torch.nn.Linear(3, 1), torch.randn(5, 3), torch.randn(5, 1)
        >>> loss = lambda f: 0.5 * (f - y).square().mean()
        >>> opt = zo.ZOSGD(model.parameters(), lr=0.1, directions=4, sides=2)
        >>> probe = StepCheck(model, x, loss)
        >>> _ = probe.before(opt.next_directions(), lr=0.1)
        >>> _ = opt.step(lambda: loss(model(x)))
        >>> probe.after().kernels < 1e-4
        True
    """

    def __init__(
        self,
        model: nn.Module,
        inputs: Tensor,
        loss: Callable[[Tensor], Tensor],
        compute_dtype: torch.dtype = torch.float32,
    ) -> None:
        self.model, self.inputs, self.loss, self.compute_dtype = model, inputs, loss, compute_dtype
        self._begun: tuple[Linearized, np.ndarray, np.ndarray] | None = None

    def before(
        self, directions: Directions, lr: float, kernel: str = "update", coupling: str = "shared"
    ) -> np.ndarray:
        """Predicts the step that is about to be made.

        Args:
            directions: Those of the step; for the NZK with independent vectors z first, then ζ.
            lr: Learning rate η > 0, without momentum or weight decay.
            kernel: "update" for the ``average`` aggregator of ``zo.ZOSGD``, or "nzk".
            coupling: "shared" or "independent" vectors in the NZK.

        Returns:
            The predicted change of the outputs, [n·o] float64.

        Raises:
            TypeError: As :func:`zo_triton.nzk.linearize`.
            ValueError: The loss is no scalar, lr is not positive, or as :func:`zo_triton.nzk.linearize`.
        """
        check_lr(lr)
        check_kind(kernel, coupling)
        line = linearize(self.model, self.inputs)
        outputs = self._outputs().requires_grad_()
        with torch.enable_grad():
            value = self.loss(outputs)
            if value.numel() != 1:
                raise ValueError(f"loss must return a scalar, got shape {tuple(value.shape)}.")
            slope = torch.autograd.grad(value, outputs)[0].flatten().cpu().numpy()
        device = self.inputs.device
        realised = next(
            realised_factors(
                line.features, directions, 1, kernel, coupling, line.shapes, self.compute_dtype, device
            )
        )
        middle = np.eye(realised.left.shape[1]) / realised.left.shape[1]
        if realised.middle is not None:
            middle = realised.middle[0]
        predicted = -lr * (realised.left[0].T @ (middle @ (realised.right[0] @ slope)))
        self._begun = line, self._weights(), predicted
        return predicted

    def after(self) -> StepError:
        """Compares the step that was made with the prediction.

        Returns:
            The relative errors.

        Raises:
            ValueError: :meth:`before` was not called, or predicted no change at all.
        """
        if self._begun is None:
            raise ValueError(
                "after() compares with a prediction: call before(directions, lr) ahead of the step."
            )
        line, weights, predicted = self._begun
        self._begun = None
        size = float(np.linalg.norm(predicted))
        if size == 0:
            raise ValueError(
                "the predicted change is zero: the loss has no slope here, so nothing is compared."
            )
        measured = self._outputs().flatten().cpu().numpy() - line.outputs
        moved = self._weights()
        linear = line.features @ (moved - weights)
        rounding = np.linalg.norm(line.features * self._resolution(moved), axis=1)
        return StepError(
            error=float(np.linalg.norm(measured - predicted)) / size,
            kernels=float(np.linalg.norm(linear - predicted)) / size,
            curvature=float(np.linalg.norm(measured - linear)) / size,
            rounding=float(np.linalg.norm(rounding)) / size,
        )

    def _trained(self) -> Iterator[Tensor]:
        return (tensor.detach() for tensor in self.model.parameters() if tensor.requires_grad)

    def _weights(self) -> np.ndarray:
        return torch.cat([tensor.double().flatten().cpu() for tensor in self._trained()]).numpy()

    def _resolution(self, weights: np.ndarray) -> np.ndarray:
        """Standard deviation of rounding each weight once: its last place over √12."""
        steps = [np.full(tensor.numel(), torch.finfo(tensor.dtype).eps) for tensor in self._trained()]
        return np.concatenate(steps) * 2.0 ** np.floor(np.log2(np.maximum(np.abs(weights), 1e-300))) / 12**0.5

    @torch.no_grad()
    def _outputs(self) -> Tensor:
        state = {
            name: tensor.detach().double() if tensor.is_floating_point() else tensor
            for name, tensor in (*self.model.named_parameters(), *self.model.named_buffers())
        }
        return functional_call(self.model, state, (self.inputs.double(),)).detach()
