"""Δz = δWᵀ + sε·(a+δ)Uᵀ + sε·v for every evaluation, and the activation's exact difference.

Inside the engine everything is feature-major: differences lie as [P, features, N], so that samples fill the
vector lanes, a layer is W @ δ, and an evaluation is one piece of memory. Each thread takes a share of the
directions. Signs go through the table product of ``signs``; other distributions are drawn a tile of rows
at a time and multiplied by torch's GEMM.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from numba import float32, uint32, uintp
from torch import Tensor

from zo_triton.cpu.activation import NAMES, NONE, RELU, activate, base_terms
from zo_triton.cpu.arrays import as_array, draw
from zo_triton.cpu.compiling import device, kernel
from zo_triton.cpu.field import code_of, fill_matrix, key_of, sign_words
from zo_triton.cpu.scalars import load, store
from zo_triton.cpu.signs import GROUPS, sign_product
from zo_triton.cpu.threads import parallel
from zo_triton.cpu.vectors import LANES, WIDTH, finish_run
from zo_triton.directions import PART_LEFT, PART_RIGHT, Directions, tensor_word

TILE_ELEMENTS = 1 << 18
"""Weights that are cast, or drawn, at a time: 512 KiB in bfloat16, half of a level-2 cache."""

BLOCK = 128
"""Samples that go through the sign product and its epilogue together."""

SHARED_ROWS = 256
"""Rows of U that share one set of tables in a first layer: their float32 totals for 32 samples take 32 KiB."""

GROUP_ELEMENTS = 1 << 18
"""Elements of W @ δ that one GEMM makes before the epilogue takes them from the cache."""


@dataclass(frozen=True)
class _Layer:
    """One call, in the engine's layout; arrays view the tensors' memory."""

    directions: Directions
    sides: int
    signed_eps: np.ndarray
    out: np.ndarray  # [P, at least out, N]
    base: np.ndarray  # [in, N] float32
    difference: Tensor | None  # [P, at least in, N]
    weight: Tensor  # [out, in]
    weight_id: int
    bias_id: int
    terms: tuple[np.ndarray, np.ndarray, np.ndarray]  # [out, N] each, what the activation reads of the base
    kind: int
    dtype: torch.dtype

    @property
    def samples(self) -> int:
        return self.base.shape[1]

    @property
    def group(self) -> int:
        """Directions that go through one GEMM."""
        return max(1, GROUP_ELEMENTS // max(1, self.sides * self.samples * self.weight.shape[0]))


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
) -> None:
    """Same contract as the reference; fastest if ``out`` and ``difference`` lie in memory as [P, F, N].

    An evaluation of ``out`` may share the front of the same evaluation of ``difference`` (see
    ``ops.perturbed_linear``): each is read, whole, before it is written.
    """
    lying = _slots(out)
    result = (
        torch.empty(out.shape[0], out.shape[2], out.shape[1], dtype=out.dtype) if lying is None else lying
    )
    z = base_output.float().t().contiguous() if base_output is not None else base.new_empty(0, 0)
    layer = _Layer(
        directions=directions,
        sides=signed_eps.numel() // directions.num,
        signed_eps=signed_eps.numpy(),
        out=as_array(result),
        base=base.detach().float().t().contiguous().numpy(),
        difference=None if difference is None else _slots_or_copy(difference),
        weight=weight.detach(),
        weight_id=weight_id,
        bias_id=bias_id,
        terms=(z.numpy(), *(term.numpy() for term in base_terms(z, activation))),
        kind=NAMES.index(activation),
        dtype=out.dtype,
    )
    signs = directions.elementwise == "rademacher" and directions.rank is None
    parallel(lambda start, stop: (_run_signs if signs else _run_dense)(layer, start, stop), directions.num)
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
    return tensor.as_strided((evaluations, rows, samples), (rows * samples, samples, 1))


def _slots_or_copy(tensor: Tensor) -> Tensor:
    lying = _slots(tensor)
    return tensor.transpose(1, 2).contiguous() if lying is None else lying


def _run_signs(layer: _Layer, start: int, stop: int) -> None:
    d = layer.directions
    words = [tensor_word(i) if i >= 0 else -1 for i in (layer.weight_id, layer.bias_id)]
    product = torch.empty(0, 0, 0, dtype=layer.dtype)
    group = layer.group if layer.difference is not None else stop - start
    for first in range(start, stop, group):
        last = min(stop, first + group)
        difference = _difference_or_none(layer)
        if layer.difference is not None:
            product = _carried(layer, first, last, product)
        _signs_kernel(
            layer.out, as_array(difference), as_array(product), layer.base, layer.weight.shape[0], *layer.terms,
            layer.kind, layer.signed_eps, layer.sides, words[0], words[1], key_of(d), d.first, first, last,
        )  # fmt: skip


def _carried(layer: _Layer, first: int, last: int, buffer: Tensor) -> Tensor:
    """W @ δ for some directions, [their evaluations, out, N]; W is cast a tile of rows at a time."""
    assert layer.difference is not None
    rows, inner = layer.weight.shape
    moved = layer.difference[first * layer.sides : last * layer.sides, :inner]
    count = moved.shape[0]
    if buffer.shape[0] < count:
        buffer = torch.empty(count, rows, layer.samples, dtype=layer.dtype)
    tile = max(1, TILE_ELEMENTS // inner)
    for row in range(0, rows, tile):
        weight = layer.weight[row : row + tile].to(layer.dtype)
        torch.bmm(weight.expand(count, -1, -1), moved, out=buffer[:count, row : row + tile])
    return buffer


def _difference_or_none(layer: _Layer) -> Tensor:
    return torch.empty(0, 0, 0, dtype=layer.dtype) if layer.difference is None else layer.difference


@kernel
def _signs_kernel(
    out, difference, product, base, rows, a, first_term, second_term, kind, signed_eps, sides,
    weight_word, bias_word, key, first_direction, start, stop,
):  # fmt: skip
    """Directions start … stop - 1 of one layer; ``product`` holds their W @ δ, or is empty."""
    inner, samples = base.shape
    carried = product.shape[0] > 0
    block = min(BLOCK, (samples + LANES - 1) // LANES * LANES)
    padded_rows, width = (rows + 3) // 4 * 4, (inner + 31) // 32
    shared = 1 if carried else max(1, min(SHARED_ROWS // padded_rows, stop - start))
    words = np.zeros((shared * padded_rows, width), np.uint32)
    bias_words = np.zeros((4, (rows + 31) // 32), np.uint32)
    bias = np.zeros((shared, rows), np.float32)
    x = np.zeros((32 * width, block), np.float32)
    totals = np.zeros((block // LANES, shared * padded_rows, LANES), np.float32)
    tables = np.empty((GROUPS, 16, LANES), np.float32)
    for first in range(start, stop, shared):
        count = min(shared, stop - first)
        for k in range(count):
            index = first_direction + first + k
            if weight_word >= 0:
                sign_words(words[k * padded_rows : (k + 1) * padded_rows], 0, weight_word, index, key)
            if bias_word >= 0:
                sign_words(bias_words, 0, bias_word, index, key)
                for row in range(rows):
                    bit = (bias_words[0, row // 32] >> uint32(row % 32)) & uint32(1)
                    bias[k, row] = float32(1.0) if bit else float32(-1.0)
        for side in range(sides if carried else 1):
            for sample in range(0, samples, block):
                lanes = min(block, samples - sample)
                rounded = (lanes + LANES - 1) // LANES * LANES
                if weight_word >= 0:
                    _gather(x, base, difference, carried, first * sides + side, sample, lanes)
                    sign_product(totals, words[: count * padded_rows], x, tables, rounded)
                for k in range(count):
                    sums = totals[:, k * padded_rows : k * padded_rows + rows]
                    p = (first + k) * sides + side
                    if carried:
                        q = p - start * sides
                        _finish(
                            out[p], product[q], True, sums, bias[k], signed_eps[p], sample, lanes,
                            a, first_term, second_term, kind,
                        )  # fmt: skip
                    else:
                        for s in range(sides):
                            _finish(
                                out[p + s], out[p + s], False, sums, bias[k], signed_eps[p + s], sample, lanes,
                                a, first_term, second_term, kind,
                            )  # fmt: skip


@device
def _gather(x, base, difference, carried, p, sample, lanes):
    """x = a, or a + δ of evaluation p, for a run of samples; lanes beyond the last sample stay as they are."""
    at = uintp(sample)
    for row in range(base.shape[0]):
        target, source = x[row], base[row]
        if carried:
            moved = difference[p, row]
            for j in range(lanes):
                target[j] = source[at + uintp(j)] + load(moved[at + uintp(j)])
        else:
            for j in range(lanes):
                target[j] = source[at + uintp(j)]


@device
def _finish(out, product, carried, sums, bias, step, sample, lanes, a, first_term, second_term, kind):
    """out[:, sample …] = activation(W @ δ + step·(U @ (a+δ) + v)) for one evaluation.

    out: [at least rows, N]. product: [rows, N], W @ δ, read if ``carried``. sums: float32 [runs, rows, samples a
    run], U @ (a+δ) for these samples.
    """
    # Unsigned offsets: a signed one could be negative, and Numba would test each element for that.
    at, width = uintp(sample), sums.shape[2]
    steps = np.empty(sums.shape[0] * width, np.float32)
    whole = lanes // WIDTH * WIDTH if kind == NONE or kind == RELU else 0
    for row in range(sums.shape[1]):
        shift, target, moved = bias[row], out[row], product[row]
        for j in range(0, whole, WIDTH):
            here = sample + j
            base_at = a[row, here:].ctypes.data if kind == RELU else sums.ctypes.data
            sums_at = sums[j // width, row, j % width :].ctypes.data
            finish_run(target[here:], moved[here:], sums_at, base_at, step, shift, carried, kind == RELU)
        if whole == lanes:
            continue
        for j in range(whole, lanes):
            steps[j] = step * (sums[j // width, row, j % width] + shift)
        if carried:
            for j in range(whole, lanes):
                steps[j] += load(moved[at + uintp(j)])
        if kind != NONE:
            rest = at + uintp(whole)
            activate(steps[whole:], a[row], first_term[row], second_term[row], rest, lanes - whole, kind)
        for j in range(whole, lanes):
            store(target, at + uintp(j), steps[j])


def _run_dense(layer: _Layer, start: int, stop: int) -> None:
    """One direction after the other: its U a tile of rows at a time, both sides from the same tile."""
    d, rows = layer.directions, layer.weight.shape[0]
    samples, sides = layer.samples, layer.sides
    key, code = key_of(d), code_of(d)
    product = torch.empty(0, 0, 0, dtype=layer.dtype)
    carried = layer.difference is not None
    inputs = torch.empty(layer.base.shape[0], (sides if carried else 1) * samples, dtype=layer.dtype)
    moved = torch.zeros(rows, inputs.shape[1], dtype=layer.dtype)
    bias = np.zeros((1, rows), np.float32)
    source = _difference_or_none(layer)
    if not carried:
        _inputs_kernel(as_array(inputs), layer.base, as_array(source), 0, 0)
    for k in range(start, stop):
        if carried:
            product = _carried(layer, k, k + 1, product)
            _inputs_kernel(as_array(inputs), layer.base, as_array(source), k * sides, sides)
        if layer.weight_id >= 0:
            _times_direction(moved, inputs, layer, d.first + k)
        if layer.bias_id >= 0:
            fill_matrix(bias, 0, tensor_word(layer.bias_id), d.first + k, key, code)
            if layer.dtype == torch.bfloat16:
                bias = torch.from_numpy(bias).to(torch.bfloat16).float().numpy()
        _finish_kernel(
            layer.out,
            as_array(product),
            as_array(moved),
            bias[0],
            layer.signed_eps,
            sides,
            k,
            *layer.terms,
            layer.kind,
        )


def _times_direction(moved: Tensor, inputs: Tensor, layer: _Layer, index: int) -> None:
    """``moved = U @ inputs`` for one direction, full or low rank."""
    d, (rows, inner) = layer.directions, layer.weight.shape
    if d.rank is not None:
        left = draw(d, index, layer.weight_id, PART_LEFT, (rows, d.rank), layer.dtype)
        right = draw(d, index, layer.weight_id, PART_RIGHT, (inner, d.rank), layer.dtype)
        small = right.t().float() @ inputs.float() / d.rank**0.5
        torch.mm(left, small.to(layer.dtype), out=moved)
        return
    height = max(4, TILE_ELEMENTS // inner // 4 * 4)
    tile = torch.empty(min(height, rows), inner, dtype=layer.dtype)
    for row in range(0, rows, height):
        part = tile[: rows - row]
        fill_matrix(as_array(part), row, tensor_word(layer.weight_id), index, key_of(d), code_of(d))
        torch.mm(part, inputs, out=moved[row : row + height])


@kernel
def _inputs_kernel(inputs, base, difference, p, sides):
    """inputs [in, max(1, sides)·N] = a + δ of the evaluations p, p + 1 …, or just a with no sides."""
    samples = base.shape[1]
    for row in range(base.shape[0]):
        for s in range(max(1, sides)):
            target = inputs[row, s * samples : (s + 1) * samples]
            for j in range(samples):
                value = base[row, j]
                if sides > 0:
                    value += load(difference[p + s, row, j])
                store(target, j, value)


@kernel
def _finish_kernel(out, product, moved, bias, signed_eps, sides, k, a, first_term, second_term, kind):
    """The epilogue of one direction: moved [out, N or sides·N] is U @ inputs, product its W @ δ."""
    rows, samples = moved.shape[0], out.shape[2]
    carried = product.shape[0] > 0
    sums = np.empty((1, rows, samples), np.float32)
    for s in range(sides):
        p = k * sides + s
        source = s * samples if carried else 0
        for row in range(rows):
            for j in range(samples):
                sums[0, row, j] = load(moved[row, source + j])
        if carried:
            _finish(
                out[p], product[s], True, sums, bias, signed_eps[p], 0, samples, a, first_term, second_term, kind
            )  # fmt: skip
        else:
            _finish(
                out[p], out[p], False, sums, bias, signed_eps[p], 0, samples, a, first_term, second_term, kind
            )
