"""Training on loss differences: the measurement of a step, gradient estimates, aggregators and optimizers."""

from zo_triton.optim.adam import ZOAdam
from zo_triton.optim.aggregators import AGGREGATORS
from zo_triton.optim.black_box import BlackBox
from zo_triton.optim.captured import CapturedStep
from zo_triton.optim.errors import NonFiniteLossError
from zo_triton.optim.estimate import estimate_gradient
from zo_triton.optim.fused_trainer import FusedTrainer
from zo_triton.optim.measure import Measurement, measure
from zo_triton.optim.sgd import ZOSGD

__all__ = [
    "AGGREGATORS",
    "ZOSGD",
    "BlackBox",
    "CapturedStep",
    "FusedTrainer",
    "Measurement",
    "NonFiniteLossError",
    "ZOAdam",
    "estimate_gradient",
    "measure",
]
