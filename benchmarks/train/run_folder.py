"""The folder of a training run: its settings, first weights, log and latest checkpoint, and how a run goes on."""

from __future__ import annotations

import json
import os
from hashlib import sha256
from pathlib import Path
from typing import Any, BinaryIO

import torch
from torch import Tensor, nn

from benchmarks.contenders.contender import Contender
from zo_triton._files import replacing
from zo_triton.runlog import ReplayLog, load_checkpoint, load_weights, read, save_checkpoint, save_weights
from zo_triton.runlog.recipe import Replayable, describe
from zo_triton.runlog.weights import digest

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps a second process out
    fcntl = None  # type: ignore[assignment]


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
        self._held: BinaryIO | None = None
        self._began = digest(tensors_of(model))

    def begin(self) -> None:
        """Writes the settings and the first weights, and starts the log.

        Raises:
            OSError: The folder can't be written.
            ValueError: It holds a run already.
        """
        check_empty(self.path)
        self.path.mkdir(parents=True, exist_ok=True)
        self._lock()
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
        self._lock()
        try:
            return self._go_on(intact_prefix)
        except BaseException:
            self.close()
            raise

    def _go_on(self, intact_prefix: bool) -> int:
        for stale in self.path.glob(".*.tmp"):  # a killed process's, now that no other is at work here
            stale.unlink()
        target, log = self._contender.replayable(), self.path / "log.zo"
        if self._initial.exists() and digest(load_weights(self._initial)) != self._began:
            raise ValueError(
                f"{self._initial} does not hold the weights with which the run of run.json began: it is damaged, "
                "or one of the two is another run's; restore them."
            )
        if target is not None and log.exists():
            self._check_log(log, target)
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
            state = {"run": self._name, "state": self._contender.state()}
            save_checkpoint(path, step, tensors_of(self._model), state)
        except OSError as error:
            raise OSError(
                f"the checkpoint after step {step} could not be written to {path}: {error.strerror}. The one "
                "before it stays; free space and resume."
            ) from error

    def close(self) -> None:
        """Closes the log, and lets another process go on with the run."""
        if self._log is not None:
            self._log.close()
        if self._held is not None:
            self._held.close()

    @property
    def _name(self) -> str:
        """What tells this run's files from another's: its first weights and its settings but the length."""
        told = json.dumps(
            {key: value for key, value in self.settings.items() if key != "steps"}, sort_keys=True
        )
        return sha256(f"{told}\n{self._began}".encode()).hexdigest()

    def _lock(self) -> None:
        """Keeps other processes out until this one ends, however it ends.

        Raises:
            ValueError: One is at work on the run.
        """
        if fcntl is None:
            return
        self._held = open(self.path / ".lock", "ab")  # noqa: SIM115 (open until close)
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._held.close()
            raise ValueError(
                f"another process is at work on the run in {self.path}; wait for its end."
            ) from error

    def _check_log(self, log: Path, target: Replayable) -> None:
        """Refuses a log that began otherwise than this run.

        Raises:
            ValueError: It did.
        """
        contents, own = read(log, intact_prefix=True), describe(target)
        for key in ("optimizer", "parameters", "group_sizes", "first_step", "weights", "settings"):
            if contents.header[key] != own[key]:
                raise ValueError(
                    f"{log} is another run's: its {key} are not those with which the run of run.json began; "
                    "restore the file."
                )

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
        if checkpoint.state.get("run") != self._name:
            raise ValueError(
                f"{path} is another run's than run.json and initial.safetensors; restore the file."
            )
        own = tensors_of(self._model)
        shapes = {name: tensor.shape for name, tensor in own.items()}
        if shapes != {name: tensor.shape for name, tensor in checkpoint.weights.items()}:
            raise ValueError(f"the tensors in {path} are not those of the run's model; restore the file.")
        with torch.no_grad():
            for name, tensor in own.items():
                tensor.copy_(checkpoint.weights[name])
        self._contender.load_state(checkpoint.state["state"])
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
