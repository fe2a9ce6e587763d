"""Every entry of torch's own list of operators, in each way in which it can be called."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Iterator
from itertools import islice
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch._C import _is_torch_function_mode_enabled
from torch.utils._pytree import tree_map

INCOMPARABLE = {
    "bfloat16": "the cast's difference is that before rounding, as that of a layer in bfloat16 is",
    "half": "the same",
    "chalf": "the same",
    "float": "it rounds float64's values to float32 too",
    "cfloat": "the same",
    "linspace": "its float32 result steps in float64's place too",
    "logspace": "the same",
    "empty_like": "its values are nobody's",
    "new_empty": "the same",
    "new_empty_strided": "the same",
    "eq": "in place, a comparison that comes out otherwise is the base's all the same",
    "nn.functional.embedding": "max_norm renormalises the table in place: refused in other words",
    "grid_sampler_3d": "minutes of samples; nn.functional.grid_sample has them too",
}
"""Entries without a value to compare with, and why."""

SEED = 1234
"""That of torch's own tests: samples are drawn from the global generators of Python, NumPy and torch."""

TORCH_CRASHES = ("_chunk_cat",)
"""On 0-dim tensors, with no help of ours."""


class Case(NamedTuple):
    """One way to call one operator.

    Attributes:
        op: Its entry in torch's list.
        function: What is called.
        options: Of ``sweep.outcome``: which arguments depend on the weights.
    """

    op: Any
    function: Callable
    options: dict[str, Any]


def cases(ops: list[Any]) -> dict[str, dict[str, Case]]:
    """Spelling → operator → how it is called there."""
    found: dict[str, dict[str, Case]] = {spelling: {} for spelling in SPELLINGS}
    for op in ops:
        if op.name in INCOMPARABLE:
            continue
        name = f"{op.name}{'-' if op.variant_test_name else ''}{op.variant_test_name}"
        for spelling, (form, options) in SPELLINGS.items():
            function = form(op)
            if function is not None and not (options.get("flat") and op.name in TORCH_CRASHES):
                found[spelling][name] = Case(op, function, options)
    return found


def samples(op: Any, number: int) -> list[Any]:
    """Up to ``number`` float32 samples of an entry of ``op_db``; none where it takes no float32 on a CPU."""
    if torch.float32 not in op.supported_dtypes("cpu"):
        return []
    return list(islice(_each_seeded(op.sample_inputs_func(op, "cpu", torch.float32, False)), number))


def _each_seeded(drawn: Iterable[Any]) -> Iterator[Any]:
    """What ``op.sample_inputs`` makes of them, which looks through the whole stack for a unittest, twice a call."""
    one_by_one = iter(drawn)
    while True:
        torch.default_generator.manual_seed(SEED)
        random.seed(SEED)
        np.random.seed(SEED)  # noqa: NPY002
        try:
            yield next(one_by_one)
        except StopIteration:
            return


def _by_keyword(op: Any) -> Callable | None:
    """The operator with its arguments by name, as torch's own schemas call them; None if it has no schema."""
    overloads = getattr(torch.ops.aten, op.name.rpartition(".")[2], None)
    if overloads is None or not isinstance(op.op, type(torch.add)):
        return None
    schemas = [getattr(overloads, name)._schema for name in overloads.overloads()]

    def call(input: Any, *args: Any, **kwargs: Any) -> Any:
        given = (input, *args)
        refusal: TypeError | None = None
        for schema in schemas:
            names = ["input" if each.name == "self" else each.name for each in schema.arguments]
            if len(names) < len(given) or "out" in names[: len(given)]:
                continue
            try:
                return op.op(**dict(zip(names, given, strict=False)), **kwargs)
            except TypeError as error:
                refusal = error
        raise refusal or TypeError("no schema has so many arguments")

    return call


def _into_out(op: Any) -> Callable | None:
    """The operator with ``out=``; None if it takes none."""
    if not op.supports_out:
        return None

    like: list = []

    def call(*args: Any, **kwargs: Any) -> Any:
        if not _is_torch_function_mode_enabled():  # what the closure is compared with runs before it
            like[:] = [op.op(*args, **kwargs)]
        out = tree_map(lambda leaf: torch.empty_like(leaf) if isinstance(leaf, Tensor) else leaf, like[0])
        op.op(*args, **kwargs, out=out)
        return out

    return call


SPELLINGS: dict[str, tuple[Callable[[Any], Callable | None], dict[str, Any]]] = {
    "function": (lambda op: op.op, {}),
    "method": (lambda op: op.method_variant, {}),
    "in place": (lambda op: op.inplace_variant, {}),
    "by keyword": (_by_keyword, {"who": "all"}),
    "with out=": (_into_out, {"who": "all"}),
    "all arguments": (lambda op: op.op, {"who": "all"}),
    "all but the first": (lambda op: op.op, {"who": "others"}),
    "in place, all": (lambda op: op.inplace_variant, {"who": "all"}),
    "in place, others": (lambda op: op.inplace_variant, {"who": "others"}),
    "0-dim": (lambda op: op.op, {"who": "all", "flat": True}),
    "0-dim in place": (lambda op: op.inplace_variant, {"who": "all", "flat": True}),
    "a parameter itself": (lambda op: op.op, {"who": "itself"}),
}
"""How an operator is written, and which of its arguments depend on the weights; the first where nothing is said."""
