"""``python limited_steps.py PROGRAM COUNT``: steps under limits from nothing to enough, a forked child for each.

A child takes a step under its limit, and another one without it. Prints how each ended, as JSON.
"""

from __future__ import annotations

import json
import os
import resource
import select
import signal
import sys
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

sys.path.insert(0, str(Path(__file__).parents[1]))
from step_programs import Program

import zo_triton as zo
from zo_triton._memory import release_freed_memory
from zo_triton.cpu.sharing import SLOT_WORDS, serve, watch

SECONDS = 120.0
UNLIMITED = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
NOBODY = 65534
DIRECTIONS = 16
"""Enough for a step in pieces; with more, a child only takes longer."""


def images() -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator("cpu").manual_seed(1)
    return torch.randn(64, 3, 16, 16, generator=generator), torch.arange(64) % 10


def rows(samples: int = 4096) -> tuple[torch.Tensor, torch.Tensor]:
    generator = torch.Generator("cpu").manual_seed(1)
    return torch.randn(samples, 64, generator=generator), torch.arange(samples) % 10


def mlp() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(64, 256), nn.ReLU(), nn.Linear(256, 10))


def convolutional() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.MaxPool2d(2),
        nn.Conv2d(16, 16, 3), nn.Dropout(0.2), nn.Flatten(), nn.Linear(16 * 36, 10),
    )  # fmt: skip


def zosgd(model: nn.Module, x: torch.Tensor, y: torch.Tensor, **settings: Any) -> Program:
    opt = zo.ZOSGD(model.parameters(), lr=0.05, directions=DIRECTIONS, momentum=0.9, **settings)
    return Program(lambda: opt.step(lambda: F.cross_entropy(model(x), y)), (model, opt))


def black_box() -> Program:
    model, (x, y) = mlp(), rows()
    opt = zo.ZOSGD(model.parameters(), lr=0.05, directions=DIRECTIONS, eps=1e-3, momentum=0.9)
    return Program(lambda: opt.step(zo.BlackBox(lambda: float(F.cross_entropy(model(x), y)))), (model, opt))


def trainer(model: nn.Module, x: torch.Tensor, y: torch.Tensor) -> Program:
    made = zo.FusedTrainer(model, torch.optim.Adam(model.parameters(), lr=0.01), directions=DIRECTIONS)
    return Program(lambda: made.step(x, y), (model, made))


def estimate() -> Program:
    model, (x, y) = mlp(), rows()
    params = list(model.parameters())
    for param in params:
        param.grad = torch.full_like(param, 0.5)
    directions = zo.Directions(0, 0, DIRECTIONS)
    return Program(
        lambda: zo.estimate_gradient(lambda: F.cross_entropy(model(x), y), params, directions, 1e-3), (model,)
    )


PROGRAMS: dict[str, Callable[[], Program]] = {
    "sgd": lambda: zosgd(mlp(), *rows()),
    "trainer": lambda: trainer(mlp(), *rows()),
    "activations": lambda: zosgd(mlp(), *rows(), perturb="activations"),
    "convolutions": lambda: zosgd(convolutional(), *images()),
    "convolutions-trainer": lambda: trainer(convolutional(), *images()),
    "convolutions-activations": lambda: zosgd(convolutional().eval(), *images(), perturb="activations"),
    "black-box": black_box,
    "estimate": estimate,
}


def used(key: str) -> int:
    """Bytes of this process's address space."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * next(int(line.split()[1]) for line in lines if line.startswith(key))


def grow_stack() -> None:
    """It counts as address space and can't say no, so it is as large as it will be before the limit comes."""
    nested: list[Any] = []
    for _ in range(20_000):
        nested = [nested]
    usual = sys.getrecursionlimit()
    sys.setrecursionlimit(40_000)
    with suppress(RecursionError):
        repr(nested)
    sys.setrecursionlimit(usual)


