"""A run in K numbers a step: the log that training writes, and the weights made again from it."""

from zo_triton.runlog.checkpoint import Checkpoint, load_checkpoint, save_checkpoint
from zo_triton.runlog.contents import Contents, read
from zo_triton.runlog.format import DamagedError
from zo_triton.runlog.log import ReplayLog
from zo_triton.runlog.replaying import check_weights, replay
from zo_triton.runlog.weights import load_weights, save_weights

__all__ = [
    "Checkpoint",
    "Contents",
    "DamagedError",
    "ReplayLog",
    "check_weights",
    "load_checkpoint",
    "load_weights",
    "read",
    "replay",
    "save_checkpoint",
    "save_weights",
]
