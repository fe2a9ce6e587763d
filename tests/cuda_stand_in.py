"""A GPU that is not there: tensors on ``cuda:0`` whose values lie on the CPU, with a GPU's refusals.

What a function of torch is given must lie on one device (a 0-dim tensor of the CPU may stand beside a GPU's). A
value that the host reads is written down, and refused while a graph is recorded; a graph replays what was recorded
in the tensors that were recorded. The ops run on the reference engine, since no kernel can run here.
"""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from time import perf_counter
from types import SimpleNamespace
from typing import Any
from unittest import mock

import torch
from host_reads import WAITING
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map, tree_map_only

import zo_triton as zo
from zo_triton.kernels import field

CUDA = torch.device("cuda", 0)
CPU = torch.device("cpu")
MOVES = {"_to_copy", "copy_"}
"""Functions of torch that take tensors of two devices."""
CAPTURING = "operation not permitted when stream is capturing"


class Far(Tensor):
    """A tensor on ``cuda:0``; ``held`` has its values."""

    held: Tensor

    @staticmethod
    def __new__(cls, held: Tensor) -> Far:
        made = Tensor._make_wrapper_subclass(
            cls, held.shape, strides=held.stride(), storage_offset=held.storage_offset(), dtype=held.dtype,
            device=CUDA, requires_grad=False,
        )  # fmt: skip
        made.held = held
        return made

    def data_ptr(self) -> int:
        return self.held.data_ptr()

    def untyped_storage(self) -> torch.UntypedStorage:
        return self.held.untyped_storage()

    def tolist(self) -> Any:
        return self.cpu().tolist()

    def numpy(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"can't convert {CUDA} device type tensor to numpy")

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        raise AssertionError(f"{func} got a tensor on {CUDA} outside of the stand-in")


class StandIn(TorchDispatchMode):
    """Runs what has to do with ``cuda:0``.

    Attributes:
        reads: Names of the functions by which the host has read values of the device.
        graph: The graph that is being recorded.
    """

    def __init__(self) -> None:
        super().__init__()
        self.reads: list[str] = []
        self.graph: Graph | None = None

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        name = func.overloadpacket.__name__
        tensors = _tensors((args, kwargs))
        far = any(isinstance(tensor, Far) for tensor in tensors)
        wanted = kwargs.get("device")
        if far:
            self._check(name, tensors, wanted)
        inner = tree_map(_held, args)
        options = tree_map(_held, {**kwargs, **({} if wanted is None else {"device": CPU})})
        if self.graph is not None:
            self.graph.hold(tensor.held for tensor in tensors if isinstance(tensor, Far))
        out = func(*inner, **options)
        if not (far if wanted is None else torch.device(wanted).type == "cuda"):
            return out
        if self.graph is not None:
            self.graph.record(func, inner, options, out)
        return return_and_correct_aliasing(func, args, kwargs, tree_map_only(Tensor, Far, out))

    def refuse_capturing(self, name: str) -> None:
        """What can't be done while a graph is recorded."""
        if self.graph is not None:
            raise RuntimeError(f"CUDA error: {CAPTURING} ({name})")

    def _check(self, name: str, tensors: list[Tensor], wanted: Any) -> None:
        to_host = wanted is not None and torch.device(wanted).type == "cpu"
        onto_host = name == "copy_" and not isinstance(tensors[0], Far)
        if name in WAITING or to_host or onto_host:
            self.refuse_capturing(name)
            self.reads.append(name)

        if name in MOVES:
            return
        if any(tensor.dim() > 0 for tensor in tensors if not isinstance(tensor, Far)):
            raise RuntimeError(
                f"Expected all tensors to be on the same device, but found at least two devices, {CUDA} and cpu "
                f"({name})"
            )


