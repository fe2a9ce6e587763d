"""What the device can do at best, measured: the yardsticks of the kernels' figures."""

from __future__ import annotations

from typing import Any

import torch

from zo_triton.experiments.gpu.clock import milliseconds_of


def run_ceilings(device: torch.device, tiny: bool) -> list[dict[str, Any]]:
    """Copy bandwidth in GB/s (bytes read and written), and square matrix products in TFLOP/s.

    Returns:
        Rows of ``name``, ``value`` and ``unit``.
    """
    size, side = (1 << 12, 64) if tiny else (1 << 28, 8192)
    rows = [{"name": "copy", "value": 8 * size / _copy(size, device) / 1e6, "unit": "GB/s"}]
    for name, dtype, precision in (
        ("bfloat16 product", torch.bfloat16, "highest"),
        ("tf32 product", torch.float32, "high"),
    ):
        before = torch.get_float32_matmul_precision()
        a, b = (torch.randn(side, side, device=device).to(dtype) for _ in range(2))
        try:
            torch.set_float32_matmul_precision(precision)
            taken = milliseconds_of(lambda a=a, b=b: a @ b, device)  # type: ignore[misc]
        finally:
            torch.set_float32_matmul_precision(before)
        rows.append({"name": name, "value": 2 * side**3 / taken / 1e9, "unit": "TFLOP/s"})
    return rows


def _copy(size: int, device: torch.device) -> float:
    """Milliseconds of a float32 copy."""
    source = torch.empty(size, device=device)
    target = torch.empty_like(source)
    return milliseconds_of(lambda: target.copy_(source), device)
