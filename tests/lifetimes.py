"""Which arrays of a compiled function die while an address of theirs is still in use.

Numba frees an array after the last line that names it or a view of it. An address is a number to it. So each
variable is asked two things: whose memory it holds, and whose it only knows the address of. Wherever one of the
latter may still be read, one of the former must be, too.
"""

from __future__ import annotations

from collections import defaultdict
from functools import cache
from types import FunctionType

from numba.core import analysis, compiler, ir, ssa
from numba.core.registry import CPUDispatcher

NUMBERS = {"dtype", "itemsize", "nbytes", "ndim", "shape", "size", "strides"}
"""What is asked of an array and has nothing to do with where it lies."""

WHOLES = {"build_tuple", "phi"}
"""Expressions whose result holds what any of their parts holds."""

PARTS = {"getattr", "getitem", "static_getitem", "exhaust_iter", "getiter", "iternext", "pair_first", "cast"}
"""Those whose result holds what their ``value`` holds."""

GIVEN = "in "
"""Before a parameter's name: what its caller knows the address of."""

Origins = dict[str, set[str]]
"""For each variable the arrays, by the variable that they were first given to."""


def outlived(function: FunctionType) -> set[str]:
    """The arrays that the function makes and that may be freed before it is done with an address of theirs."""
    code, holders, addresses = _origins(function)
    found = set()
    for live in _live_sets(code):
        held = set().union(*(holders[name] for name in live))
        known = set().union(*(addresses[name] for name in live))
        found |= known - held
    names = {name for name in found - set(code.arg_names) if not name.startswith(GIVEN)}
    return {f"{function.__module__}.{function.__name__}: {name}" for name in names}


@cache
def _origins(function: FunctionType) -> tuple[ir.FunctionIR, Origins, Origins]:
    """The function's code; whose memory its variables hold; and whose they know the address of."""
    code = ssa.reconstruct_ssa(compiler.run_frontend(function))
    statements = [statement for block in code.blocks.values() for statement in block.body]
    holders, addresses = defaultdict(set), defaultdict(set)
    size = -1
    while size != (size := sum(map(len, [*holders.values(), *addresses.values()]))):
        for statement in statements:
            if isinstance(statement, ir.Assign):
                _assign(code, statement, holders, addresses)
            elif isinstance(statement, ir.SetItem | ir.StaticSetItem):
                addresses[statement.target.name] |= addresses[statement.value.name]
    return code, holders, addresses


def _assign(code: ir.FunctionIR, statement: ir.Assign, holders: Origins, addresses: Origins) -> None:
    name, value = statement.target.name, statement.value
    if isinstance(value, ir.Arg):
        holders[name].add(value.name)
        addresses[name].add(f"{GIVEN}{value.name}")
        return
    if not isinstance(value, ir.Var | ir.Expr):
        return
    if isinstance(value, ir.Expr) and value.op == "getattr":
        if value.attr in NUMBERS:
            return
        if value.attr == "data":
            addresses[name] |= holders[value.value.name]
            return
    if isinstance(value, ir.Expr) and value.op == "call":
        _call(code, statement, holders, addresses)
        return
    parts = [value] if isinstance(value, ir.Var) else value.list_vars()
    for each in parts:
        addresses[name] |= addresses[each.name]
    if isinstance(value, ir.Var) or value.op in WHOLES:
        holders[name].update(*(holders[each.name] for each in parts))
    elif value.op in PARTS:
        holders[name] |= holders[value.value.name]


def _call(code: ir.FunctionIR, statement: ir.Assign, holders: Origins, addresses: Origins) -> None:
    """What a call returns: a view, if it is a method's or one of the engine's functions, or a new array."""
    name, call = statement.target.name, statement.value
    callee = getattr(code._definitions[call.func.name][0], "value", None)
    if not isinstance(callee, CPUDispatcher):
        holders[name] |= holders[call.func.name] or {name}
        addresses[name].update(*(addresses[each.name] for each in call.list_vars()))
        return
    inner, *found = _origins(callee.py_func)
    held, known = (_returned(inner, each) for each in found)
    if held - set(inner.arg_names):
        holders[name].add(name)
    for parameter, each in zip(inner.arg_names, call.args, strict=False):
        if parameter in held:
            holders[name] |= holders[each.name]
            addresses[name] |= addresses[each.name]
        if f"{GIVEN}{parameter}" in known:
            addresses[name] |= addresses[each.name]
        if parameter in known:
            addresses[name] |= holders[each.name] | addresses[each.name]


def _returned(code: ir.FunctionIR, origins: Origins) -> set[str]:
    """Of all that a function may return."""
    return set().union(
        *(
            origins[block.terminator.value.name]
            for block in code.blocks.values()
            if isinstance(block.terminator, ir.Return)
        )
    )


def _live_sets(code: ir.FunctionIR) -> list[set[str]]:
    """Before each statement, the variables that it or a later one may read."""
    flow = analysis.compute_cfg_from_blocks(code.blocks)
    at_entry: dict[int, set[str]] = {label: set() for label in code.blocks}
    size = -1
    while size != (size := sum(map(len, at_entry.values()))):
        found = []
        for label, block in code.blocks.items():
            after = [label for label, _ in flow.successors(label)]
            live = set().union(*(at_entry[each] for each in after))
            for each in after:
                live |= _from(label, code.blocks[each])
            for statement in reversed(block.body):
                _step_back(live, statement)
                found.append(set(live))
            at_entry[label] |= live
    return found


def _is_phi(statement: ir.Stmt) -> bool:
    value = getattr(statement, "value", None)
    return isinstance(value, ir.Expr) and value.op == "phi"


def _from(label: int, block: ir.Block) -> set[str]:
    """What a block reads if it comes after that one."""
    return {
        value.name
        for statement in filter(_is_phi, block.body)
        for before, value in zip(
            statement.value.incoming_blocks, statement.value.incoming_values, strict=True
        )
        if before == label and value is not ir.UNDEFINED
    }


def _step_back(live: set[str], statement: ir.Stmt) -> None:
    read = set() if _is_phi(statement) else {each.name for each in statement.list_vars()}
    if isinstance(statement, ir.Assign):
        read.discard(statement.target.name)
        live.discard(statement.target.name)
    live |= read
