"""The writer of a log: attached to an optimizer, it appends a record before each step moves the weights."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from torch import Tensor

from zo_triton._files import replacing
from zo_triton.optim import FusedTrainer
from zo_triton.optim.optimizer import ZOOptimizer
from zo_triton.runlog.contents import Contents, read
from zo_triton.runlog.format import encode_header, encode_record
from zo_triton.runlog.recipe import (
    Replayable,
    check_fits,
    check_follows,
    check_own_step,
    describe,
    settings_of,
)
from zo_triton.runlog.replaying import catch_up

try:
    import fcntl
except ImportError:  # not on Windows, where nothing keeps a second writer out
    fcntl = None  # type: ignore[assignment]


class ReplayLog:
    """A file that grows by K coefficients a step, from which the weights of every step can be made again.

    Made by :meth:`start` or :meth:`resume`, which attach it. Each step's record is written, in one call, before the
    weights move; if it can't be written the step has not happened. A killed process loses nothing that was
    written; :meth:`sync` makes it safe from a power failure too.

    The log knows what the optimizer does. Hooks of its step (clipping of gradients) are none of it, so an optimizer
    that has any is refused, and so is each step once one has come. If weights are changed in another way (another
    checkpoint loaded into the model, parameters added), replay can't follow: start a new log then.

    Attributes:
        path: The file.
        next_step: The number that the next record will have.

    Example:
        >>> import tempfile, torch, zo_triton as zo
        >>> path = tempfile.mkdtemp() + "/log.zo"
        >>> weight = torch.zeros(3)
        >>> opt = zo.ZOSGD([("weight", weight)], lr=0.1, directions=8)
        >>> with zo.ReplayLog.start(path, opt):
        ...     loss = opt.step(lambda: (weight - 1).square().sum())
        >>> torch.equal(zo.replay(path, {"weight": torch.zeros(3)})["weight"], weight)
        True
    """

    path: Path
    next_step: int

    def __init__(self, target: Replayable, contents: Contents) -> None:
        self.path, self.next_step = contents.path, contents.end.step
        self._target, self._settings, self._length = target, contents.settings, contents.end.byte
        self._file = open(self.path, "r+b", buffering=0)  # noqa: SIM115 (open until close)
        try:
            if fcntl is not None:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if os.fstat(self._file.fileno()).st_size != contents.size:
                raise ValueError(f"{self.path} has changed since it was read; resume it again.")
            self._file.truncate(self._length)
            self._file.seek(self._length)
        except BlockingIOError as error:
            self._file.close()
            raise ValueError(f"another process is writing {self.path}; wait for its end.") from error
        except BaseException:
            self._file.close()
            raise
        self._checksum = contents.checksum
        target.log = self

    @classmethod
    def start(cls, path: str | os.PathLike[str], target: ZOOptimizer | FusedTrainer) -> ReplayLog:
        """Begins a new log with the weights as they are, and attaches it.

        Args:
            path: Of a file that is not there.
            target: Writes each of its steps from now on; it remembers none yet.

        Raises:
            OSError: The file can't be written.
            TypeError: The optimizer is none that can be made again from its settings.
            ValueError: The file is there, the optimizer has done steps that it remembers, or its step has hooks.
        """
        path = Path(path)
        _check_free(target)
        if path.exists():
            raise ValueError(f"{path} is there already; resume it, or choose another name.")
        header = encode_header(describe(target))
        with replacing(path) as file:
            file.write(header)
        return cls(target, read(path))

    @classmethod
    def resume(
        cls, path: str | os.PathLike[str], target: ZOOptimizer | FusedTrainer, intact_prefix: bool = False
    ) -> ReplayLog:
        """Brings an optimizer to the log's end by replaying what it has not done, and attaches the log.

        A torn last record, the trace of a crash, is cut off.

        Args:
            path: The log.
            target: Over the weights of a step within the log, with its state and ``steps_done`` of then: those of
                a checkpoint, or of the beginning.
            intact_prefix: Cut off everything from the first damaged record on, instead of refusing.

        Raises:
            OSError: The file can't be read or written.
            TypeError: A number of a torch optimizer is none of Python's.
            ValueError: The log is damaged, was written by an optimizer built otherwise, does not hold the
                optimizer's next step, or the weights or Adam's state are not those of that step; or its step has
                hooks.
        """
        _check_free(target)
        contents = read(path, intact_prefix)
        check_fits(contents.header, target)
        check_follows(contents, target)
        catch_up(target, contents)
        return cls(target, contents)

    def check(self) -> None:
        """Refuses the attached optimizer's next step if a hook has come to it, or its ``step`` was replaced.

        Raises:
            ValueError: So it is. Nothing has been measured or moved by the step.
        """
        check_own_step(self._target)

    def append(self, coefficients: Tensor, compiled: bool = False) -> None:
        """Writes the record of the attached optimizer's next step; its ``apply`` calls this.

        Raises:
            OSError: It can't be written; the log ends before it.
            ValueError: It is closed, the optimizer has been set to another step, parameters were added, or its step
                has hooks.
        """
        self.check()
        step = self._target.steps_done
        if self._file.closed:
            raise ValueError(
                f"the log {self.path} is closed; resume it, or set the optimizer's log to None to go on without."
            )
        if step != self.next_step:
            raise ValueError(
                f"the log {self.path} goes on with step {self.next_step}, the optimizer is at step {step}; resume "
                "the log with it, or start a new one."
            )
        settings = settings_of(self._target, compiled)
        if len(settings["groups"]) != len(self._settings["groups"]):
            raise ValueError(
                f"parameters were added after the log {self.path} was started, which does not know them; close it."
            )
        changes = {key: value for key, value in settings.items() if self._settings[key] != value}
        record = encode_record(self._checksum, step, changes, coefficients.detach().cpu().numpy())
        self._before = self._settings, self.next_step, self._length
        self._write(record)
        self._settings, self.next_step, self._length = settings, step + 1, self._length + len(record)

    def take_back(self) -> None:
        """Cuts off the record that :meth:`append` wrote last, whose step could not be taken.

        Raises:
            OSError: The file can't be cut.
        """
        self._settings, self.next_step, self._length = self._before
        self._cut()

    def _cut(self) -> None:
        self._file.truncate(self._length)
        self._file.seek(self._length)

    def _write(self, record: bytes) -> None:
        error: OSError | None = None
        try:
            written = self._file.write(record)
            if written == len(record):
                return
        except OSError as caught:
            error = caught
        self._cut()
        reason = "the disk took only a part of it" if error is None else error.strerror
        raise OSError(
            f"step {self.next_step} could not be written to the log {self.path}: {reason}. The step has not "
            "happened, and the log is whole up to it; free space and resume."
        ) from error

    def sync(self) -> None:
        """Returns when everything written would survive a power failure."""
        os.fsync(self._file.fileno())

    def close(self) -> None:
        """Makes the file safe and lets go of the optimizer, which goes on without a log."""
        if not self._file.closed:
            self.sync()
            self._file.close()
        if self._target.log is self:
            self._target.log = None

    def __enter__(self) -> ReplayLog:
        return self

    def __exit__(self, *error: Any) -> None:
        self.close()


def _check_free(target: Replayable) -> None:
    if target.log is not None:
        raise ValueError(f"the optimizer writes the log {target.log.path} already; close that first.")
    check_own_step(target)
