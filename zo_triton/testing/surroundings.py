"""What surrounds a step changes nothing in it, and it changes nothing around it."""

from __future__ import annotations

import builtins
import io
import pdb
import random
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext, redirect_stderr, redirect_stdout
from typing import Any

import numpy as np
import torch

from zo_triton._threads import torch_threads
from zo_triton.testing.errors import ConformanceError, NotApplicable
from zo_triton.testing.observe import Step, agreement, run
from zo_triton.testing.problem import make_linear, make_network
from zo_triton.testing.subject import DEFAULT, Factory, Setting

_SAME = 0.999
_LARGE = 512, 256
"""A tensor that torch splits among threads: 2**17 elements."""


def devices_draw_the_same_noise(factory: Factory, setting: Setting = DEFAULT) -> None:
    """The same seed walks the same directions on every device and in every context of the setting.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε, the learning rate, the devices and the contexts.

    Raises:
        ConformanceError: Two of them walk different directions.
        NotApplicable: There is only one device, and no context.
    """
    places: dict[str, tuple[str, Callable[[], AbstractContextManager[Any]]]] = {
        device: (device, nullcontext) for device in setting.devices
    }
    places |= {name: (setting.devices[0], context) for name, context in setting.contexts.items()}
    if len(places) < 2:
        raise NotApplicable(
            f"there is one device here, {setting.devices[0]}, and no other engine or context was named"
        )
    steps = {}
    for name, (device, context) in places.items():
        with context():
            steps[name] = run(factory, make_network(device), setting.lr, setting.eps, 3, 2)
    _compare(
        steps,
        "devices draw different noise",
        "Draw from a counter-based generator that you evaluate yourself, or draw on the CPU and copy: torch's own "
        "generators differ between devices, and on a GPU by its number of multiprocessors",
    )


def threads_do_not_matter(factory: Factory, setting: Setting = DEFAULT) -> None:
    """The same seed walks the same directions on one thread and on several.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: The directions differ.
    """
    steps = {}
    for threads in (1, max(2, torch.get_num_threads())):
        name = f"{threads} thread{'s' * (threads > 1)}"
        with torch_threads(threads):
            steps[name] = run(factory, make_linear(*_LARGE), setting.lr, setting.eps, 3, 2)
    _compare(
        steps,
        "noise depends on the number of threads",
        "Let an element's number decide its noise, not the thread that draws it or the share it falls in",
    )


def variants_walk_the_same_directions(factory: Factory, setting: Setting = DEFAULT) -> None:
    """Chunk sizes, workers and the like do not change the directions.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε, the learning rate and the variants.

    Raises:
        ConformanceError: A variant walks other directions.
        NotApplicable: There are no variants.
    """
    if not setting.variants:
        raise NotApplicable("no variants were named, such as other chunk sizes")
    factories = {"the optimizer": factory, **setting.variants}
    steps = {name: run(one, make_network(), setting.lr, setting.eps, 3, 2) for name, one in factories.items()}
    _compare(
        steps,
        "noise depends on how the work is cut up",
        "Let direction and element decide the noise: a generator that is seeded for each chunk, or that runs on "
        "from one chunk to the next, changes with their size",
    )


def _compare(steps: dict[str, list[Step]], defect: str, remedy: str) -> None:
    """Raises if any other than the first walks other directions."""
    (first, reference), *others = steps.items()
    for name, taken in others:
        for number, (one, other) in enumerate(zip(reference, taken, strict=True)):
            found = agreement(one, other)
            if found < _SAME:
                raise ConformanceError(
                    defect,
                    f"with one seed, {first} and {name} walk directions with a cosine of {found:.2f} "
                    f"in step {number}, "
                    "it should be 1",
                    remedy,
                )


def global_generators_are_left_alone(factory: Factory, setting: Setting = DEFAULT) -> None:
    """A step neither draws from nor seeds the global generators of Python, NumPy and torch.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: The state of one has changed.
    """
    problem = make_network()
    before = _global_states()
    run(factory, problem, setting.lr, setting.eps, 1, 2)
    after = _global_states()
    touched = [name for name in before if before[name] != after[name]]
    if touched:
        raise ConformanceError(
            "a step touches global random numbers",
            f"two steps changed the state of {', '.join(touched)}; data order and dropout of the "
            "whole program change "
            "with it",
            "Draw from a generator object of your own (torch.Generator, numpy.random.Generator), or from a counter",
        )


def _global_states() -> dict[str, object]:
    drawn = np.random.get_state()  # noqa: NPY002
    states: dict[str, object] = {
        "random": random.getstate(),
        "numpy.random": repr([part.tolist() if isinstance(part, np.ndarray) else part for part in drawn]),
        "torch": torch.get_rng_state().numpy().tobytes(),
    }
    if torch.cuda.is_available():
        states["torch.cuda"] = [state.numpy().tobytes() for state in torch.cuda.get_rng_state_all()]
    return states


def steps_are_silent(factory: Factory, setting: Setting = DEFAULT) -> None:
    """A step prints nothing and stops in no debugger.

    The first step may write to stderr: compilers announce themselves there.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: There was output, or a call of a debugger.
    """
    written = io.StringIO()
    problem = make_network()
    with _no_debugger(), redirect_stdout(written):
        run(factory, problem, setting.lr, setting.eps, 1, 1)
        with redirect_stderr(written):
            run(factory, problem, setting.lr, setting.eps, 1, 2)
    if written.getvalue():
        lines = written.getvalue().splitlines()
        raise ConformanceError(
            "a step prints",
            f"three steps wrote {len(lines)} lines, the first of them {lines[0][:80]!r}",
            "Remove the print, or use logging or a callback that is off by default",
        )


@contextmanager
def _no_debugger() -> Iterator[None]:
    """Turns the calls that would start a debugger into errors."""

    def refuse(*arguments: object, **options: object) -> None:
        raise ConformanceError(
            "a step stops in a debugger",
            "breakpoint() or pdb.set_trace() was called in it",
            "Remove the call",
        )

    hook, trace, interrupted = sys.breakpointhook, pdb.set_trace, builtins.breakpoint
    sys.breakpointhook, pdb.set_trace, builtins.breakpoint = refuse, refuse, refuse
    try:
        yield
    finally:
        sys.breakpointhook, pdb.set_trace, builtins.breakpoint = hook, trace, interrupted
