"""The packed signs themselves, before they are made into numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zo_triton.directions import ROWS_PER_BLOCK, Directions, padded_columns, tensor_word
from zo_triton.reference.field import sample_matrix


def stage(directions: Directions, tensor_id: int, rows: int, cols: int, device: torch.device) -> Tensor:
    """Each direction's sign words, those of whole blocks of the generator: the matrix's edges don't cut them.

    Returns:
        int32 [K, 4·ceil(rows/4), ceil(cols/32)]; bit b of word c is column 32c + b, 1 for +1.
    """
    word, whole_rows = tensor_word(tensor_id), -(-rows // ROWS_PER_BLOCK) * ROWS_PER_BLOCK
    drawn = [
        sample_matrix(directions, directions.first + k, word, whole_rows, padded_columns(cols)) > 0
        for k in range(directions.num)
    ]
    packed = np.packbits(np.stack(drawn), axis=2, bitorder="little").view("<i4")
    return torch.from_numpy(packed.astype(np.int32)).to(device)
