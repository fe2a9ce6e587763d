"""The kernels compiled for GPUs that need not be there, read from the machine code, and weighed against the chip.

A variant (``variants.py``) is an ordinary call of an operation on tensors nobody reads; what its launcher would
have passed is compiled (``compiler.py``), disassembled (``machine_code.py``, ``instructions.py``) and set against a
chip's published rates (``targets.py``, ``occupancy.py``, ``roofline.py``). ``run.py`` does that for all of them,
``render.py`` shows the record.
"""
