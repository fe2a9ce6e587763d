"""JSON files of this package's own, read without trust."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any


def load(path: Path, remedy: str) -> Any:
    """The value in a file.

    Args:
        path: The file.
        remedy: What to do about a damaged one, for the message.

    Raises:
        FileNotFoundError: There is no such file.
        ValueError: It is no complete JSON in UTF-8, nests without end, or holds a number that is not finite; the
            message names it.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"), parse_constant=_number, parse_float=_number)
    except (ValueError, RecursionError) as error:
        raise ValueError(f"{path} is not complete JSON ({error}); {remedy}.") from error


def _number(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text} is not finite")
    return value
