"""What the operations ask of the shapes of their arguments, before an engine goes through memory by them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from zo_triton.directions import Directions


def check_shape(name: str, tensor: Tensor, shape: Sequence[int]) -> None:
    """Refuses a tensor of another shape.

    Raises:
        ValueError: It has one.
    """
    if tensor.shape != tuple(shape):
        raise ValueError(f"{name} must have the shape {tuple(shape)}, got {tuple(tensor.shape)}.")


def check_evaluations(signed_eps: Tensor, directions: Directions) -> int:
    """P, the number of evaluations.

    Raises:
        ValueError: It is neither K nor 2K.
    """
    evaluations = signed_eps.numel()
    if signed_eps.dim() != 1 or evaluations not in (directions.num, 2 * directions.num):
        raise ValueError(
            f"signed_eps must be [K] or [2K] for K = {directions.num} directions, got {tuple(signed_eps.shape)}."
        )
    return evaluations


def check_difference(difference: Tensor | None, shape: Sequence[int], dtype: torch.dtype) -> None:
    """Refuses a difference that is not [P, *base.shape] in the compute dtype.

    Raises:
        TypeError: It is of another dtype.
        ValueError: It has another shape.
    """
    if difference is None:
        return
    check_shape("difference", difference, shape)
    if difference.dtype != dtype:
        raise TypeError(f"difference must be of the compute dtype {dtype}, got {difference.dtype}.")


def check_base_output(base_output: Tensor | None, activation: str, shape: Sequence[int]) -> None:
    """Refuses an activation without the base's pre-activation, in as many elements as the layer puts out.

    Raises:
        ValueError: It is missing, or has another size.
    """
    if activation == "none":
        return
    if base_output is None:
        raise ValueError(f"activation={activation!r} needs base_output, the base's pre-activation.")
    check_shape("base_output", base_output, shape)


def check_window(
    weight: Tensor,
    channels: int,
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> None:
    """Refuses what is no convolution of so many channels.

    Raises:
        ValueError: The weight does not fit, or a number is too small.
    """
    if groups < 1 or weight.dim() != 4 or weight.shape[1] * groups != channels or weight.shape[0] % groups:
        raise ValueError(
            f"weight must be [O, C / groups, kernel height, kernel width] for C = {channels} and groups={groups}, "
            f"got shape {tuple(weight.shape)}."
        )
    if min(*stride, *dilation) < 1 or min(padding) < 0:
        raise ValueError(
            f"stride and dilation must be 1 or more, and padding 0 or more, got {tuple(stride)}, "
            f"{tuple(dilation)} and {tuple(padding)}."
        )


def check_target(target: Tensor, logits: Sequence[int]) -> None:
    """Refuses labels that are not [N], or targets that are not [N, C].

    Raises:
        ValueError: They are not.
    """
    check_shape("target", target, logits if target.is_floating_point() else logits[:1])


def check_network(
    inputs: Sequence[Tensor], outputs: Sequence[Tensor], weights: Sequence[Tensor], target: Tensor
) -> None:
    """Refuses a network whose layers do not fit.

    Raises:
        ValueError: They do not.
    """
    samples = outputs[0].shape[0]
    for layer, (given, made, weight) in enumerate(zip(inputs, outputs, weights, strict=True)):
        check_shape(f"inputs[{layer}]", given, (samples, weight.shape[1]))
        check_shape(f"outputs[{layer}]", made, (samples, weight.shape[0]))
    check_target(target, outputs[-1].shape)


def check_arrays(tensors: Sequence[np.ndarray], x: np.ndarray, target: np.ndarray) -> None:
    """Refuses a batch that a network of these weights [out, in] and biases [1, out] does not take.

    Raises:
        ValueError: It does not, or the network's layers do not fit.
    """
    inputs, outputs = _ends(tuple([tensor.shape for tensor in tensors]))
    if x.ndim != 2 or x.shape[1] != inputs or x.dtype != np.float32:
        raise ValueError(f"x must be float32 [N, {inputs}], got {x.dtype} {x.shape}.")
    if target.shape not in ((x.shape[0],), (x.shape[0], outputs)):
        raise ValueError(f"target must be [{x.shape[0]}] or [{x.shape[0]}, {outputs}], got {target.shape}.")


@lru_cache(maxsize=64)
def _ends(shapes: tuple[tuple[int, ...], ...]) -> tuple[int, int]:
    """Inputs and outputs of a network."""
    inner = shapes[0][-1]
    for weight, bias in zip(shapes[::2], shapes[1::2], strict=True):
        if len(weight) != 2 or weight[1] != inner or bias != (1, weight[0]):
            raise ValueError(
                f"the tensors must be weights [out, in] and biases [1, out] of layers by turns, got {shapes}."
            )
        inner = weight[0]
    return shapes[0][1], inner


def check_memory(
    tensors: Sequence[np.ndarray], first: Sequence[np.ndarray], second: Sequence[np.ndarray]
) -> None:
    """Refuses an optimizer's memory of other shapes than the tensors'.

    Raises:
        ValueError: It is.
    """
    shapes = [tensor.shape for tensor in tensors]
    for memory in (first, second):
        if [array.shape for array in memory] != shapes:
            raise ValueError(f"first and second must be like the tensors, {shapes}.")
