"""Grey images of a smaller size, as the experiments on the zeroth-order kernel use them.

The paper's scripts resize bilinearly without antialiasing, so most source pixels are never looked at; averaging
over areas uses them all. torch does both.
"""

from __future__ import annotations

import numpy as np

LUMA = (0.299, 0.587, 0.114)
"""Weights of red, green and blue (ITU-R BT.601)."""

MODES = ("bilinear", "area")


def to_grey(x: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """Turns channel-first images into brightness.

    Args:
        x: [n, channels·height·width] float32.
        shape: (channels, height, width), with one channel (kept as it is) or three (red, green, blue).

    Returns:
        [n, height, width] float32.

    Raises:
        ValueError: The shape is no image's, or has another number of channels.
    """
    if len(shape) != 3 or shape[0] not in (1, 3):
        raise ValueError(f"shape must be (1, height, width) or (3, height, width), got {shape}.")
    images = x.reshape(len(x), *shape)
    if shape[0] == 1:
        return images[:, 0]
    red, green, blue = (np.float32(weight) for weight in LUMA)
    return red * images[:, 0] + green * images[:, 1] + blue * images[:, 2]


def resize(images: np.ndarray, size: int, mode: str = "bilinear") -> np.ndarray:
    """Resizes grey images to squares by ``torch.nn.functional.interpolate``.

    Args:
        images: [n, height, width] float32.
        size: Pixels a side, at least 1.
        mode: "bilinear": between the four source pixels around each new centre, without antialiasing, corners
            not aligned. "area": the mean over the source pixels that each new pixel touches; where the sizes do
            not divide, neighbouring means share pixels.

    Returns:
        [n, size, size] float32; the images themselves if they have that size.

    Raises:
        ValueError: The mode is unknown.
    """
    if mode not in MODES:
        raise ValueError(f"resize must be one of {', '.join(MODES)}, got {mode!r}.")
    import torch
    from torch.nn.functional import interpolate

    source = torch.from_numpy(np.ascontiguousarray(images))[:, None]
    if mode == "area":
        result = interpolate(source, size=(size, size), mode="area")
    else:
        result = interpolate(source, size=(size, size), mode="bilinear", align_corners=False, antialias=False)
    return result[:, 0].numpy()
