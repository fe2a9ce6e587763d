"""Δz = δWᵀ + sε·(a+δ)Uᵀ + sε·v for every evaluation, and the activation's exact difference.

Each thread takes a share of the directions. Signs go through the table product of ``signs``, here, or in bfloat16
of ``fixed_point``; factors of low rank through ``low_rank``; other directions through torch's GEMM, in ``dense``.
"""

from __future__ import annotations

import numpy as np
import torch
from numba import float32, intp, uint32
from torch import Tensor

from zo_triton._memory import empty, in_natural_order
from zo_triton._precision import factor
from zo_triton.cpu.activating import kind_of
from zo_triton.cpu.activation import base_terms
from zo_triton.cpu.arrays import as_array, steps_of
from zo_triton.cpu.bfloat16 import NOTHING, is_emulated, is_native, pack_run, pack_weight, pair_product
from zo_triton.cpu.dense import run_dense
from zo_triton.cpu.field import key_of, sign_words
from zo_triton.cpu.fixed_point import fixed_runs, fixed_sign_product, to_fixed_point
from zo_triton.cpu.layer import (
    TILE_ELEMENTS,
    TOTALS_ELEMENTS,
    Layer,
    copies_of,
    difference_or_none,
    finish,
    gather,
    run_layer,
)
from zo_triton.cpu.layout import SMALL_ELEMENTS, in_runs, turned
from zo_triton.cpu.low_rank import run_low_rank
from zo_triton.cpu.natural import natural_linear
from zo_triton.cpu.sharing import shared
from zo_triton.cpu.signs import TABLES, draw_signs, line_of_floats, sign_product
from zo_triton.cpu.threads import together
from zo_triton.cpu.vectors import LANES
from zo_triton.directions import Directions, tensor_word

MIN_PIECES = 8
"""Into how many pieces a first layer is cut at least, for threads to take."""

SHARED_ROWS = 256
"""Rows of U that share one set of tables in a first layer: their float32 totals for 32 samples take 32 KiB."""


def perturbed_linear(
    out: Tensor,
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    activation: str,
    transposed: bool = False,
) -> None:
    """Same contract as the reference; fastest if ``out`` and ``difference`` lie in memory alike.

    Both as [P, N, F], see ``natural``, or both as [P, F, N]: an evaluation of ``out`` may then share the front of
    the same evaluation of ``difference`` (see ``ops.perturbed_linear``): each is read, whole, before it is written.
    If ``transposed``, ``weight`` is the parameter as it is stored, [in, out], and the field's values are its own.
    """
    if difference is not None and out.is_contiguous() and in_natural_order(difference):
        natural_linear(
            out, base, difference, weight, base_output, directions, weight_id, bias_id, signed_eps, activation,
            transposed,
        )  # fmt: skip
        return
    weight = weight.detach().T if transposed else weight.detach()
    lying = _slots(out)
    result = empty((out.shape[0], out.shape[2], out.shape[1]), out.dtype) if lying is None else lying
    signs = directions.signs and directions.rank is None
    run = _run_signs if signs else run_low_rank if directions.rank else run_dense
    first_fixed = signs and difference is None and out.dtype == torch.bfloat16
    # A large W would take as much memory packed as half of what it works on: it is cast a tile at a time.
    inline = run is not run_dense and difference is not None and weight.numel() <= TILE_ELEMENTS
    inline = inline and out.dtype == torch.bfloat16 and is_native()
    moved = None if difference is None else _slots_or_copy(difference)
    base = base.detach().float()
    z = base.new_empty(0, 0) if base_output is None else torch.from_numpy(turned(base_output))
    first, second = base_terms(z, activation)
    layer = Layer(
        directions=directions,
        sides=signed_eps.numel() // directions.num,
        signed_eps=steps_of(signed_eps),
        out=as_array(result),
        base=_NO_RUNS if first_fixed else turned(base) if run is run_dense else in_runs(base),
        fixed=_in_fixed_runs(base) if first_fixed else _NO_FIXED_RUNS,
        difference=moved,
        moved=difference_or_none(moved, out.dtype),
        weight=weight,
        transposed=transposed,
        stack=None if difference is None or inline else _stack(weight, out),
        packed=pack_weight(weight) if inline else NOTHING,
        weight_id=weight_id,
        bias_id=bias_id,
        terms=(z.numpy(), first.numpy(), second.numpy()),
        kind=kind_of(activation),
        dtype=out.dtype,
        samples=base.shape[0],
    )
    run(layer)
    if lying is None:
        out.copy_(result.transpose(1, 2))


