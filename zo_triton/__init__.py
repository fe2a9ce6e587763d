"""Zeroth-order training with fused kernels: forward passes only, many random directions in one launch.

    import zo_triton as zo

    opt = zo.ZOSGD(model.parameters(), lr=0.02, directions=64, eps=1e-4, seed=0)
    loss = opt.step(lambda: F.cross_entropy(model(x), y))

Importing this package loads nothing else: each name below brings what it needs, torch included, when it is
first used. The custom ops under ``torch.ops.zo_triton`` are registered by ``zo_triton.ops``, which every name
but ``Directions`` and ``data`` loads; who calls them directly imports that module first.
"""

from typing import TYPE_CHECKING

from zo_triton._lazy import lazy_names

if TYPE_CHECKING:
    from zo_triton import (
        data,
        difference,
        directions,
        distributed,
        integrations,
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
        ZOAdam,
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
    "ZOAdam",
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
    "integrations",
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
        "ZOAdam",
        "BlackBox",
        "CapturedStep",
        "FusedTrainer",
        "Measurement",
        "NonFiniteLossError",
        "estimate_gradient",
    ),
    "runlog": ("ReplayLog", "replay"),
}

if not TYPE_CHECKING:
    __getattr__, __dir__ = lazy_names(__name__, _NAMES, {"data", "integrations", "nzk", "testing", *_NAMES})
