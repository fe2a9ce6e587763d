"""Training on many ranks: each measures a share of a step, all exchange the differences and move alike."""

from zo_triton.distributed.errors import RankError
from zo_triton.distributed.joining import process_group
from zo_triton.distributed.ranks import Ranks, Take

__all__ = ["RankError", "Ranks", "Take", "process_group"]