def _slots(tensor: Tensor) -> Tensor | None:
    """A [P, N, F] tensor as the memory [P, rows ≥ F, N] it lies in, one slot an evaluation; None if it does not."""
    evaluations, samples, features = tensor.shape
    slot, sample, feature = tensor.stride()
    if tensor.numel() == 0 or (sample != 1 and samples > 1) or (feature != samples and features > 1):
        return None
    if evaluations > 1 and (slot % samples or slot < features * samples):
        return None
    rows = slot // samples if evaluations > 1 else features
    end = tensor.storage_offset() + evaluations * rows * samples
    if (
        end * tensor.itemsize > tensor.untyped_storage().nbytes()
    ):  # it begins within a slot: the last one is cut off
        return None
    return tensor.as_strided((evaluations, rows, samples), (rows * samples, samples, 1))


def _slots_or_copy(tensor: Tensor) -> Tensor:
    lying = _slots(tensor)
    return tensor.transpose(1, 2).contiguous() if lying is None else lying


def _in_fixed_runs(base: Tensor) -> tuple[np.ndarray, np.ndarray]:
    """``layout.in_runs`` in fixed point, int16 [⌈N/32⌉, in, 32], and its scales, float32 [⌈N/32⌉, 32]."""
    samples, inner = base.shape
    runs = (samples + LANES - 1) // LANES
    short = np.empty((runs, (inner + 31) // 32 * 32, LANES), np.int16)
    scale = np.empty((runs, LANES), np.float32)
    alone = base.numel() < SMALL_ELEMENTS
    together(fixed_runs, (short, scale, base.contiguous().numpy()), runs, alone=alone)
    return short, scale


_NO_RUNS = np.empty((0, 0, LANES), np.float32)
_NO_FIXED_RUNS = np.empty((0, 0, LANES), np.int16), np.empty((0, LANES), np.float32)


def _stack(weight: Tensor, out: Tensor) -> Tensor | None:
    """A small W in the differences' dtype, [copies, out, in], for all threads; None if they cast it in tiles.

    torch multiplies a batch by one float32 matrix as it stands, but makes a copy of a bfloat16 matrix for
    every member of the batch, again in every call.
    """
    if weight.numel() > TILE_ELEMENTS or (out.dtype != torch.float32 and is_emulated()):
        return None
    if out.dtype == weight.dtype == torch.float32:
        return factor(weight).expand(out.shape[0], -1, -1)
    copies = min(out.shape[0], copies_of(weight.numel() * out.itemsize, out.shape[1], out.nbytes))
    return torch.empty(copies, *weight.shape, dtype=out.dtype, device="cpu").copy_(weight)


def _run_signs(layer: Layer) -> None:
    d, rows, inner = layer.directions, *layer.weight.shape
    words = [tensor_word(i) if i >= 0 else -1 for i in (layer.weight_id, layer.bias_id)]
    arguments = (
        layer.out, layer.moved, layer.packed, layer.base, *layer.fixed, rows, inner, layer.samples, *layer.terms,
        layer.kind, layer.signed_eps, layer.sides, *words, layer.transposed, key_of(d), d.first,
    )  # fmt: skip
    # Directions of a first layer share tables, those of another have nothing in common.
    grain = max(1, min(SHARED_ROWS // rows, d.num // MIN_PIECES)) if layer.difference is None else 1
    run_layer(layer, _signs_kernel, arguments, grain)


@shared
def _signs_kernel(
    product, out, difference, packed, base, short, scale, rows, inner, samples, a, first_term, second_term, kind,
    signed_eps, sides, weight_word, bias_word, transposed, key, first_direction, start, stop,
):  # fmt: skip
    """Directions start … stop - 1 of one layer.

    ``product`` holds their W @ δ; it is empty if W is ``packed``, and in a first layer. In bfloat16 the inputs of U
    are in fixed point: those of a first layer come so, once for all directions.
    """
    carried, inline = difference.shape[0] > 0, packed.shape[0] > 0
    runs = (samples + LANES - 1) // LANES
    padded_rows, width = (rows + 3) // 4 * 4, (inner + 31) // 32
    shared = 1 if carried else max(1, min(SHARED_ROWS // padded_rows, stop - start))
    together = max(1, min(runs, TOTALS_ELEMENTS // (LANES * shared * padded_rows)))
    words = np.zeros((shared, padded_rows, width), np.uint32)
    all_words = words.reshape(shared * padded_rows, width)
    bias_words = np.zeros((shared, 4, (rows + 31) // 32), np.uint32)
    bias = np.zeros((shared, rows), np.float32)
    narrow = out.itemsize == 2
    moved = np.zeros((32 * width if carried else 0, LANES), np.float32)
    totals = line_of_floats(together * shared * padded_rows * LANES)
    totals[:] = float32(0.0)
    totals = totals.reshape(together, shared * padded_rows, LANES)
    tables = line_of_floats(TABLES)
    first_column = intp(0)  # a variable, or the epilogue would be compiled for it apart
    made = np.empty((packed.shape[0] * packed.shape[2], together * LANES), np.float32)
    pairs = np.zeros((packed.shape[1], LANES), np.uint32)
    if narrow and carried:
        short, scale = np.zeros((1, 32 * width, LANES), np.int16), np.zeros((1, LANES), np.float32)
    inverse = np.empty(LANES, np.float32)
    for first in range(start, stop, shared):
        count = min(shared, stop - first)
        index = first_direction + first
        if weight_word >= 0:
            draw_signs(words[:count], transposed, inner, weight_word, index, key)
        if bias_word >= 0:
            sign_words(bias_words[:count], 0, bias_word, index, key)
            for k in range(count):
                for row in range(rows):
                    bit = (bias_words[k, 0, row // 32] >> uint32(row % 32)) & uint32(1)
                    bias[k, row] = float32(1.0) if bit else float32(-1.0)
        for side in range(sides if carried else 1):
            for first_run in range(0, runs, together):
                sample = first_run * LANES
                lanes = min(together * LANES, samples - sample)
                if weight_word >= 0:
                    for run in range(first_run, min(first_run + together, runs)):
                        at, fixed = run - first_run, 0 if carried else run
                        drawn_rows = all_words[: count * padded_rows]
                        if carried:
                            source = difference[first * sides + side]
                            gather(moved, base[run], source, inner, run * LANES, samples)
                            if narrow:
                                to_fixed_point(short[0], scale[0], moved, inverse)
                        if narrow:
                            fixed_sign_product(totals[at], drawn_rows, short[fixed], scale[fixed], tables)
                        else:
                            x = moved if carried else base[run]
                            sign_product(totals[at : at + 1], 0, drawn_rows, x, tables, LANES)
                if inline:
                    for run in range(first_run, min(first_run + together, runs)):
                        pack_run(pairs, difference[first * sides + side], inner, run * LANES, samples)
                        pair_product(made, (run - first_run) * LANES, packed, pairs)
                for k in range(count):
                    sums = totals[:, k * padded_rows : k * padded_rows + rows]
                    p = (first + k) * sides + side
                    if inline:
                        finish(
                            out[p], made, first_column, carried, sums, bias[k], signed_eps[p], sample, lanes,
                            a, first_term, second_term, kind,
                        )  # fmt: skip
                    elif carried:
                        finish(
                            out[p], product[p - start * sides], sample, carried, sums, bias[k], signed_eps[p],
                            sample, lanes, a, first_term, second_term, kind,
                        )  # fmt: skip
                    else:
                        for s in range(sides):
                            finish(
                                out[p + s], made, first_column, carried, sums, bias[k], signed_eps[p + s], sample,
                                lanes, a, first_term, second_term, kind,
                            )  # fmt: skip
