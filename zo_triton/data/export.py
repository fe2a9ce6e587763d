"""Class pairs as MATLAB files, for those who come from the paper's scripts."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from zo_triton._files import replacing
from zo_triton.data.pairs import Pair


def export_mat(pair: Pair, path: str | os.PathLike[str]) -> Path:
    """Writes a pair as a MATLAB 5 .mat file, whole or not at all.

    Variables, numbers being double as MATLAB expects:
        - ``X``: [n, size·size], one image a row, its pixels row by row (MATLAB's reshape goes by columns, so
          ``reshape(X(i, :), size, size)'`` is the i-th image).
        - ``y``: [n, 1], −1 for the first class and +1 for the second.
        - ``classes``: [1, 2], the class indices.
        - ``indices``: [n, 1], each example's position among its class's training examples, from zero.
        - ``name``, ``note``: text; the note is empty if the data are what was asked for.

    Args:
        pair: What to write.
        path: The file, replaced if it is there. Its folder must exist.

    Returns:
        The path.

    Raises:
        TypeError: Not a pair.
        FileNotFoundError: The folder does not exist.
        IsADirectoryError: The path is a folder.
        OSError: The file cannot be written; what was there before stays.
    """
    if not isinstance(pair, Pair):
        raise TypeError(f"export_mat needs a Pair, got {type(pair).__name__}; make one by class_pair.")
    target = Path(path)
    if target.is_dir():
        raise IsADirectoryError(f"{target} is a folder; name a file in it, such as {target / 'data.mat'}.")
    if not target.parent.is_dir():
        raise FileNotFoundError(f"the folder {target.parent.absolute()} does not exist; create it first.")
    from scipy.io import savemat

    variables = {
        "X": pair.x.astype(np.float64),
        "y": pair.y.astype(np.float64),
        "classes": np.array([pair.classes], np.float64),
        "indices": pair.indices.astype(np.float64),
        "name": pair.name,
        "note": pair.note,
    }
    with replacing(target) as file:
        savemat(file, variables, oned_as="column")
    return target
