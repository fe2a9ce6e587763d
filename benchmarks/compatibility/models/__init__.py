"""The models, a file for each kind, found here by its ``MODELS``; ``NEEDS`` names the packages they need."""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from dataclasses import dataclass

from benchmarks.compatibility.model import Model


@dataclass(frozen=True)
class Kind:
    """The models of one file.

    Attributes:
        name: Of the file.
        title: The first line of its docstring.
        missing: The packages that it needs and that are not installed; there are no models then.
        models: Its rows.
    """

    name: str
    title: str
    missing: tuple[str, ...]
    models: tuple[Model, ...]


def kinds() -> list[Kind]:
    """All kinds, by the names of their files."""
    found = []
    for info in pkgutil.iter_modules(__path__):
        file = importlib.import_module(f"{__name__}.{info.name}")
        if not hasattr(file, "MODELS"):
            continue
        missing = tuple(each for each in file.NEEDS if importlib.util.find_spec(each) is None)
        models = () if missing else tuple(file.MODELS)
        found.append(Kind(info.name, str(file.__doc__).partition("\n")[0].rstrip("."), missing, models))
    return found