def forbid_threads() -> None:
    """No further one can be had; root, whom no number of processes binds, becomes somebody else."""
    if os.getuid() == 0:
        os.setuid(NOBODY)
    resource.setrlimit(resource.RLIMIT_NPROC, (0, resource.getrlimit(resource.RLIMIT_NPROC)[1]))


def numbers(program: Program) -> list[float]:
    """What a step has moved, to tell whether two have moved by the same to rounding."""
    model = program.owners[0]
    grads = [param.grad for param in model.parameters() if param.grad is not None]
    tensors = [*model.state_dict().values(), *grads]
    return torch.cat([tensor.detach().double().flatten() for tensor in tensors]).tolist()


def attempt(make: Callable[[], Program], warm: bool, room: int | None) -> dict[str, Any]:
    """A step with so many bytes of address space beside what is in use (None: as many as it likes), and one more.

    A room of -1 forbids threads instead.
    """
    torch.set_num_threads(2)
    torch.ones(1 << 20).sqrt()  # libgomp ends a process that can't have its threads: they are there already
    program = make()
    if warm:
        program.step()
    states = [program.state()]
    release_freed_memory()
    before, end = used("VmSize"), "done"
    if room == -1:
        forbid_threads()
    elif room is not None:
        resource.setrlimit(resource.RLIMIT_AS, (before + room, resource.RLIM_INFINITY))
    try:
        program.step()
    except MemoryError as error:
        end = f"MemoryError: {error}"
    except Exception as error:
        end = f"{type(error).__name__}: {error}"
    resource.setrlimit(resource.RLIMIT_AS, UNLIMITED)
    needed = used("VmPeak") - before
    found = []
    for _ in range(2):
        states.append(program.state())
        found.append(numbers(program))
        program.step()
    return {"end": end, "needed": needed, "states": [hash(state) for state in states], "found": found}


def watched(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What some work in a forked child gives, or how the child ended."""
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(reader)
        warnings.simplefilter("ignore")
        with os.fdopen(writer, "w") as out:
            json.dump(work(), out)
        os._exit(0)
    os.close(writer)
    deadline, text = time.monotonic() + SECONDS, b""
    while select.select([reader], [], [], max(0.0, deadline - time.monotonic()))[0]:
        piece = os.read(reader, 1 << 16)
        if not piece:
            break
        text += piece
    else:
        os.kill(child, signal.SIGKILL)
        text = b'{"end": "hangs"}'
    os.close(reader)
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return json.loads(text) if text else {"end": f"exit code {status}"}


def main() -> None:
    make, count = PROGRAMS[sys.argv[1]], int(sys.argv[2])
    torch.set_num_threads(1)
    grow_stack()
    # Kernels are compiled and loaded before memory gets short, and no thread is there to be forked.
    make().step()
    slot = np.zeros(SLOT_WORDS, np.int64)
    serve(slot, 0)
    watch(slot)
    ends = []
    for warm in (False, True):
        free = watched(lambda warm=warm: attempt(make, warm, None))
        most = max(free["needed"], 24 << 20) * 1.1
        half = count // 2
        rooms = [int(most * (place / half) ** 2) for place in range(half)]
        for room in [*rooms, -1]:
            got = watched(lambda warm=warm, room=room: attempt(make, warm, room))
            ends.append({"warm": warm, "room": room, **judged(got, free)})
    json.dump(ends, sys.stdout)


def judged(got: dict[str, Any], free: dict[str, Any]) -> dict[str, Any]:
    """How a child ended, and whether each of its two steps was all or nothing."""
    end = {"end": got["end"]}
    if "states" not in got:
        return {**end, "right": False}
    if got["end"] == "done":
        same = got["states"] == free["states"]
        return {**end, "right": same or close(got["found"], free["found"]), "bits": same}
    still = got["states"][1] == got["states"][0]
    return {**end, "right": still and close(got["found"][1], free["found"][0])}


def close(found: Any, expected: Any) -> bool:
    return torch.allclose(torch.tensor(found), torch.tensor(expected), rtol=1e-3, atol=1e-4)


if __name__ == "__main__":
    main()
