"""A small GPT pre-trained by backpropagation on the generated language, once; later runs load its weights.

The weights lie in the data folder, or in the user's cache where that can't be written. Those of another torch, of
another language or of other settings are never used: they are made anew, and it is said.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from benchmarks.race.decoders import Decoder, gpt2, next_token_loss
from benchmarks.race.language import LENGTH, VOCABULARY, pretraining
from zo_triton._files import replacing
from zo_triton._progress import NOTE
from zo_triton.data import root

Say = Callable[[str], None]

FOLDER = "pretrained"
TOLD_EVERY = 50
"""Steps between two lines of progress."""


@dataclass(frozen=True)
class Pretraining:
    """What is pre-trained, and how long.

    Args:
        name: Of its file.
        width: Of the residual stream.
        layers: Blocks.
        heads: Of the attention.
        steps: Of Adam.
        batch: Texts a step.
        lr: The largest learning rate, which falls to nothing.
        seed: Of the weights and the texts.
    """

    name: str = "fine-tuning"
    width: int = 128
    layers: int = 5
    heads: int = 4
    steps: int = 320
    batch: int = 64
    lr: float = 2e-3
    seed: int = 0

    def untrained(self) -> Decoder:
        """The decoder with random weights; only the last position's logits come out."""
        return gpt2(VOCABULARY, self.width, self.layers, self.heads, LENGTH, self.seed, last=True)

    def origin(self) -> dict[str, str]:
        """What the weights depend on: they are only used where all of it is the same."""
        sample = pretraining(64, np.random.default_rng(self.seed)).tobytes()
        return {
            "torch": torch.__version__,
            "language": hashlib.sha256(sample).hexdigest()[:16],
            "settings": ", ".join(f"{key}={value}" for key, value in asdict(self).items()),
        }


def pretrained(settings: Pretraining, say: Say) -> Decoder:
    """The decoder with its pre-trained weights, loaded or made.

    Args:
        settings: What is wanted.
        say: Told of the progress, of weights that are not used, and where nothing can be kept.
    """
    model = settings.untrained()
    for folder in _folders():
        if _load(model, folder / f"{settings.name}.safetensors", settings.origin(), say):
            return model
    pretrain(model, settings, say)
    _keep(model, settings, say)
    return model


def pretrain(model: Decoder, settings: Pretraining, say: Say) -> float:
    """Trains in place on every position of fresh texts; returns the last loss."""
    generator = np.random.default_rng(settings.seed)
    optimizer = torch.optim.Adam(model.parameters(), lr=settings.lr)
    falling = torch.optim.lr_scheduler.OneCycleLR(optimizer, settings.lr, settings.steps, pct_start=0.1)
    loss = torch.tensor(float("nan"))
    model.last = False
    for step in range(settings.steps):
        tokens = torch.from_numpy(pretraining(settings.batch, generator))
        loss = next_token_loss(model(tokens[:, :-1]), tokens[:, 1:])
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        falling.step()
        if step % TOLD_EVERY == 0 or step == settings.steps - 1:
            say(
                f"pre-training {settings.name}, once: step {step + 1} of {settings.steps}, loss {loss.item():.2f}"
            )
    model.last = True
    return loss.item()


def _folders() -> Iterator[Path]:
    yield root() / FOLDER
    yield Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "zo_triton" / FOLDER


def _load(model: nn.Module, file: Path, origin: dict[str, str], say: Say) -> bool:
    """Whether the file's weights are in the model now; a file that does not fit is told of."""
    from safetensors import (
        SafetensorError,
        safe_open,
    )  # a machine with a GPU may have neither it nor the race

    if not file.exists():
        return False
    try:
        with safe_open(file, "pt") as kept:
            found = kept.metadata() or {}
            differing = [name for name, value in origin.items() if found.get(name) != value]
            if not differing:
                weights = {name: kept.get_tensor(name) for name in kept.keys()}  # noqa: SIM118
    except (SafetensorError, OSError) as error:
        say(f"{NOTE}{file} can't be read ({error}); its weights are made anew.")
        return False
    if differing:
        say(
            f"{NOTE}{file} was made with another {' and another '.join(differing)}; its weights are made anew."
        )
        return False
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(weights[name])
    return True


def _keep(model: nn.Module, settings: Pretraining, say: Say) -> None:
    """Writes the weights to the first folder that takes them."""
    from safetensors.torch import save

    weights: dict[str, Tensor] = {name: each.detach() for name, each in model.named_parameters()}
    content = save(weights, settings.origin())
    errors = []
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with replacing(folder / f"{settings.name}.safetensors") as file:
                file.write(content)
            return
        except OSError as error:
            errors.append(f"{folder}: {error.strerror or error}")
    say(f"{NOTE}the pre-trained weights can't be kept ({'; '.join(errors)}); the next run makes them again.")
