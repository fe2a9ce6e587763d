"""What a GPU does with the kernels: correct results first, then measured ceilings and the share that is reached."""

from zo_triton.experiments.gpu.run import run_gpu, why_not

__all__ = ["run_gpu", "why_not"]
