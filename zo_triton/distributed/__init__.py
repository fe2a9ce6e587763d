"""Training on many ranks: each measures a share of a step, all exchange the differences and move alike."""

from zo_triton.distributed.agreement import Facts
from zo_triton.distributed.errors import RankError
from zo_triton.distributed.ranks import Ranks, Take

__all__ = ["Facts", "RankError", "Ranks", "Take"]
