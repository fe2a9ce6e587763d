"""Data sets for the experiments: read from installed packages and files on disk, never from the network."""

from zo_triton.data.catalog import NAMES, available, load
from zo_triton.data.cifar import cifar10
from zo_triton.data.dataset import Dataset, stratified_split
from zo_triton.data.digits import digits
from zo_triton.data.export import export_mat
from zo_triton.data.files import root
from zo_triton.data.mnist import mnist
from zo_triton.data.pairs import Pair, class_pair, class_pair_or_digits
from zo_triton.data.tiny_imagenet import tiny_imagenet

__all__ = [
    "NAMES",
    "Dataset",
    "Pair",
    "available",
    "cifar10",
    "class_pair",
    "class_pair_or_digits",
    "digits",
    "export_mat",
    "load",
    "mnist",
    "root",
    "stratified_split",
    "tiny_imagenet",
]
