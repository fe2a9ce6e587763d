"""The packed signs themselves, before they are made into numbers."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from zo_triton.directions import Directions, tensor_word
from zo_triton.reference.field import words_of


def stage(directions: Directions, tensor_id: int, rows: int, cols: int, device: torch.device) -> Tensor:
    """Each direction's sign words as the generator gives them, those beyond the matrix's edges included.

    Returns:
        int32 [K, 4·ceil(rows/4), ceil(cols/32)]; bit b of word c is column 32c + b, 1 for +1.
    """
    word = tensor_word(tensor_id)
    drawn = [
        words_of(directions, directions.first + k, word, rows, cols).transpose(0, 2, 1)
        for k in range(directions.num)
    ]
    packed = np.stack([words.reshape(-1, words.shape[2]) for words in drawn])
    return torch.from_numpy(packed.view(np.int32).copy()).to(device)
