"""LSTM, GRU and plain recurrent networks, unrolled over time into linear layers and gates.

A layer's input goes through its weights once for all times, the hidden state through its own step by step.
Formulas as in torch's documentation of ``nn.LSTM``, ``nn.GRU`` and ``nn.RNN``. A batch of padded sequences is
taken for a packed one in which all have the same length.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor

from zo_triton.difference.registry import named, rule
from zo_triton.difference.rules.composed import in_pieces

if TYPE_CHECKING:
    from zo_triton.difference.mode import DifferenceMode

States = tuple[Tensor, ...]
Cell = Callable[[Tensor, States, Sequence[Any]], States]


def _lstm_cell(gates: Tensor, states: States, weights: Sequence[Any]) -> States:
    """One step from the input's share of the gates; ``weights``: of the hidden state, then of a projection."""
    hidden, cell = states
    open_, forget, new, out = (gates + F.linear(hidden, weights[0], weights[1])).chunk(4, -1)
    cell = forget.sigmoid() * cell + open_.sigmoid() * new.tanh()
    hidden = out.sigmoid() * cell.tanh()
    return hidden if weights[2] is None else F.linear(hidden, weights[2]), cell


def _gru_cell(gates: Tensor, states: States, weights: Sequence[Any]) -> States:
    (hidden,) = states
    reset, update, new = gates.chunk(3, -1)
    own_reset, own_update, own_new = F.linear(hidden, weights[0], weights[1]).chunk(3, -1)
    new = (new + (reset + own_reset).sigmoid() * own_new).tanh()
    return (new + (update + own_update).sigmoid() * (hidden - new),)


def _plain_cell(activation: Callable[[Tensor], Tensor]) -> Cell:
    return lambda gates, states, weights: (activation(gates + F.linear(states[0], weights[0], weights[1])),)


def _layer(
    cell: Cell, data: Tensor, sizes: list[int], start: States, weights: Sequence[Any], reverse: bool
) -> tuple[Tensor, States]:
    """One layer in one direction.

    Args:
        cell: One step.
        data: [Σ sizes, features], time by time.
        sizes: How many sequences, the longest first, are still running at each time.
        start: Initial states [N, …].
        weights: w_ih, b_ih, w_hh, b_hh, projection.
        reverse: Whether time runs backwards.

    Returns:
        The output like ``data`` and each sequence's last states.
    """
    steps = F.linear(data, weights[0], weights[1]).split(sizes)
    first = sizes[-1] if reverse else sizes[0]
    states = start if first == start[0].shape[0] else tuple(state[:first] for state in start)
    outputs: list[Tensor] = []
    ended: list[States] = []
    for time in range(len(sizes))[:: -1 if reverse else 1]:
        running = states[0].shape[0]
        if sizes[time] > running:
            joining = (state[running : sizes[time]] for state in start)
            states = tuple(torch.cat(pair) for pair in zip(states, joining, strict=True))
        elif sizes[time] < running:
            ended.append(tuple(state[sizes[time] :] for state in states))
            states = tuple(state[: sizes[time]] for state in states)
        states = cell(steps[time], states, weights[2:])
        outputs.append(states[0])
    if ended:
        ended.append(states)
        states = tuple(torch.cat(each) for each in zip(*ended[::-1], strict=True))
    return torch.cat(outputs[::-1] if reverse else outputs), states


def _grouped(params: Sequence[Tensor], has_biases: bool, each: int) -> list[tuple[Any, ...]]:
    """torch's flat list (w_ih, w_hh, b_ih, b_hh, projection) cut up by layer and direction."""
    groups = []
    for start in range(0, len(params), each):
        group = params[start : start + each]
        biases = tuple(group[2:4]) if has_biases else (None, None)
        projection = group[-1] if each in (3, 5) else None
        groups.append((group[0], biases[0], group[1], biases[1], projection))
    return groups


