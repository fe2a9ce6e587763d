"""Small training programs, one for each way a step can go, for tests of what surrounds a step or cuts it short."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch._C import _len_torch_function_stack
from torch.utils._python_dispatch import _get_current_dispatch_mode_stack

import zo_triton as zo


class Program(NamedTuple):
    """A program that has taken no step yet.

    Attributes:
        step: Takes one.
        owners: All that a step may change: modules, optimizers, trainers.
        log: The file that it writes; None for most.
    """

    step: Callable[[], Any]
    owners: tuple[Any, ...]
    log: Path | None = None

    def state(self) -> bytes:
        """Every bit that a step may change, torch's random state and its stacks of modes among them."""
        seen = [_state_of(owner) for owner in self.owners]
        modes = _len_torch_function_stack(), len(_get_current_dispatch_mode_stack())
        written = b"" if self.log is None else self.log.read_bytes()
        return pickle.dumps((seen, _plain(torch.get_rng_state()), modes, written))

    def close(self) -> None:
        """Closes the log, if there is one."""
        for owner in self.owners:
            if isinstance(owner, zo.ReplayLog):
                owner.close()


def _state_of(owner: Any) -> Any:
    if isinstance(owner, nn.Module):
        grads = {name: _plain(param.grad) for name, param in owner.named_parameters()}
        return _plain(owner.state_dict()), grads, {name: m.training for name, m in owner.named_modules()}
    if isinstance(owner, zo.ReplayLog):
        return owner.next_step
    if isinstance(owner, (zo.ZOSGD, zo.ZOAdam, zo.FusedTrainer)):
        return _plain({**owner.state_dict(), "plan": None}), owner.steps_done
    return _plain(owner.state_dict())


def _plain(value: Any) -> Any:
    """The value with bytes in place of tensors, and without what says how a step was cut up."""
    if isinstance(value, Tensor):
        if value.dim() == 0:
            return value.item()  # torch's Adam counts its steps in the default dtype
        whole = value.detach().contiguous().reshape(-1)
        return str(value.dtype), tuple(value.shape), whole.view(torch.uint8).numpy().tobytes()
    if isinstance(value, dict):
        return {key: _plain(each) for key, each in value.items() if key != "plan"}
    if isinstance(value, (list, tuple)):
        return [_plain(each) for each in value]
    return value


_dropout = partial(nn.Dropout, 0.2)


def network(
    dtype: torch.dtype = torch.float32, between: Sequence[Callable[[], nn.Module]] = ()
) -> nn.Sequential:
    """Linear 12 → 8, ReLU and what else is asked for, Linear 8 → 3."""
    generator = torch.Generator("cpu").manual_seed(3)
    model = nn.Sequential(nn.Linear(12, 8), *(make() for make in between), nn.ReLU(), nn.Linear(8, 3)).to(
        dtype
    )
    with torch.no_grad():
        for param in model.parameters():
            param.copy_(torch.randn(param.shape, generator=generator) * 0.4)
    return model


def batch(dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    """Six inputs and their classes."""
    generator = torch.Generator("cpu").manual_seed(4)
    return torch.randn(6, 12, generator=generator).to(dtype), torch.tensor([0, 1, 2, 2, 1, 0])


def zosgd(
    dtype: torch.dtype = torch.float32,
    between: Sequence[Callable[[], nn.Module]] = (),
    kind: type[zo.ZOSGD] | type[zo.ZOAdam] = zo.ZOSGD,
    directions: int = 8,
    **settings: Any,
) -> Callable[[Path], Program]:
    """A program of ``zo.ZOSGD``, or of another optimizer of this library."""

    def make(folder: Path) -> Program:
        model, (x, y) = network(dtype, between), batch(dtype)
        opt = kind(model.parameters(), lr=0.1, directions=directions, seed=1, **settings)
        return Program(lambda: opt.step(lambda: F.cross_entropy(model(x).float(), y)), (model, opt))

    return make


def logged(folder: Path) -> Program:
    """``zo.ZOSGD`` with momentum, whose steps a log writes down."""
    program = zosgd(momentum=0.9)(folder)
    path = folder / "log.zo"
    log = zo.ReplayLog.start(path, program.owners[1])
    return Program(program.step, (*program.owners, log), path)


def black_box(folder: Path) -> Program:
    """A closure that returns a number."""
    model, (x, y) = network(between=[_dropout]), batch()
    opt = zo.ZOSGD(model.parameters(), lr=0.1, directions=4, eps=1e-2, seed=1, momentum=0.9)
    closure = zo.BlackBox(lambda: float(F.cross_entropy(model(x), y)))
    return Program(lambda: opt.step(closure), (model, opt))


def trainer(
    optimizer: Callable[..., torch.optim.Optimizer] = torch.optim.Adam, **settings: Any
) -> Callable[[Path], Program]:
    """A program of ``zo.FusedTrainer``."""

    def make(folder: Path) -> Program:
        model, (x, y) = network(), batch()
        made = zo.FusedTrainer(model, optimizer(model.parameters(), lr=0.05), directions=8, **settings)
        return Program(lambda: made.step(x, y), (model, made))

    return make


def trainer_logged(folder: Path) -> Program:
    """``zo.FusedTrainer`` with a log."""
    program = trainer()(folder)
    path = folder / "log.zo"
    log = zo.ReplayLog.start(path, program.owners[1])
    return Program(program.step, (*program.owners, log), path)


def estimate(perturb: str = "weights") -> Callable[[Path], Program]:
    """``zo.estimate_gradient``, over gradients that are there already."""

    def make(folder: Path) -> Program:
        model, (x, y) = network(), batch()
        params = list(model.parameters())
        for param in params:
            param.grad = torch.full_like(param, 0.5)
        distribution = "rademacher" if perturb == "weights" else "hadamard"
        directions = zo.Directions(0, 0, 8, distribution)

        def closure() -> Tensor:
            return F.cross_entropy(model(x), y)

        return Program(
            lambda: zo.estimate_gradient(closure, params, directions, eps=1e-3, perturb=perturb), (model,)
        )

    return make


PROGRAMS: dict[str, Callable[[Path], Program]] = {
    "plain": zosgd(),
    "momentum": zosgd(momentum=0.9, weight_decay=0.1),
    "align": zosgd(aggregator="align", distribution="gaussian", sides=2),
    "ranked": zosgd(aggregator="ranked"),
    "normalized": zosgd(aggregator="normalized", sides=2),
    "best": zosgd(aggregator="best"),
    "bfloat16": zosgd(torch.bfloat16, momentum=0.9),
    "stochastic": zosgd(torch.bfloat16, momentum=0.9, low_precision="stochastic"),
    "chunked": zosgd(between=[_dropout], chunk=3),
    "batch-norm": zosgd(between=[partial(nn.BatchNorm1d, 8), _dropout], chunk=3),
    "activations": zosgd(perturb="activations"),
    "adam": zosgd(kind=zo.ZOAdam, amsgrad=True),
    "adam-bfloat16": zosgd(torch.bfloat16, kind=zo.ZOAdam, maximize=True),
    "black-box": black_box,
    "logged": logged,
    "trainer": trainer(),
    "trainer-logged": trainer_logged,
    "trainer-activations": trainer(perturb="activations"),
    "trainer-general": trainer(torch.optim.AdamW, fused=False),
    "trainer-momentum": trainer(lambda params, lr: torch.optim.SGD(params, lr, momentum=0.9)),
    "estimate": estimate(),
    "estimate-activations": estimate("activations"),
}
"""By name; each is made anew from a folder for its files."""
