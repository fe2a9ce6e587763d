"""Where a stage lays down what it finds: on disk as soon as it is known, errors beside figures."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any, TypeVar

import torch

from benchmarks.contenders.contender import LeftOutError
from benchmarks.gpu.settings import FULL, TINY, Shapes
from benchmarks.timing import Clock
from zo_triton._files import write_text

PASSED, FAILED, LEFT_OUT = "passed", "failed", "left out"
LONGEST_MESSAGE = 400
TOO_LATE = "the stage's time was used up before its turn."
DIED = "the process died in it, or was ended."

T = TypeVar("T")


@dataclass(frozen=True)
class StageContext:
    """Where and how a stage runs.

    Attributes:
        device: A GPU, or the CPU for Triton's interpreter.
        tiny: Small shapes whose times mean nothing.
        seed: Of every random input.
        has_bfloat16: Whether the chip multiplies bfloat16 itself.
    """

    device: torch.device
    tiny: bool
    seed: int
    has_bfloat16: bool

    @property
    def shapes(self) -> Shapes:
        """What is measured."""
        return TINY if self.tiny else FULL

    @property
    def clock(self) -> Clock:
        """The device's."""
        return Clock(self.device)

    @property
    def dtype(self) -> torch.dtype:
        """What evaluations compute in where one dtype is asked for."""
        return torch.bfloat16 if self.has_bfloat16 else torch.float32

    def need(self, dtype: torch.dtype) -> None:
        """Leaves out what needs a dtype that the chip lacks.

        Raises:
            LeftOutError: It lacks it.
        """
        if dtype == torch.bfloat16 and not self.has_bfloat16:
            raise LeftOutError("this chip has no bfloat16 of its own; float32 works.")


class SpoiledError(Exception):
    """After an error the device refuses everything, as CUDA does to a process; another one can go on."""


class StageResults:
    """A stage's findings.

    Args:
        file: Rewritten, whole, at every change, so that a stage that is killed leaves what it had. If it is there
            already, the stage goes on behind what it holds.
        context: Where the stage runs.
        seconds: After which nothing new is begun, from when the first process of the file began.
        shard: Which of ``shards`` processes this is, among which the stage's items are dealt out.
        shards: Their number.

    Attributes:
        sections: The record's, as far as they go.
        incidents: What failed or was left out: what, status, message.
        lost: Whether an earlier process died in the item whose turn it is.
    """

    def __init__(
        self,
        file: str | os.PathLike[str],
        context: StageContext,
        seconds: float,
        shard: int = 0,
        shards: int = 1,
    ) -> None:
        self.file, self.context, self.shard, self.shards = Path(file), context, shard, shards
        held = json.loads(self.file.read_text(encoding="utf-8")) if self.file.is_file() else {}
        # The clock is the machine's: a process that goes on for another has no more time than that one had left.
        self.deadline: float = held.get("deadline", monotonic() + seconds)
        self.sections: dict[str, Any] = held.get("sections", {})
        self.incidents: list[dict[str, str]] = held.get("incidents", [])
        self._turns: dict[str, list[int]] = held.get("turns", {})
        self.lost = False

    @property
    def is_late(self) -> bool:
        """Whether nothing new may be begun."""
        return monotonic() > self.deadline

    def section(self, name: str, start: dict[str, Any]) -> dict[str, Any]:
        """A section as far as an earlier process came, or its start."""
        return self.sections.get(name, start)

    def turns(self, name: str, items: Sequence[T]) -> Iterator[T]:
        """This process's items, each once, whichever process of the shard begins it.

        An item in which an earlier process died is yielded once more, and what it attempts has failed.

        Args:
            name: Of the list.
            items: All of it.

        Raises:
            SpoiledError: An item has failed and left the device unusable.
        """
        own = items[self.shard :: self.shards]
        begun, ended = self._turns.get(name, (0, 0))
        for number in range(ended, len(own)):
            self.lost, failed = number < begun, self._failures()
            self._turns[name] = [number + 1, number]
            self.write()
            yield own[number]
            self.lost = False
            self._turns[name] = [number + 1, number + 1]
            self.write()
            if self._failures() > failed and _is_spoiled(self.context.device):
                raise SpoiledError

    def _failures(self) -> int:
        return sum(one["status"] == FAILED for one in self.incidents)

    def put(self, name: str, section: dict[str, Any]) -> None:
        """Lays down a section, or what there is of it so far."""
        self.sections[name] = section
        self.write()

    def attempt(self, what: str, measure: Callable[[], T]) -> T | None:
        """A measurement's result; None, and an incident, if it fails, is left out, or comes too late.

        Args:
            what: For the incident.
            measure: Any error of its own is its failure alone.
        """
        if self.lost:
            self.report(what, FAILED, DIED)
            return None
        if self.is_late:
            self.report(what, LEFT_OUT, TOO_LATE)
            return None
        try:
            return measure()
        except LeftOutError as error:
            self.report(what, LEFT_OUT, str(error))
        except ModuleNotFoundError as error:
            self.report(what, LEFT_OUT, f"{error.name} is not installed.")
        except Exception as error:
            self.report(what, FAILED, f"{type(error).__name__}: {error}")
        return None

    def report(self, what: str, status: str, message: str) -> None:
        """Lays down an incident, its message cut to one line."""
        line = " ".join(message.split())[:LONGEST_MESSAGE]
        self.incidents.append({"what": what, "status": status, "message": line})
        self.write()

    def write(self) -> None:
        """Replaces the file."""
        findings = {
            "sections": self.sections, "incidents": self.incidents, "turns": self._turns, "deadline": self.deadline
        }  # fmt: skip
        write_text(self.file, json.dumps(findings, allow_nan=False))


def _is_spoiled(device: torch.device) -> bool:
    """Whether the device no longer does as it is told."""
    try:
        torch.zeros(1, device=device).add_(1).item()
    except RuntimeError:
        return True
    return False
