"""Chains: rules of elementwise functions and norms, traced and run together in one pass over memory."""

from zo_triton.difference.chains.halves import defer_turned_halves
from zo_triton.difference.chains.pending import PendingChain, defer

__all__ = ["PendingChain", "defer", "defer_turned_halves"]
