"""What would keep the host waiting for a device is written down, wherever the tensors lie."""

import traceback

from torch.utils._python_dispatch import TorchDispatchMode

WAITING = {"_local_scalar_dense", "is_nonzero", "equal", "nonzero", "_unique2", "masked_select"}
"""Functions of torch whose results the host needs."""


class HostReads(TorchDispatchMode):
    """Inside, the names of the functions that would wait, and the library's lines that they come from."""

    def __init__(self):
        super().__init__()
        self.names = []

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        name = func.overloadpacket.__name__
        if name in WAITING:
            place = next(
                frame for frame in reversed(traceback.extract_stack()) if "/zo_triton/" in frame.filename
            )
            self.names.append(f"{name} in {place.filename}:{place.lineno}")
        return func(*args, **(kwargs or {}))
