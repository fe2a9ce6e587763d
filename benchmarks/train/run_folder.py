"""The folder of a training run: its settings, first weights, log and latest checkpoint, and how a run goes on."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.contenders.contender import Contender
from zo_triton._files import replacing
from zo_triton.runlog import ReplayLog, load_checkpoint, save_checkpoint, save_weights


class RunFolder:
    """Where a run keeps what it needs to go on after a crash at any moment.

    ``run.json`` holds the settings, ``initial.safetensors`` the first weights, ``log.zo`` the coefficients of
    every step of a method that can be replayed, and ``checkpoint.safetensors`` weights and state after some
    step. Each but the log is written whole or not at all, and the log is whole up to its last record.

    Args:
        path: The folder.
        settings: What ``run.json`` says.
        model: Trained in place.
        contender: Trains it.
    """

    def __init__(self, path: Path, settings: dict[str, Any], model: nn.Module, contender: Contender) -> None:
        self.path, self.settings = path, settings
        self._model, self._contender = model, contender
        self._log: ReplayLog | None = None

    def begin(self) -> None:
        """Writes the settings and the first weights, and starts the log.

        Raises:
            OSError: The folder can't be written.
            ValueError: It holds a run already.
        """
        check_empty(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self.write_settings()
        self._begin_files()

    def write_settings(self) -> None:
        """Writes ``run.json``.

        Raises:
            OSError: It can't be written.
        """
        with replacing(self.path / "run.json") as file:
            file.write((json.dumps(self.settings, indent=1) + "\n").encode())

    def go_on(self, intact_prefix: bool = False) -> int:
        """Brings model and contender to the last step that the folder knows: the checkpoint's, or the log's.

        Args:
            intact_prefix: Take a damaged log up to its damage, instead of refusing it.

        Returns:
            How many steps are done.

        Raises:
            OSError: A file can't be read or written.
            ValueError: One is damaged, or does not belong to the run.
        """
        for stale in self.path.glob(".*.tmp"):
            stale.unlink()
        target, log = self._contender.replayable(), self.path / "log.zo"
        done = self._load_checkpoint()
        if target is None:
            if not self._initial.exists():
                self._begin_files()
            return done
        if log.exists():
            self._log = ReplayLog.resume(log, target, intact_prefix)
        elif done:
            raise ValueError(f"{log} is missing, without which the run can't go on whole; restore the file.")
        else:
            self._begin_files()
        return target.steps_done

    def save(self, step: int) -> None:
        """Writes the checkpoint; the log up to it is made safe from a power failure first.

        Raises:
            OSError: It can't be written; the one before it stays.
        """
        if self._log is not None:
            self._log.sync()
        path = self.path / "checkpoint.safetensors"
        try:
            save_checkpoint(path, step, tensors_of(self._model), self._contender.state())
        except OSError as error:
            raise OSError(
                f"the checkpoint after step {step} could not be written to {path}: {error.strerror}. The one "
                "before it stays; free space and resume."
            ) from error

    def close(self) -> None:
        """Closes the log."""
        if self._log is not None:
            self._log.close()

    @property
    def _initial(self) -> Path:
        return self.path / "initial.safetensors"

    def _begin_files(self) -> None:
        save_weights(tensors_of(self._model), self._initial)
        target = self._contender.replayable()
        if target is not None:
            self._log = ReplayLog.start(self.path / "log.zo", target)

    def _load_checkpoint(self) -> int:
        path = self.path / "checkpoint.safetensors"
        if not path.exists():
            return 0
        checkpoint = load_checkpoint(path)
        own = tensors_of(self._model)
        shapes = {name: tensor.shape for name, tensor in own.items()}
        if shapes != {name: tensor.shape for name, tensor in checkpoint.weights.items()}:
            raise ValueError(f"the tensors in {path} are not those of the run's model; restore the file.")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(checkpoint.weights[name])
        self._contender.load_state(checkpoint.state)
        return checkpoint.step


def read_settings(path: str | os.PathLike[str]) -> dict[str, Any]:
    """What the run in a folder was told.

    Raises:
        OSError: The file can't be read.
        ValueError: There is no run, or its settings are damaged.
    """
    file = Path(path) / "run.json"
    if not file.is_file():
        raise ValueError(f"{path} holds no run: {file} is missing; start one with --out {path}.")
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{file} is damaged: {error}; restore the file.") from error
    if not isinstance(settings, dict):
        raise ValueError(f"{file} is damaged: it holds no settings; restore the file.")
    return settings


def check_empty(path: str | os.PathLike[str]) -> None:
    """Refuses a folder that holds a run, or files that a run would write.

    Raises:
        ValueError: It does.
    """
    names = ("run.json", "log.zo", "checkpoint.safetensors", "initial.safetensors")
    there = [name for name in names if (Path(path) / name).exists()]
    if there:
        raise ValueError(
            f"{path} holds a run already ({there[0]}); go on with --resume {path}, or choose another."
        )


def tensors_of(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and buffers by name, each once."""
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}
