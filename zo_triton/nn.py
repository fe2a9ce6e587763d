"""Layers with their activation built in: torch's own under autograd, fused ones where differences flow.

Each is its torch counterpart in every other respect: the same parameters under the same names, so a state dict
fits both; the same initialisation; usable in any model, optimizer and saver.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from zo_triton import ops
from zo_triton.directions import Directions

__all__ = ["ZOMLP", "ZOConv2d", "ZOLinear"]

_FUNCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "none": lambda x: x,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu": F.gelu,
    "gelu_tanh": partial(F.gelu, approximate="tanh"),
    "silu": F.silu,
}
_MODULES: dict[str, Callable[[], nn.Module]] = {
    "none": nn.Identity,
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "sigmoid": nn.Sigmoid,
    "gelu": nn.GELU,
    "gelu_tanh": partial(nn.GELU, approximate="tanh"),
    "silu": nn.SiLU,
}


class _Activated(nn.Module):
    """What the layers share: the activation behind torch's own forward pass, and the fused op for both.

    Stands before the torch layer among a class's bases.
    """

    activation: str
    _layout: ClassVar[str]
    """Of one input, as an error names it."""

    def forward(self, input: Tensor) -> Tensor:
        """The layer of an input of torch's own layer, activated."""
        return _FUNCTIONS[self.activation](super().forward(input))

    @torch.no_grad()
    def differences(
        self,
        base: Tensor,
        difference: Tensor | None,
        directions: Directions,
        signed_eps: Tensor,
        weight_id: int = 0,
        bias_id: int = 1,
        dtype: torch.dtype = torch.float32,
    ) -> tuple[Tensor, Tensor]:
        """The fused op itself: the output at the base, and how it differs in each evaluation.

        Args:
            base: a, the unperturbed input: [N, in_features] of a linear layer, [N, C, H, W] of a convolution.
            difference: δ, [P, *base.shape] in ``dtype``, or None where the input is the same in all.
            directions: Names the K directions.
            signed_eps: [P] float32, sε of each evaluation; P = K, or 2K with a direction's two sides together.
            weight_id: The weight's tensor id; -1 freezes it.
            bias_id: The bias's tensor id; -1 freezes it.
            dtype: The compute dtype, float32 or bfloat16.

        Returns:
            The output, and its differences, [P, *output.shape] in ``dtype``.

        Raises:
            ValueError: Shapes do not fit together, or the padding "same" needs more zeros on one side than on the
                other.
        """
        _check_evaluations(base, difference, directions, signed_eps, self._layout)
        perturbed = self._perturbed()
        before = super().forward(base)
        moved = perturbed(
            base, difference, self.weight, directions, signed_eps, weight_id=weight_id,
            bias_id=-1 if self.bias is None else bias_id, base_output=before, activation=self.activation,
            dtype=dtype,
        )  # fmt: skip
        return _FUNCTIONS[self.activation](before), moved

    def _perturbed(self) -> Callable[..., Tensor]:
        """The fused op of this kind of layer."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        """What stands between the parentheses of the layer's repr."""
        return f"{super().extra_repr()}, activation={self.activation!r}"


