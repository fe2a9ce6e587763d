"""How many kernels a step launches on a GPU: a table, so that a change of it is seen and meant."""

from collections import Counter
from contextlib import contextmanager
from unittest import mock

import pytest
import torch
from cuda_stand_in import CUDA, Far, StandIn, cuda
from test_cuda_stand_in import MODELS, built
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from zo_triton import kernels, reference
from zo_triton.kernels.launch import launching_for, recording
from zo_triton.ops import engines

IDLE = {
    "_reshape_alias", "_unsafe_view", "detach", "empty", "empty_like", "empty_strided", "lift_fresh", "new_empty",
    "new_empty_strided",
}  # fmt: skip
"""Functions of torch that launch nothing, beside views."""

LAUNCHES = """
model         weights        activations
perceptron    2 + 25         5 + 36
GELU          2 + 25         5 + 36
lenet         10 + 46        13 + 58
convolutions  4 + 32         7 + 40
tiny-gpt      14 + 206       21 + 246
batch norm    9 + 107
recurrent     33 + 160
dropout       3 + 34         5 + 40
no rule       3 + 54         5 + 60
bfloat16      3 + 52         5 + 58
"""
"""Triton's launches + calls of torch's own functions that launch something, at four directions on sm_90."""

IN_WEIGHTS = ("batch norm", "recurrent")
"""Models with layers that mix samples, or whose samples are not along the first axis."""


def _launches(func):
    return func.namespace != "zo_triton" and not func.is_view and func.overloadpacket.__name__ not in IDLE


class Calls(TorchDispatchMode):
    """Counts torch's functions that launch something."""

    def __init__(self, count):
        super().__init__()
        self.count = count

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.count["torch"] += _launches(func)
        return func(*args, **(kwargs or {}))


class Counted:
    """The reference engine, and beside it the Triton engine's launchers, whose kernels don't run."""

    def __init__(self, count):
        self._count = count

    def __getattr__(self, name):
        specified = getattr(reference, name)
        if name not in kernels.__all__:
            return specified

        def run(*args, **kwargs):
            tensors = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, torch.Tensor)]
            before = [tensor.clone() for tensor in tensors]
            with recording() as launches, launching_for("sm_90"), Calls(self._count):
                getattr(kernels, name)(*args, **kwargs)
            self._count["triton"] += len(launches)
            # What torch's functions made there of kernels' results that don't exist is undone.
            for tensor, value in zip(tensors, before, strict=True):
                tensor.copy_(value)
            return specified(*args, **kwargs)

        return run


@contextmanager
def counting():
    """Inside :func:`cuda`, the launches of each kind."""
    count = Counter(triton=0, torch=0)
    dispatch = StandIn.__torch_dispatch__

    def counted(device, func, types, args=(), kwargs=None):
        there = (kwargs or {}).get("device") == CUDA or any(
            isinstance(leaf, Far) for leaf in tree_leaves((args, kwargs))
        )
        count["torch"] += there and _launches(func)
        return dispatch(device, func, types, args, kwargs)

    with (
        mock.patch.object(StandIn, "__torch_dispatch__", counted),
        mock.patch.object(engines, "load_engine", return_value=Counted(count)),
    ):
        yield count


def _of_a_step(name, way):
    with cuda():
        _, optimizer, closure = built(name, way, there=True)
        for group in optimizer.param_groups:
            group["lr"] = 0.0
        # The steps before settle the plan, and look which samples depend on which.
        for _ in range(4):
            optimizer.step(closure)
        with counting() as count:
            optimizer.step(closure)
    return f"{count['triton']} + {count['torch']}"


@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule for torch.special.bessel_j0")
def test_a_steps_launches_are_those_of_the_table():
    rows = [("model", "weights", "activations")]
    for name in MODELS:
        nodes = "" if name in IN_WEIGHTS else _of_a_step(name, "activations")
        rows.append((name, _of_a_step(name, "one-sided"), nodes))
    table = "\n".join(f"{name:14}{weights:15}{nodes}".rstrip() for name, weights, nodes in rows)
    assert f"\n{table}\n" == LAUNCHES
