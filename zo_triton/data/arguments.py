"""Checks of the arguments that the loaders share."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np


def check_integer(value: object, name: str, least: int) -> int:
    """Refuses what is not an integer of at least ``least``, by the argument's name.

    Raises:
        TypeError: Not an integer; a bool does not count as one.
        ValueError: Too small.
    """
    if isinstance(value, bool) or not isinstance(value, (int, np.integer)):
        raise TypeError(f"{name} must be an int, got {value!r} of type {type(value).__name__}.")
    if value < least:
        bound = "non-negative" if least == 0 else f"at least {least}"
        raise ValueError(f"{name} must be {bound}, got {value}.")
    return int(value)


def check_classes(classes: Iterable[int], title: str, count: int | None = None) -> tuple[int, ...]:
    """Refuses class indices that are no integers, repeated, or out of range.

    Args:
        classes: The indices chosen.
        title: The data set's name, for the message.
        count: How many classes there are; None if that is not known yet.

    Raises:
        TypeError: Not a sequence of integers.
        ValueError: None at all, one twice, a negative one or one beyond the last.
    """
    if isinstance(classes, str) or not isinstance(classes, Iterable):
        raise TypeError(f"classes must be a sequence of ints such as (3, 5), got {classes!r}.")
    chosen = tuple(check_integer(value, "a class", 0) for value in classes)
    if not chosen:
        raise ValueError("classes is empty; name at least one class, or pass None for all.")
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"classes must differ, got {chosen}.")
    for value in chosen:
        if count is not None and value >= count:
            raise ValueError(f"class {value} is out of range: {title} has the classes 0 to {count - 1}.")
    return chosen
