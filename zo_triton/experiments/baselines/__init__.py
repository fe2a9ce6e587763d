"""What a user would pick instead: plain, idiomatic implementations that nothing slows down on purpose.

Each module lists what it has to offer in ``METHODS``.
"""

from zo_triton.experiments.baselines.backprop import Backprop
from zo_triton.experiments.baselines.forward_gradient import ForwardGradient
from zo_triton.experiments.baselines.mezo import MeZO
from zo_triton.experiments.baselines.vmap_ensemble import VmapEnsemble

__all__ = ["Backprop", "ForwardGradient", "MeZO", "VmapEnsemble"]
