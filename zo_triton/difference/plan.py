"""How a step is cut up: what a run learns while it goes, and hands on to the next one."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from torch import Tensor

if TYPE_CHECKING:
    from zo_triton.difference.nodes import NodePlan

Accept = Callable[[Tensor, Tensor, bool], bool]
"""Gets the value, its differences, and whether these may be mended; says whether all are usable. It raises if they
are no good and can't be mended."""


@dataclass(frozen=True)
class Plan:
    """The size of a chunk of directions, and which layers may not give their input's memory away.

    A run starts out hopeful: all directions at once, and a linear layer followed by an activation overwrites
    its input's difference. Where that fails (too much memory; the pre-activation is read a second time) the
    run starts again with a more careful plan. Passing the last run's plan to the next one saves the second
    start.

    Args:
        chunk: Directions evaluated at once.
        fixed: The caller chose ``chunk``: no memory budget changes it.
        keep: Positions, counted in the order of the calls, of the linear layers whose pre-activation is read
            by more than one function.
        taped: The base pass is recorded where there are several chunks. Not where memory ran out beside the record.
        mends: Differences that are lost where a base result stays infinite are mended, see
            :mod:`zo_triton.difference.infinities`.
        nodes: What is known of a closure whose layers' outputs are perturbed; None where weights are.
    """

    chunk: int
    fixed: bool = False
    keep: frozenset[int] = field(default_factory=frozenset)
    taped: bool = True
    mends: bool = False
    nodes: NodePlan | None = None


class RestartError(BaseException):
    """Aborts the closure's run so that it starts again with ``plan``.

    Not an ``Exception``: a closure that catches everything must not swallow it.
    """

    def __init__(self, plan: Plan) -> None:
        super().__init__(plan)
        self.plan = plan
