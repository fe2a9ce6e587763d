"""Zeroth-order training with fused kernels: forward passes only, many random directions in one launch.

    import zo_triton as zo

    opt = zo.ZOSGD(model.parameters(), lr=0.02, directions=64, eps=1e-4, seed=0)
    loss = opt.step(lambda: F.cross_entropy(model(x), y))
"""

from zo_triton import data
from zo_triton.difference import differences
from zo_triton.directions import Directions
from zo_triton.ops import accumulate, gram, sample, use_engine
from zo_triton.optim import AGGREGATORS, ZOSGD, BlackBox, estimate_gradient

__version__ = "0.1.0"

__all__ = [
    "AGGREGATORS",
    "ZOSGD",
    "BlackBox",
    "Directions",
    "accumulate",
    "data",
    "differences",
    "estimate_gradient",
    "gram",
    "sample",
    "use_engine",
]
