"""Large tensors in large pages: shapes, dtypes, alignment, and that the memory lives as long as the tensor."""

import gc

import pytest
import torch

from zo_triton._memory import LARGE, empty


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float64, torch.int32])
@pytest.mark.parametrize("elements", [0, 3, LARGE // 2, LARGE + 7], ids=["none", "few", "large", "odd"])
def test_is_an_ordinary_tensor(dtype, elements):
    tensor = empty((1, elements), dtype)
    assert tensor.shape == (1, elements)
    assert tensor.dtype == dtype
    assert tensor.is_contiguous()
    assert tensor.data_ptr() % 64 == 0
    tensor.fill_(3)
    assert (tensor == 3).all()


def test_memory_outlives_every_other_name_for_it():
    view = empty((LARGE // 4,), torch.float32).fill_(1.0)[1000:]
    gc.collect()
    others = [empty((LARGE // 4,), torch.float32).fill_(2.0) for _ in range(3)]
    assert view.sum() == LARGE // 4 - 1000
    assert len(others) == 3
