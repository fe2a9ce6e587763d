"""Data sets for the experiments: read from installed packages, never from the network."""

from zo_triton.data.dataset import Dataset, stratified_split
from zo_triton.data.digits import digits

__all__ = ["Dataset", "digits", "stratified_split"]
