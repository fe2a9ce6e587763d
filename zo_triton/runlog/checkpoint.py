"""A checkpoint: weights, what the method remembers and the step, in one safetensors file with its digest."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from hashlib import sha256
from typing import Any

from torch import Tensor

from zo_triton.runlog.format import DamagedError
from zo_triton.runlog.tree import pack, unpack
from zo_triton.runlog.weights import digest, save_weights

_KEY = "zo_triton"
"""The only entry of the file's metadata, a digest and a JSON text: of several, the format leaves the order open."""


@dataclass(frozen=True)
class Checkpoint:
    """A run's state after a step.

    Attributes:
        step: Steps done.
        weights: The model's tensors by name.
        state: What the training method remembers beside them.
    """

    step: int
    weights: dict[str, Tensor]
    state: Any


def save_checkpoint(
    path: str | os.PathLike[str], step: int, weights: Mapping[str, Tensor], state: Any
) -> None:
    """Writes a checkpoint, whole or not at all.

    Raises:
        OSError: It can't be written; what was there stays.
        TypeError: The state holds something else than tensors, numbers, strings, dicts and lists.
    """
    tensors = {f"weights/{name}": tensor for name, tensor in weights.items()}
    text = json.dumps({"step": step, "state": pack(state, "state", tensors)}, separators=(",", ":"))
    # State dicts share memory here and there, which the file format refuses.
    copies = {name: tensor.detach().cpu().clone() for name, tensor in tensors.items()}
    save_weights(copies, path, {_KEY: f"{_digest(text, copies)} {text}"})


def load_checkpoint(path: str | os.PathLike[str]) -> Checkpoint:
    """Reads a checkpoint.

    Raises:
        OSError: It can't be read.
        ValueError: It is no checkpoint, or any of its bits has changed.
    """
    from safetensors import SafetensorError, safe_open

    os.stat(path)  # a missing file is an OSError of its own
    try:
        with safe_open(path, framework="pt") as file:
            metadata = file.metadata() or {}
            tensors = {name: file.get_tensor(name).clone() for name in file.keys()}  # noqa: SIM118 (no mapping)
    except (SafetensorError, KeyError, ValueError, RuntimeError) as error:
        raise DamagedError(f"the checkpoint {path} can't be read: {' '.join(str(error).split())}.") from error
    found, _, text = metadata.get(_KEY, "").partition(" ")
    if found != _digest(text, tensors):
        raise DamagedError(
            f"the checkpoint {path} does not match its digest: it is damaged or of another program."
        )
    saved = json.loads(text)
    weights = {
        name.removeprefix("weights/"): tensor
        for name, tensor in tensors.items()
        if name.startswith("weights/")
    }
    return Checkpoint(saved["step"], weights, unpack(saved["state"], tensors))


def _digest(text: str, tensors: Mapping[str, Tensor]) -> str:
    return sha256(f"{text}\n{digest(tensors)}".encode()).hexdigest()
