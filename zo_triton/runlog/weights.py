"""Weights by name: their digest, and the file they lie in."""

from __future__ import annotations

import os
from collections.abc import Mapping
from hashlib import sha256

import torch
from torch import Tensor


def digest(tensors: Mapping[str, Tensor]) -> str:
    """SHA-256 of names, dtypes, shapes and bits, in the order of the names."""
    total = sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        total.update(f"{name}\n{tensor.dtype}\n{tuple(tensor.shape)}\n".encode())
        total.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return f"sha256:{total.hexdigest()}"


def check_digest(tensors: Mapping[str, Tensor], expected: str) -> None:
    """Refuses weights that are not those with which a run began.

    Raises:
        ValueError: Their digest is another.
    """
    found = digest(tensors)
    if found != expected:
        raise ValueError(
            f"the weights' digest is {found[:19]}…, the run began with {expected[:19]}…; give the weights of its "
            "first step, in their dtypes, or those of a later one with its state and steps_done."
        )


def load_weights(path: str | os.PathLike[str]) -> dict[str, Tensor]:
    """The tensors of a safetensors file.

    Raises:
        OSError: It can't be read.
        ValueError: It is no such file.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    with open(path, "rb") as file:
        data = file.read()
    try:
        return load(data)
    except SafetensorError as error:
        raise ValueError(f"{path} can't be read as safetensors: {error}.") from error


def save_weights(
    tensors: Mapping[str, Tensor], path: str | os.PathLike[str], metadata: dict[str, str] | None = None
) -> None:
    """Writes a safetensors file, whole or not at all.

    Raises:
        OSError: It can't be written; what was there stays.
    """
    from safetensors.torch import save

    from zo_triton._files import replacing

    data = save({name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, metadata)
    with replacing(path) as file:
        file.write(data)