class ZOLinear(_Activated, nn.Linear):
    """``activation(x Wᵀ + b)``: an ``nn.Linear`` that knows what follows it.

    Args:
        in_features: Size of the last axis of the input.
        out_features: Size of the last axis of the output.
        bias: Whether there is a b.
        activation: none, relu, tanh, sigmoid, gelu, gelu_tanh or silu.
        device: Of the parameters.
        dtype: Of the parameters, a real floating type.

    Raises:
        TypeError: A size is no integer, or ``dtype`` is not floating.
        ValueError: A size is below 1, or the activation is unknown.
    """

    _layout = "[N, in_features]"

    def __init__(
        self,
        in_features: int,
        out_features: int,
        bias: bool = True,
        activation: str = "none",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        _check_sizes(in_features=in_features, out_features=out_features)
        _check_kind(activation, dtype)
        super().__init__(in_features, out_features, bias, device, dtype)
        self.activation = activation

    def _perturbed(self) -> Callable[..., Tensor]:
        return ops.perturbed_linear


class ZOConv2d(_Activated, nn.Conv2d):
    """``activation(conv2d(x, W) + b)``: an ``nn.Conv2d`` that pads with zeros and knows what follows it.

    Args:
        in_channels: C.
        out_channels: Channels of the output.
        kernel_size: Of the window; one number or (rows, columns), as all the following.
        stride: Of the window.
        padding: Zeros on each side, or "same" or "valid".
        dilation: Of the window.
        groups: Into which the channels fall; both counts must be divisible by it.
        bias: Whether there is a b.
        padding_mode: "zeros", the only one.
        activation: none, relu, tanh, sigmoid, gelu, gelu_tanh or silu.
        device: Of the parameters.
        dtype: Of the parameters, a real floating type.

    Raises:
        TypeError: A size is no integer, or ``dtype`` is not floating.
        ValueError: A size is below 1, the groups do not fit, or the activation or the padding mode is unknown.
    """

    _layout = "[N, C, H, W]"

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: int | tuple[int, int],
        stride: int | tuple[int, int] = 1,
        padding: int | tuple[int, int] | str = 0,
        dilation: int | tuple[int, int] = 1,
        groups: int = 1,
        bias: bool = True,
        padding_mode: str = "zeros",
        activation: str = "none",
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if padding_mode != "zeros":
            raise ValueError(
                f"ZOConv2d pads with zeros, got padding_mode={padding_mode!r}; take nn.Conv2d, which zo.ZOSGD "
                "trains as well."
            )
        _check_sizes(in_channels=in_channels, out_channels=out_channels, groups=groups)
        _check_kind(activation, dtype)
        super().__init__(
            in_channels, out_channels, kernel_size, stride, padding, dilation, groups, bias, device=device,
            dtype=dtype,
        )  # fmt: skip
        self.activation = activation

    def _perturbed(self) -> Callable[..., Tensor]:
        return partial(
            ops.perturbed_conv2d, stride=_pair(self.stride), padding=self._zeros(),
            dilation=_pair(self.dilation), groups=self.groups,
        )  # fmt: skip

    def _zeros(self) -> tuple[int, int]:
        if not isinstance(self.padding, str):
            return _pair(self.padding)
        if self.padding == "valid":
            return 0, 0
        both = [spread * (size - 1) for spread, size in zip(self.dilation, self.kernel_size, strict=True)]
        if any(zeros % 2 for zeros in both):
            raise ValueError(
                f"padding='same' with kernel_size={self.kernel_size} and dilation={self.dilation} puts more zeros "
                "on one side than on the other; take an odd kernel size."
            )
        return both[0] // 2, both[1] // 2


class ZOMLP(nn.Sequential):
    """Linear layers with an activation between them: the ``nn.Sequential`` that one would write out.

    Its members are plain torch layers in the order Linear, activation, Linear, …, Linear, so that the difference
    mode and the whole-network ops see what they know.

    Args:
        sizes: Width of the input, of each hidden layer and of the output.
        activation: relu, tanh, sigmoid, gelu, gelu_tanh, silu, or none.
        bias: Whether the layers have one.
        device: Of the parameters.
        dtype: Of the parameters, a real floating type.

    Raises:
        TypeError: A size is no integer, or ``dtype`` is not floating.
        ValueError: Fewer than two sizes, one below 1, or an unknown activation.

    Example:
        >>> import zo_triton as zo
        >>> list(zo.ZOMLP([784, 32, 10]).state_dict())
        ['0.weight', '0.bias', '2.weight', '2.bias']
    """

    def __init__(
        self,
        sizes: Sequence[int],
        activation: str = "relu",
        bias: bool = True,
        device: Any = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        if isinstance(sizes, int):
            numbers = [each for each in (sizes, activation, bias, device, dtype) if type(each) is int]
            raise TypeError(f"sizes must be one list, got the number {sizes}; write ZOMLP({numbers}).")
        sizes = list(sizes)
        if len(sizes) < 2:
            raise ValueError(f"sizes must name at least an input and an output width, got {sizes}.")
        _check_sizes(**{f"sizes[{i}]": size for i, size in enumerate(sizes)})
        _check_kind(activation, dtype)
        layers: list[nn.Module] = []
        for inputs, outputs in pairwise(sizes):
            layers += [nn.Linear(inputs, outputs, bias, device, dtype), _MODULES[activation]()]
        super().__init__(*layers[:-1])

    def __getitem__(self, index: Any) -> Any:
        """One layer; a slice is an ordinary ``nn.Sequential``."""
        if isinstance(index, slice):
            return nn.Sequential(*list(self)[index])
        return super().__getitem__(index)


def _pair(sizes: tuple[int, ...]) -> tuple[int, int]:
    height, width = sizes
    return height, width


def _check_sizes(**sizes: Any) -> None:
    for name, size in sizes.items():
        if isinstance(size, bool) or not isinstance(size, int):
            raise TypeError(f"{name} must be an int, got {size!r} of type {type(size).__name__}.")
        if size < 1:
            raise ValueError(f"{name} must be at least 1, got {size}.")


def _check_kind(activation: str, dtype: torch.dtype | None) -> None:
    if activation not in _FUNCTIONS:
        raise ValueError(f"unknown activation {activation!r}; choose one of {tuple(_FUNCTIONS)}.")
    if dtype is not None and not dtype.is_floating_point:
        raise TypeError(
            f"dtype must be a real floating type, got {dtype}; random directions are real numbers."
        )


def _check_evaluations(
    base: Tensor,
    difference: Tensor | None,
    directions: Directions,
    signed_eps: Tensor,
    layout: str,
) -> None:
    if base.dim() != 1 + layout.count(","):
        raise ValueError(f"base must be {layout}, got shape {tuple(base.shape)}.")
    if signed_eps.dim() != 1 or signed_eps.numel() not in (directions.num, 2 * directions.num):
        raise ValueError(
            f"signed_eps must be [K] or [2K] with K = {directions.num} directions, got {tuple(signed_eps.shape)}."
        )
    expected = (signed_eps.numel(), *base.shape)
    if difference is not None and difference.shape != expected:
        raise ValueError(f"difference must have shape {expected}, got {tuple(difference.shape)}.")
