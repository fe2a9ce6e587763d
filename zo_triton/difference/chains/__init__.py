"""Chains: rules of elementwise functions and norms, traced and run together in one pass over memory."""

from zo_triton.difference.chains.pending import PendingChain, defer, is_pending, settle

__all__ = ["PendingChain", "defer", "is_pending", "settle"]
