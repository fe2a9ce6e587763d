"""Without a GPU the Triton kernels run in the interpreter, which must be chosen before Triton is imported."""

import os
import shutil

if shutil.which("nvidia-smi") is None and shutil.which("rocm-smi") is None:
    os.environ.setdefault("TRITON_INTERPRET", "1")
