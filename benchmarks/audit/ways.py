"""Ways into and out of tensors, and round torch's Python functions: what becomes of a difference on each.

A way is tried on a tensor h that depends on the weights, in a loss to which h adds by another road as well, so that
nothing is refused only because the loss depends on no weight.
"""

from __future__ import annotations

import copy
import ctypes
import io
import math
import pickle
import threading
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from torch.utils.dlpack import from_dlpack, to_dlpack  # type: ignore[attr-defined]

import zo_triton as zo
from benchmarks.audit.names import ANNOUNCED, CARRIED, CONSTANT, REFUSED, SUBTRACTED
from zo_triton.difference import fallback

DIRECTIONS = zo.Directions(seed=1, step=0, num=2)
EPS, TOLERANCE = 1e-2, 1e-2
TOO_SMALL = 1e-6
"""Of a difference that vanished, relative to the one that was there."""


class Tagged(Tensor):
    """A subclass without a say of its own."""


class Doubled(torch.autograd.Function):
    """An operation with its own gradient, written in torch functions."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """Twice the values."""
        return x * 2

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:
        """Its gradient."""
        return gradient * 2


def _module(h: Tensor) -> nn.Module:
    module = nn.Module()
    module.register_parameter("weight", nn.Parameter(h))
    return module


def _loaded(assign: bool) -> Callable[[Tensor], Tensor]:
    def load(h: Tensor) -> Tensor:
        layer = nn.Linear(4, 3, bias=False)
        layer.load_state_dict({"weight": h}, assign=assign)
        return layer.weight

    return load


def _set_data(h: Tensor) -> Tensor:
    target = torch.zeros(3, 4)
    target.data = h
    return target


def _saved(h: Tensor) -> Tensor:
    file = io.BytesIO()
    torch.save(h, file)
    file.seek(0)
    return torch.load(file)


def _in_a_thread(h: Tensor) -> Tensor:
    found: list[Tensor] = []
    thread = threading.Thread(target=lambda: found.append(h * 2))
    thread.start()
    thread.join()
    return found[0]


def _addressed(h: Tensor) -> Tensor:
    return torch.tensor((ctypes.c_float * h.numel()).from_address(h.data_ptr())[:])


def _masked(h: Any) -> Tensor:
    from torch.masked import masked_tensor

    return masked_tensor(h, torch.ones(3, 4, dtype=torch.bool)).sum().get_data()  # type: ignore[attr-defined]


def _scripted(x: Tensor) -> Tensor:
    return x * 2


def _gradient(h: Tensor) -> Tensor:
    with torch.enable_grad():
        x = torch.ones(4, requires_grad=True)
        return torch.autograd.grad((h @ x).sum(), x)[0]


def _unseen(h: Tensor) -> Tensor:
    with torch._C.DisableTorchFunction():
        return h * 2


WAYS: dict[str, tuple[str, Callable[[Tensor], Any]]] = {
    "`h.detach()`, `h.data`": (CARRIED, lambda h: h.detach() + h.data),
    "`target.data.copy_(h)`": (CARRIED, lambda h: torch.zeros(3, 4).data.copy_(h)),
    "`target.data = h`": (REFUSED, _set_data),
    "`nn.Parameter(h)`": (CARRIED, nn.Parameter),
    "`nn.Buffer(h)`": (CARRIED, nn.Buffer),
    "`module.weight = nn.Parameter(h)`": (CARRIED, lambda h: _module(h).weight),
    "`load_state_dict`": (CARRIED, _loaded(False)),
    "`load_state_dict(assign=True)`": (CARRIED, _loaded(True)),
    "`torch.func.functional_call`": (
        CARRIED,
        lambda h: torch.func.functional_call(nn.Linear(4, 3, bias=False), {"weight": h}, (torch.ones(2, 4),)),
    ),
    "`h.as_subclass(C)`": (CARRIED, lambda h: h.as_subclass(Tagged)),
    "`C(h)`, `torch.Tensor(h)`, `torch.FloatTensor(h)`": (REFUSED, Tagged),
    "`torch.Tensor([h[0]])`": (CONSTANT, lambda h: torch.Tensor([h[0, 0], h[0, 1]])),
    "`torch.tensor(h)`, of a list too": (SUBTRACTED, lambda h: torch.tensor([h[0, 0], h[0, 1]])),
    "`torch.as_tensor(h)`, `torch.asarray(h)`": (SUBTRACTED, lambda h: torch.as_tensor(h)),
    "`h.new_tensor(h)`, `torch.full_like(x, h)`": (
        SUBTRACTED,
        lambda h: h.new_tensor(h),
    ),
    "`copy.deepcopy(h)`": (CARRIED, copy.deepcopy),
    "`copy.deepcopy` of a module made of h": (CARRIED, lambda h: copy.deepcopy(_module(h)).weight),
    "`copy.copy(h)`": (ANNOUNCED, copy.copy),
    "`pickle`": (ANNOUNCED, lambda h: pickle.loads(pickle.dumps(h))),
    "`torch.save`": (ANNOUNCED, _saved),
    "`h.numpy()`": (ANNOUNCED, lambda h: torch.from_numpy(h.numpy())),
    "`np.asarray(h)`": (ANNOUNCED, lambda h: torch.from_numpy(np.asarray(h))),
    "`h.tolist()`": (ANNOUNCED, lambda h: torch.tensor(h.tolist())),
    "`h.untyped_storage()`, `h.storage()`": (
        ANNOUNCED,
        lambda h: torch.tensor(list(h.untyped_storage())) / 255,
    ),
    "`h.__dlpack__()`, `torch.from_dlpack(h)`": (ANNOUNCED, from_dlpack),
    "`torch.utils.dlpack.to_dlpack(h)`": (
        CONSTANT,
        lambda h: from_dlpack(to_dlpack(h)),
    ),
    "`h.data_ptr()`": (CONSTANT, _addressed),
    "`h.item()`": (CONSTANT, lambda h: torch.tensor(h.sum().item())),
    "`float(h)`, `math.sqrt(h)`": (CONSTANT, lambda h: torch.tensor(math.sqrt(abs(h[0, 0])))),
    "`h.set_(…)`, `h.resize_(…)`, `h.apply_(…)`": (
        REFUSED,
        lambda h: torch.zeros(3, 4).map_(h, lambda x, y: y),
    ),
    "`h > 0`, `h.argmax()`": (CONSTANT, lambda h: (h > torch.randn(3, 4)) * torch.ones(3, 4)),
    "an `autograd.Function`": (CARRIED, Doubled.apply),
    "`torch.utils.checkpoint`": (CARRIED, lambda h: checkpoint(torch.tanh, h, use_reentrant=False)),
    "`torch.compile`": (CARRIED, lambda h: torch.compile(_scripted, backend="eager")(h)),
    "`torch.cond`, `while_loop`, `scan`": (
        SUBTRACTED,
        lambda h: torch.cond(h.sum() > 0, lambda x: x * 2, lambda x: x * 3, (h,)),
    ),
    "`torch.library` operators, `torch.ops.aten`": (SUBTRACTED, lambda h: torch.ops.aten.mul.Tensor(h, h)),
    "`torch.jit.script`, C++ extensions": (REFUSED, lambda h: torch.jit.script(_scripted)(h)),
    "`torch.vmap(f)(h)`": (SUBTRACTED, lambda h: torch.vmap(lambda row: row * 2)(h)),
    "`torch.vmap(f)` where f captures h": (
        REFUSED,
        lambda h: torch.vmap(lambda row: row * h)(torch.ones(2, 4)),
    ),
    "`torch.func.jvp`, `grad`, `jacrev`, …": (REFUSED, torch.func.grad(lambda h: (h * h).sum())),
    "`autograd.grad`, `backward()`": (REFUSED, _gradient),
    "sparse, quantised and nested results": (REFUSED, lambda h: h.to_sparse().to_dense()),
    "a `MaskedTensor`, other wrappers": (REFUSED, _masked),
    "`h.view(torch.int32)`": (REFUSED, lambda h: h.view(torch.int32).float()),
    "`nn.DataParallel` on one device": (CARRIED, lambda h: nn.DataParallel(nn.Tanh())(h)),
    "with torch functions disabled": (REFUSED, _unseen),
    "another thread": (CONSTANT, _in_a_thread),
}
"""How it is written → what becomes of the difference, and an example."""


def outcome(way: Callable[[Tensor], Any]) -> str:
    """What becomes of the difference in an example: a word of ``names``, or ``wrong``."""
    torch.manual_seed(0)
    weights = torch.randn(3, 4)

    def through(weights: Tensor) -> Tensor:
        torch.manual_seed(0)
        made = way(weights * 1)
        with torch.no_grad():
            return (made * (1 + torch.arange(made.numel()).reshape(made.shape) / 7)).sum().float()

    def loss(weights: Tensor) -> Tensor:
        return weights.sum() + through(weights)

    fallback._warned.clear()
    with warnings.catch_warnings(record=True) as caught, zo.use_engine("reference"):
        warnings.simplefilter("always")
        try:
            _, found = zo.differences(lambda: loss(weights), [weights], DIRECTIONS, EPS)
        except (TypeError, ValueError) as error:
            return REFUSED if "BlackBox" in str(error) or "where differences must" in str(error) else "wrong"
        _, rest = zo.differences(lambda: weights.sum(), [weights], DIRECTIONS, EPS)
        with torch.no_grad():
            moves = EPS * zo.sample(DIRECTIONS, 0, weights.shape)
            expected = torch.stack([loss(weights + move) - loss(weights) for move in moves])
    said = [str(each.message) for each in caught]
    scale = expected.abs().max()
    if (found - expected).abs().max() <= TOLERANCE * scale:
        return SUBTRACTED if any("no difference rule" in each for each in said) else CARRIED
    if (found - rest).abs().max() > TOO_SMALL * scale:
        return "wrong"
    return ANNOUNCED if any("counts as constant" in each for each in said) else CONSTANT
