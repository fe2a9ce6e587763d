"""Zeroth-order training with fused kernels: forward passes only, many random directions in one launch.

    import zo_triton as zo

    opt = zo.ZOSGD(model.parameters(), lr=0.02, directions=64, eps=1e-4, seed=0)
    loss = opt.step(lambda: F.cross_entropy(model(x), y))

Importing this package loads nothing else: each name below brings what it needs, torch included, when it is
first used. The custom ops under ``torch.ops.zo_triton`` are registered by ``zo_triton.ops``, which every name
but ``Directions`` and ``data`` loads; who calls them directly imports that module first.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from zo_triton import (
        data,
        difference,
        directions,
        distributed,
        nn,
        nzk,
        ops,
        optim,
        runlog,
        testing,
    )
    from zo_triton.difference import differences
    from zo_triton.directions import Directions
    from zo_triton.distributed import RankError, Ranks
    from zo_triton.nn import ZOMLP, ZOConv2d, ZOLinear
    from zo_triton.ops import accumulate, gram, sample, use_engine
    from zo_triton.optim import (
        AGGREGATORS,
        ZOSGD,
        BlackBox,
        CapturedStep,
        FusedTrainer,
        Measurement,
        NonFiniteLossError,
        estimate_gradient,
    )
    from zo_triton.runlog import ReplayLog, replay

__version__ = "0.1.0"

__all__ = [
    "AGGREGATORS",
    "ZOMLP",
    "ZOSGD",
    "BlackBox",
    "CapturedStep",
    "Directions",
    "FusedTrainer",
    "Measurement",
    "NonFiniteLossError",
    "RankError",
    "Ranks",
    "ReplayLog",
    "ZOConv2d",
    "ZOLinear",
    "accumulate",
    "data",
    "difference",
    "differences",
    "directions",
    "distributed",
    "estimate_gradient",
    "gram",
    "nn",
    "nzk",
    "ops",
    "optim",
    "replay",
    "runlog",
    "sample",
    "testing",
    "use_engine",
]

_NAMES = {
    "difference": ("differences",),
    "directions": ("Directions",),
    "distributed": ("RankError", "Ranks"),
    "nn": ("ZOMLP", "ZOConv2d", "ZOLinear"),
    "ops": ("accumulate", "gram", "sample", "use_engine"),
    "optim": (
        "AGGREGATORS",
        "ZOSGD",
        "BlackBox",
        "CapturedStep",
        "FusedTrainer",
        "Measurement",
        "NonFiniteLossError",
        "estimate_gradient",
    ),
    "runlog": ("ReplayLog", "replay"),
}
_SUBMODULES = {"data", "nzk", "testing", *_NAMES}
_HOME = {name: module for module, names in _NAMES.items() for name in names}

# Hidden from type checkers, which would otherwise take any misspelt name for one that loads later.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        if name in _SUBMODULES:
            return import_module(f"{__name__}.{name}")
        if name not in _HOME:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = globals()[name] = getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
        return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