class Graph:
    """What was recorded, to be run again on the same tensors: in the place of ``torch.cuda.CUDAGraph``."""

    def __init__(self) -> None:
        self._calls: list[Callable[[], None]] = []
        self._before: dict[int, tuple[torch.UntypedStorage, torch.UntypedStorage]] = {}
        self._random = torch.get_rng_state()

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Remembers what lies in their memory: to record a call is not to run it."""
        for storage in (tensor.untyped_storage() for tensor in tensors):
            self._before.setdefault(storage.data_ptr(), (storage, storage.clone()))

    def end(self) -> None:
        """Nothing has been run yet."""
        for storage, before in self._before.values():
            storage.copy_(before)
        torch.set_rng_state(self._random)

    def record(self, func: Any, args: Any, kwargs: Any, out: Any) -> None:
        """Adds a call; what it makes will lie where it lies now."""
        if func.is_view:
            return
        names = [argument.name for argument in func._schema.arguments]
        step, made = field._device_step.get(), _tensors(out)

        def again() -> None:
            now = list(args)
            if func.namespace == "zo_triton" and step is not None and "directions" in names:
                # A kernel reads the number of the step where it lies when it runs.
                at = names.index("directions")
                now[at] = replace(zo.Directions.decode(args[at]), step=int(step.held) % 2**32).encode()
            for there, new in zip(made, _tensors(func(*now, **kwargs)), strict=True):
                if there is not new:
                    there.copy_(new)

        self._calls.append(again)

    def replay(self) -> None:
        """Runs all of it again."""
        for call in self._calls:
            call()


class Event:
    """In the place of ``torch.cuda.Event``: what was queued before it is done at once."""

    def __init__(self, enable_timing: bool = False) -> None:
        self._time = 0.0

    def record(self) -> None:
        """Reads the host's clock."""
        self._time = perf_counter()

    def synchronize(self) -> None:
        """There is nothing to wait for."""

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds."""
        return 1000 * (end._time - self._time)


class Generator(torch.Generator):
    """Draws for any device on the CPU."""

    def __new__(cls, device: Any = CPU) -> Generator:
        return super().__new__(cls, CPU)

    def __init__(self, device: Any = CPU) -> None:
        super().__init__()


def _tensors(tree: Any) -> list[Tensor]:
    return [leaf for leaf in tree_leaves(tree) if isinstance(leaf, Tensor)]


def _held(value: Any) -> Any:
    return value.held if isinstance(value, Far) else value


@contextmanager
def cuda() -> Iterator[StandIn]:
    """Inside, ``cuda:0`` can be used, without gradients; the library's ops run on the reference engine."""
    device = StandIn()

    @contextmanager
    def recorded(graph: Graph) -> Iterator[None]:
        device.graph = graph
        try:
            yield
        finally:
            device.graph = None
            graph.end()

    def get_state(_: Any = None) -> Tensor:
        device.refuse_capturing("get_rng_state")
        return torch.get_rng_state()

    def set_state(state: Tensor, _: Any = None) -> None:
        device.refuse_capturing("set_rng_state")
        torch.set_rng_state(state)

    stream = SimpleNamespace(wait_stream=lambda other: None)
    cuda = {
        "_lazy_init": lambda: None,
        "get_rng_state": get_state,
        "set_rng_state": set_state,
        "get_device_properties": lambda *_: SimpleNamespace(total_memory=1 << 34),
        "empty_cache": lambda: None,
        "synchronize": lambda _=None: device.refuse_capturing("synchronize"),
        "Event": Event,
        "Stream": lambda *_: stream,
        "current_stream": lambda *_: stream,
        "stream": lambda _: nullcontext(),
        "device": lambda _: nullcontext(),
        "CUDAGraph": Graph,
        "graph": recorded,
    }
    overwrites = torch.__future__.get_overwrite_module_params_on_conversion()
    without = torch.backends.cudnn.flags(enabled=False)
    with (
        mock.patch.multiple(torch.cuda, **cuda),
        mock.patch.object(torch, "Generator", Generator),
        without,
        _device_guard(),
        zo.use_engine("reference"),
        torch.no_grad(),
    ):
        # torch.tensor(…, device=) makes its values on the CPU and then moves them, which the mode sees.
        torch._C._set_only_lift_cpu_tensors(True)
        # A module that moves has new parameters: an old one could not become what stands in for a GPU's.
        torch.__future__.set_overwrite_module_params_on_conversion(True)
        try:
            with device:
                yield device
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(overwrites)
            torch._C._set_only_lift_cpu_tensors(False)


@contextmanager
def _device_guard() -> Iterator[None]:
    """A build of torch without CUDA has nobody who makes a GPU current; the CPU's own, which does nothing, may."""
    library = ctypes.CDLL(str(Path(torch.__file__).parent / "lib" / "libc10.so"))
    registry = (ctypes.c_void_p * 2).in_dll(library, "_ZN3c104impl26device_guard_impl_registryE")
    before, registry[1] = registry[1], registry[0]
    try:
        yield
    finally:
        registry[1] = before


@contextmanager
def cuda_without_values() -> Iterator[None]:
    """Inside, tensors on ``cuda:0`` have shapes and no values, so that nothing can depend on one."""
    cuda = {
        "_lazy_init": lambda: None,
        "get_rng_state": lambda *_: torch.get_rng_state(),
        "set_rng_state": lambda *_: None,
        "get_device_properties": lambda *_: SimpleNamespace(total_memory=1 << 34),
    }
    without = torch.backends.cudnn.flags(enabled=False)
    with mock.patch.multiple(torch.cuda, **cuda), without, _device_guard(), FakeTensorMode():
        yield


def without_values(tensor: Tensor) -> Tensor:
    """On ``cuda:0``, for :func:`cuda_without_values`."""
    return torch.empty_strided(tensor.shape, tensor.stride(), dtype=tensor.dtype, device=CUDA)


def _copied(tensor: Tensor) -> Tensor:
    return Far(tensor.detach().clone())


def to_cuda(model: nn.Module, make: Callable[[Tensor], Tensor] = _copied) -> nn.Module:
    """The model with its parameters and buffers on ``cuda:0``, the tied ones still tied."""
    moved: dict[int, Tensor] = {}

    def there(tensor: Tensor) -> Tensor:
        if id(tensor) not in moved:
            far = make(tensor)
            moved[id(tensor)] = nn.Parameter(far) if isinstance(tensor, nn.Parameter) else far
        return moved[id(tensor)]

    for module in model.modules():
        for own in (module._parameters, module._buffers):
            own.update({name: there(tensor) for name, tensor in own.items() if tensor is not None})
    return model
