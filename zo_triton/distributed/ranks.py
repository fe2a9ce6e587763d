"""One rank's part of a step: which cells it measures, how all get all results, and what they must agree on."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from importlib import import_module
from typing import Any, TypeAlias

import torch
import torch.distributed as dist
from torch import Tensor

from zo_triton._interrupts import listening
from zo_triton.distributed.agreement import Facts, checksum, compare, strangers
from zo_triton.distributed.errors import RankError, spell
from zo_triton.distributed.joining import FIRST_SECONDS
from zo_triton.distributed.patience import within
from zo_triton.distributed.roll_call import RollCall

Take: TypeAlias = Callable[[Any], Any]
"""From a batch (a tensor or an array, examples first) to the part of it that is measured now."""

Evaluate: TypeAlias = Callable[[int, int, Take], tuple[float, Tensor]]
"""From the first direction, the one after the last, and a Take, to the loss and the differences [n, …] float32."""

SAME_LOSS = 1e-4
"""Relative; machines of two kinds round the same loss differently, by less than this."""


class Ranks:
    """Spreads the measuring of each step over the ranks of torch's default process group.

    Pass it to :class:`zo_triton.ZOSGD` or :class:`zo_triton.FusedTrainer`. The K directions of a step are cut into
    ``shards`` runs, and the batch, if wished, into ``batch_shards`` parts. Each rank measures its share of these
    cells and sends the others the cells' losses and differences, some hundred bytes a step. Then each moves its own
    copy of the weights by the whole step, whose noise it generates: weights, gradients and noise never travel.

    Cells, not ranks, decide how a step is computed, so the weights are bit for bit the same on 1, 2 or any other
    number of ranks that divides the cells, with the same number of threads each.

    Making one is a collective call: all ranks make it together, with the same arguments. The exchange takes the
    host's memory and gloo, also beside NCCL: each step waits for its loss on the host anyway.

    Args:
        shards: Into how many runs the directions are cut.
        batch_shards: Into how many parts the batch is cut. If there are several, the closure of a ZOSGD takes one
            argument, ``take``, and computes its loss from ``take(x)`` and ``take(y)``; the loss must be a mean over
            the examples.
        timeout: Seconds that a rank waits for another at each exchange but the first; a quarter more passes until
            the one that is missing has been named. A process that has ended is noticed at once.
        check_every: Steps between two comparisons of weights, settings and batches.

    Attributes:
        rank: This process's number.
        size: How many ranks there are.

    Raises:
        RankError: A rank has other arguments or another version of the package.
        ValueError: There is no process group, an argument is out of range, or the cells can't be dealt out evenly.

    Example:
        >>> import torch, zo_triton as zo
        >>> from torch import distributed as dist
        >>> if dist.is_initialized():  # as under torchrun, after dist.init_process_group()
        ...     w = torch.tensor([1.0, -2.0])
        ...     opt = zo.ZOSGD([w], lr=0.1, directions=8, ranks=zo.Ranks())
        ...     loss = opt.step(lambda: w.square().sum())
    """

    def __init__(
        self, shards: int = 4, batch_shards: int = 1, timeout: float = 16.0, check_every: int = 100
    ) -> None:
        if not dist.is_available() or not dist.is_initialized():
            raise ValueError(
                "there is no process group: start the program with torchrun, and call "
                "torch.distributed.init_process_group() before zo.Ranks()."
            )
        self.rank, self.size = dist.get_rank(), dist.get_world_size()
        for name, value in (("shards", shards), ("batch_shards", batch_shards), ("check_every", check_every)):
            if isinstance(value, bool) or not isinstance(value, int) or value < 1:
                raise ValueError(f"{name} must be an int of at least 1, got {value!r}.")
        if not 0 < timeout < float("inf"):
            raise ValueError(f"timeout must be positive and finite, in seconds, got {timeout}.")
        if shards * batch_shards % self.size:
            raise ValueError(
                f"{self.size} ranks can't share {shards} × {batch_shards} cells evenly; choose shards a multiple "
                f"of {self.size}, or a number of ranks that divides {shards * batch_shards}."
            )
        self.shards, self.batch_shards = shards, batch_shards
        self.timeout, self.check_every = timeout, check_every
        # The store of torchrun outlives every rank; torch has no public name for it.
        self._roll = RollCall(dist.distributed_c10d._get_default_store(), self.rank, self.size, timeout)
        self._checks, self._batches, self._meets = 0, 0, 0
        self._failure: RankError | None = None
        self._facts: Callable[[], Facts] = dict
        self._meet("start", FIRST_SECONDS)
        # A group of its own has a timeout of its own, and is there also if the default one is NCCL's.
        try:
            self._group = within(2 * timeout, _gloo_group, timeout)
        except (RuntimeError, TimeoutError) as error:
            self._meet("failure", timeout / 4, error)
        arguments = {name: vars(self)[name] for name in ("shards", "batch_shards", "timeout", "check_every")}
        self.compare({"versions": _versions(), "arguments of Ranks": arguments})

    def check_directions(self, num: int) -> None:
        """Refuses a number of directions that the shards don't divide.

        Raises:
            ValueError: It is none that can be cut into equal runs.
        """
        if num % self.shards:
            raise ValueError(
                f"{num} directions can't be cut into {self.shards} equal shards; choose a multiple of "
                f"{self.shards}, or other shards."
            )

    def compare(self, facts: Facts) -> None:
        """Compares something at once.

        Args:
            facts: What must be the same on all ranks, by name.

        Raises:
            RankError: Names who differs, and in what; or who is gone.
        """
        self._compare(facts, "at the start")

    def from_first(self, value: Any, patience: float = FIRST_SECONDS) -> Any:
        """Rank 0's value, on all ranks; what the others pass is dropped.

        Args:
            value: Anything that can be pickled.
            patience: Seconds for rank 0 to come here.

        Raises:
            RankError: A rank is gone.
        """
        self._meets += 1
        self._meet(f"from first {self._meets}", patience)
        values = [value]
        try:
            dist.broadcast_object_list(values, 0, group=self._group)
        except RuntimeError as error:
            self._meet("failure", self.timeout / 4, error)
        return values[0]

    def note(self, *batch: Tensor) -> None:
        """Adds a batch to the running checksum that the ranks compare; a FusedTrainer does this by itself."""
        self._batches = checksum(batch, self._batches)

    def check(self, facts: Callable[[], Facts]) -> None:
        """Compares the ranks' states if it is time to; each step calls it before it measures.

        Args:
            facts: Makes what must be the same on all ranks, by name.

        Raises:
            RankError: Names who differs, and in what; or who is gone.
        """
        self._facts = facts
        if self._checks == 0:
            self._meet("first check", FIRST_SECONDS)
        if self._checks % self.check_every == 0:
            self._compare(self._everything(), f"before step {self._checks + 1} of this run")
        self._checks += 1

    def share(self, evaluate: Evaluate, num: int, comparable: bool = True) -> tuple[float, Tensor]:
        """Measures this rank's cells and gives everybody's.

        Args:
            evaluate: Measures a run of directions on a part of the batch. Its results for a shard must not
                depend on the shards beside it.
            num: K, a multiple of the shards.
            comparable: The loss is the same wherever it is evaluated: ranks on which it is not are refused.

        Returns:
            The loss, a mean over the batch's parts, and the differences [K, …] float32, on the CPU.

        Raises:
            RankError: A rank is gone, or its loss differs.
            ValueError: The directions can't be cut evenly, or the batch can't.
        """
        self.check_directions(num)
        length = num // self.shards
        cells = self.shards * self.batch_shards // self.size
        first, last = self.rank * cells, (self.rank + 1) * cells
        mine, trailing = [], torch.Size()
        for part in range(first // self.shards, -(-last // self.shards)):
            start = max(first - part * self.shards, 0)
            stop = min(last - part * self.shards, self.shards)
            loss, found = evaluate(start * length, stop * length, self._take(part))
            trailing = found.shape[1:]
            each = found.to("cpu", torch.float32).reshape(stop - start, -1).contiguous().view(torch.uint8)
            base = torch.tensor([loss], dtype=torch.float64, device="cpu")
            base = base.view(torch.uint8).expand(stop - start, -1)
            mine.append(torch.cat([base, each], 1))
        if self._checks <= 1:
            self._meet("first step", FIRST_SECONDS)
        everything = self._gather(torch.cat(mine)).view(self.batch_shards, self.shards, -1)
        losses = everything[..., :8].contiguous().view(torch.float64)[..., 0]
        if comparable:
            self._compare_losses(losses)
        found = everything[..., 8:].contiguous().view(torch.float32).view(self.batch_shards, num, *trailing)
        # A sum of its own order would differ from machine to machine.
        total, loss = found[0], float(losses[0, 0])
        for part in range(1, self.batch_shards):
            total, loss = total + found[part], loss + float(losses[part, 0])
        if self.batch_shards > 1:
            total, loss = total / self.batch_shards, loss / self.batch_shards
        return loss, total

    def _take(self, part: int) -> Take:
        def take(batch: Any) -> Any:
            size, rest = divmod(len(batch), self.batch_shards)
            if rest or not size:
                raise ValueError(
                    f"a batch of {len(batch)} can't be cut into {self.batch_shards} equal parts; choose a "
                    "multiple, or other batch_shards."
                )
            return batch[part * size : (part + 1) * size]

        return take

    def _compare_losses(self, losses: Tensor) -> None:
        """Every cell of one part of the batch has evaluated the same loss."""
        numbers = torch.arange(losses.numel(), dtype=torch.int64, device="cpu").view_as(losses)
        owners = numbers // (losses.numel() // self.size)
        for row, ranks in zip(losses, owners.tolist(), strict=True):
            same = torch.isclose(row, row.nanmedian(), SAME_LOSS, 1e-12, equal_nan=True)
            if bool(same.all()):
                continue
            # What differs besides is told first, as the loss may only be its consequence.
            self._compare(self._everything(), f"at step {self._checks} of this run, losses {row.tolist()}")
            state = checksum([torch.get_rng_state()])
            self._compare({"torch's random state": state}, f"at step {self._checks} of this run")
            odd = sorted({ranks[cell] for cell in strangers(same.tolist())})
            raise RankError(
                f"at step {self._checks} of this run {spell(odd)} measured another loss than the others "
                f"({row.tolist()}) with the same weights: give each rank the same batch, and wrap a loss that "
                "draws at random in zo.BlackBox.",
                odd,
            )

    def _everything(self) -> Facts:
        return {**self._facts(), "batches": self._batches}

    def _compare(self, facts: Facts, occasion: str) -> None:
        compare(facts, self._gather, self._group, occasion)

    def _gather(self, mine: Tensor) -> Tensor:
        """Everybody's tensor, one after the other along a new first dimension.

        Raises:
            RankError: A rank is gone.
        """
        if self._failure is not None:
            raise self._failure
        out = torch.empty(self.size, *mine.shape, dtype=mine.dtype, device="cpu")
        try:
            dist.all_gather(list(out), mine, group=self._group)
        except RuntimeError as error:
            self._meet("failure", self.timeout / 4, error)
        return out

    def _meet(self, event: str, patience: float, error: Exception | None = None) -> None:
        """Waits for the others, because of an error or where they may be late, and names who does not come.

        Raises:
            RankError: Someone is missing, or ``error`` has another reason.
        """
        absence = listening(self._roll.wait, event, patience)
        if absence is None and error is None:
            return
        self._roll.leave(event)
        if absence is None:
            self._failure = RankError(
                f"the exchange failed though all {self.size} ranks are there: {error}.", ()
            )
        else:
            if error is not None:
                absence = absence._replace(seconds=self.timeout + absence.seconds)
            hint = " (raise Ranks(timeout=…) if its steps are only slow)"
            self._failure = self._roll.error(absence, max(self._checks - 1, 0), hint)
        raise self._failure from error


def _gloo_group(timeout: float) -> dist.ProcessGroup:
    return dist.new_group(backend="gloo", timeout=timedelta(seconds=timeout))


def _versions() -> dict[str, object]:
    return {
        "zo_triton": import_module("zo_triton").__version__,
        "torch": str(torch.__version__),
    }
