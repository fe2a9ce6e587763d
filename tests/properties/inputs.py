"""What the properties draw: tensors of any layout, directions of any kind."""

import torch
from hypothesis import settings
from hypothesis import strategies as st

from zo_triton import Directions
from zo_triton.distributions import DISTRIBUTIONS

SIZES = st.sampled_from([0, 1, 2, 3, 4, 5, 7, 31, 32, 33])
"""Around the field's blocks of 4 rows and 32 columns, and nothing at all."""

LAYOUTS = ("plain", "transposed", "spread", "offset", "channels last", "expanded")


def share(part: float) -> settings:
    """The profile's settings with fewer examples: for what is slow."""
    return settings(max_examples=max(5, round(settings().max_examples * part)))


@st.composite
def shapes(draw, least=0, most=4, sizes=SIZES):
    """Up to 4 dimensions; those of more than two stay small."""
    count = draw(st.integers(least, most))
    small = st.sampled_from([1, 2, 3, 5])
    return tuple(draw(sizes if position < 2 else small) for position in range(count))


@st.composite
def directions(draw, shape=None, most=6):
    """Any directions; with a shape, only those that can perturb it."""
    rank = None
    if shape is not None and len(shape) >= 2:
        rows, cols = shape[0], int(torch.Size(shape[1:]).numel())
        if min(rows, cols) > 0:
            rank = draw(st.none() | st.integers(1, min(rows, cols, 3)))
    num = draw(st.integers(1, most))
    # Orthogonal directions have no rank and must know their tensors' columns; they have tests of their own.
    names = [name for name, entry in DISTRIBUTIONS.items() if not entry.orthogonal]
    return Directions(
        draw(st.integers(0, 2**64 - 1)),
        draw(st.integers(0, 2**32 - 1)),
        num,
        draw(st.sampled_from(names)),
        draw(st.sampled_from([7, 10])),
        rank,
        draw(st.integers(0, 2**32 - num)),
    )


def laid_out(tensor: torch.Tensor, layout: str) -> torch.Tensor:
    """The same values with other strides; unchanged where the layout makes no sense."""
    if layout == "transposed" and tensor.dim() >= 2:
        return tensor.mT.clone(memory_format=torch.contiguous_format).mT
    if layout == "spread" and tensor.dim() >= 1:
        wide = torch.full((*tensor.shape, 2), float("nan"), dtype=tensor.dtype)
        wide[..., 0] = tensor
        return wide[..., 0]
    if layout == "offset":
        flat = torch.full((tensor.numel() + 3,), float("nan"), dtype=tensor.dtype)
        flat[3:] = tensor.reshape(-1)
        return flat[3:].view(tensor.shape)
    if layout == "channels last" and tensor.dim() == 4:
        return tensor.clone(memory_format=torch.channels_last)
    return tensor.clone()


def values(shape, seed, dtype=torch.float32):
    """Normal values that depend on the seed alone."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).to(dtype)