def _network(cell: Cell, batched: tuple[Tensor, list[int]], start: States, settings: Sequence[Any]) -> tuple:
    """All layers; returns the last one's output and the last states of all, [layers·directions, N, …]."""
    params, has_biases, num_layers, dropout, train, bidirectional = settings
    ways = 2 if bidirectional else 1
    groups = _grouped(params, has_biases, len(params) // (num_layers * ways))
    data, sizes = batched
    last: list[States] = []
    for layer in range(num_layers):
        outputs = []
        for way in range(ways):
            place = layer * ways + way
            output, states = _layer(
                cell, data, sizes, tuple(state[place] for state in start), groups[place], way == 1
            )
            outputs.append(output)
            last.append(states)
        data = outputs[0] if ways == 1 else torch.cat(outputs, -1)
        if dropout and layer < num_layers - 1:
            data = F.dropout(data, dropout, train)
    return (data, *(torch.stack(each) for each in zip(*last, strict=True)))


def _unrolled(cell: Cell) -> Callable[..., tuple]:
    """``torch.lstm`` and its like: (input, hx, …, batch_first) or (data, batch_sizes, hx, …)."""

    def whole(input: Tensor, second: Any, *rest: Any) -> tuple:
        if isinstance(rest[0], Tensor) or not isinstance(rest[1], bool):  # packed
            start = rest[0] if not isinstance(rest[0], Tensor) else (rest[0],)
            return _network(cell, (input, second.tolist()), tuple(start), rest[1:])
        *settings, batch_first = rest
        start = (second,) if isinstance(second, Tensor) else tuple(second)
        steps = input.transpose(0, 1) if batch_first else input
        times, samples = steps.shape[:2]
        output, *last = _network(cell, (steps.flatten(0, 1), [samples] * times), start, settings)
        output = output.unflatten(0, (times, samples))
        return (output.transpose(0, 1) if batch_first else output, *last)

    return whole


def _single(cell: Cell) -> Callable[..., Any]:
    """``torch.lstm_cell`` and its like."""

    def once(input: Tensor, hx: Any, w_ih: Tensor, w_hh: Tensor, b_ih: Any = None, b_hh: Any = None) -> Any:
        start = (hx,) if isinstance(hx, Tensor) else tuple(hx)
        states = cell(F.linear(input, w_ih, b_ih), start, (w_hh, b_hh, None))
        return states[0] if len(states) == 1 else states

    return once


for _name, _cell in (
    ("lstm", _lstm_cell),
    ("gru", _gru_cell),
    ("rnn_tanh", _plain_cell(torch.tanh)),
    ("rnn_relu", _plain_cell(torch.relu)),
):
    in_pieces(named(_name, owner=torch), _unrolled(_cell), asks_torch=False)
    in_pieces(named(f"{_name}_cell", owner=torch), _single(_cell), asks_torch=False)


@rule("_pack_padded_sequence", owner=torch)
def pack_padded_sequence(
    mode: DifferenceMode, base: Any, input: Tensor, lengths: Tensor, batch_first: bool
) -> Any:
    """Only moves elements: run on their positions, the function tells where to."""
    delta = mode.needed(input)
    positions = torch.arange(input.numel(), dtype=torch.int64, device=input.device).view(input.shape)
    packed = torch._VF._pack_padded_sequence(positions, lengths, batch_first)[0]
    return [delta.reshape(mode.evaluations, -1)[:, packed], None]


@rule("_pad_packed_sequence", owner=torch)
def pad_packed_sequence(
    mode: DifferenceMode, base: Any, data: Tensor, batch_sizes: Tensor, batch_first: bool, *settings: Any
) -> Any:
    """The same the other way; what is put behind a sequence's end doesn't move."""
    delta = mode.needed(data)
    positions = torch.arange(data.numel(), dtype=torch.int64, device=data.device).view(data.shape)
    total = settings[1] if len(settings) > 1 else -1
    padded = torch._VF._pad_packed_sequence(positions, batch_sizes, batch_first, -1, total)[0]
    moved = delta.reshape(mode.evaluations, -1)[:, padded.clamp(min=0)]
    return [moved.masked_fill(padded < 0, 0.0), None]
