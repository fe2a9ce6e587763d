"""What all ranks must have in common, as a few numbers that are cheap to compare, and who differs in what."""

from __future__ import annotations

import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from zo_triton.distributed.errors import RankError, spell

Facts: TypeAlias = Mapping[str, "int | Mapping[str, object] | Iterable[Tensor]"]
"""By name: a checksum, settings by their names, or tensors."""


def checksum(tensors: Iterable[Tensor], start: int = 0) -> int:
    """CRC-32 of the tensors' bytes, one after the other; ``start`` is the checksum of what came before."""
    for tensor in tensors:
        flat = tensor.detach().cpu().contiguous().reshape(-1)
        start = zlib.crc32(flat.view(torch.uint8).numpy(), start)
    return start


def compare(
    facts: Facts, gather: Callable[[Tensor], Tensor], group: dist.ProcessGroup | None, occasion: str
) -> None:
    """Refuses to go on where a rank's facts are not those of the others. All ranks call it together.

    Args:
        facts: This rank's; the names and their order are the same on all.
        gather: From a [n] int64 tensor of each rank to all of them, [ranks, n].
        group: For the settings themselves, which are only exchanged if they differ.
        occasion: Begins the message.

    Raises:
        RankError: Names the ranks that differ from most others (of two camps of one size, from rank 0's), and
            in what.
    """
    numbers = [_number(fact) for fact in facts.values()]
    table = gather(torch.tensor(numbers, dtype=torch.int64, device="cpu")).tolist()
    found: dict[int, list[str]] = {}
    for name, column in zip(facts, zip(*table, strict=True), strict=True):
        ranks = strangers(column)
        fact = facts[name]
        told = _differing(fact, ranks, group) if ranks and isinstance(fact, Mapping) else ""
        for rank in ranks:
            found.setdefault(rank, []).append(f"{name}{told}")
    if found:
        each = "; ".join(f"{spell([rank])} differs in {', '.join(names)}" for rank, names in found.items())
        raise RankError(
            f"{occasion}: {each}. All ranks need the same: start them with one command on one version of the "
            "package, from one checkpoint, and give each the same batches in the same order.",
            sorted(found),
        )


def strangers(column: Sequence[Any]) -> list[int]:
    """The positions that do not hold what most hold; where two are equally frequent, the first one counts."""
    usual = Counter(column).most_common(1)[0][0]
    return [rank for rank, value in enumerate(column) if value != usual]


def _number(fact: int | Mapping[str, object] | Iterable[Tensor]) -> int:
    if isinstance(fact, int):
        return fact
    if isinstance(fact, Mapping):
        return zlib.crc32(repr(sorted(_spelled(fact).items())).encode())
    return checksum(fact)


def _spelled(settings: Mapping[str, object]) -> dict[str, str]:
    return {name: repr(value) for name, value in settings.items()}


def _differing(settings: Mapping[str, object], ranks: Sequence[int], group: dist.ProcessGroup | None) -> str:
    """The settings that differ, of the first rank that has others, in brackets."""
    everybody: list[dict[str, str]] = [{}] * dist.get_world_size(group)
    dist.all_gather_object(everybody, _spelled(settings), group=group)
    usual = next(one for rank, one in enumerate(everybody) if rank not in ranks)
    other = everybody[ranks[0]]
    names = sorted(name for name in {*usual, *other} if usual.get(name) != other.get(name))
    return " (" + ", ".join(f"{name}: {other.get(name)} is not {usual.get(name)}" for name in names) + ")"
