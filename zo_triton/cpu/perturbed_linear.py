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

TOTALS_ELEMENTS = 1 << 13
"""Float32 totals of a sign product that the epilogue takes together: 64 KiB, 64 samples of 256 features."""

DRAWN_ROWS = 64
"""Rows of packed signs that are drawn at a time, a multiple of 4."""

SHARED_ROWS = 256
"""Rows of U that share one set of tables in a first layer: their float32 totals for 32 samples take 32 KiB."""

GROUP_ELEMENTS = 1 << 18
"""Elements of W @ δ that one GEMM makes before the epilogue takes them from the cache."""

SCRATCH_SHARE = 16
"""W @ δ that waits for its epilogue, and copies of W: each may take one part in so many of the result."""

SMALL_BYTES = 1 << 17
"""What either may take beside however small a result."""


@dataclass(frozen=True)
class _Layer:
    """One call, in the engine's layout; arrays view the tensors' memory."""

    directions: Directions
    sides: int
    signed_eps: np.ndarray
    out: np.ndarray  # [P, at least out, N]
    base: np.ndarray  # float32 [in, N], or for signs [N / 32, in, 32], in and N rounded up to multiples of 32
    difference: Tensor | None  # [P, at least in, N]
    weight: Tensor  # [out, in]
    stack: Tensor | None  # [copies, out, in], see _stack
    weight_id: int
    bias_id: int
    terms: tuple[np.ndarray, np.ndarray, np.ndarray]  # [out, N] each, what the activation reads of the base
    kind: int
    dtype: torch.dtype
    samples: int

    @property
    def evaluation_bytes(self) -> int:
        """Size of one evaluation's result."""
        return self.weight.shape[0] * self.samples * self.dtype.itemsize

    def scratch(self, directions: int) -> int:
        """Bytes that one buffer may take for the sake of so many of the directions."""
        result = self.directions.num * self.sides * self.evaluation_bytes
        return _scratch(result) * directions // self.directions.num

    def group(self, directions: int) -> int:
        """Directions whose W @ δ a thread with so many of them makes before it runs their epilogue."""
        most = min(GROUP_ELEMENTS * self.dtype.itemsize, self.scratch(directions))
        return max(1, most // max(1, self.sides * self.evaluation_bytes))


def _scratch(result: int) -> int:
    return max(SMALL_BYTES, result // SCRATCH_SHARE)


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
    signs = directions.elementwise == "rademacher" and directions.rank is None
    base = base.detach().float()
    z = base_output.float().t().contiguous() if base_output is not None else base.new_empty(0, 0)
    first, second = base_terms(z, activation)
    layer = _Layer(
        directions=directions,
        sides=signed_eps.numel() // directions.num,
        signed_eps=signed_eps.numpy(),
        out=as_array(result),
        base=(_in_runs(base) if signs else base.t().contiguous()).numpy(),
        difference=None if difference is None else _slots_or_copy(difference),
        weight=weight.detach(),
        stack=None if difference is None else _stack(weight.detach(), out),
        weight_id=weight_id,
        bias_id=bias_id,
        terms=(z.numpy(), first.numpy(), second.numpy()),
        kind=NAMES.index(activation),
        dtype=out.dtype,
        samples=base.shape[0],
    )
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


def _in_runs(base: Tensor) -> Tensor:
    """[N, in] as [⌈N/32⌉, in, 32], what the sign product reads; N and in filled up to multiples of 32."""
    samples, inner = base.shape
    runs = torch.empty((samples + LANES - 1) // LANES, (inner + 31) // 32 * 32, LANES)
    runs[:, inner:] = 0.0
    runs[-1:, :, (samples - 1) % LANES + 1 :] = 0.0
    for run in range(runs.shape[0]):
        part = base[run * LANES : (run + 1) * LANES]
        runs[run, :inner, : part.shape[0]] = part.t()
    return runs


def _stack(weight: Tensor, out: Tensor) -> Tensor | None:
    """A small W in the differences' dtype, [copies, out, in], for all threads; None if they cast it in tiles.

    torch multiplies a batch by one float32 matrix as it stands, but makes a copy of a bfloat16 matrix for
    every member of the batch, again in every call.
    """
    if weight.numel() > TILE_ELEMENTS:
        return None
    if out.dtype == weight.dtype == torch.float32:
        return weight.expand(out.shape[0], -1, -1)
    size = max(1, weight.numel() * out.dtype.itemsize)
    copies = min(out.shape[0], _scratch(out.numel() * out.dtype.itemsize) // size)
    return torch.empty(max(1, copies), *weight.shape, dtype=out.dtype).copy_(weight)


def _run_signs(layer: _Layer, start: int, stop: int) -> None:
    d, rows, inner = layer.directions, *layer.weight.shape
    words = [tensor_word(i) if i >= 0 else -1 for i in (layer.weight_id, layer.bias_id)]
    product = torch.empty(0, 0, 0, dtype=layer.dtype)
    scratch = layer.scratch(stop - start)
    group = layer.group(stop - start) if layer.difference is not None else stop - start
    for first in range(start, stop, group):
        last = min(stop, first + group)
        difference = _difference_or_none(layer)
        if layer.difference is not None:
            product = _carried(layer, first, last, scratch, product)
        _signs_kernel(
            layer.out, as_array(difference), as_array(product), layer.base, rows, inner, layer.samples,
            *layer.terms, layer.kind, layer.signed_eps, layer.sides, words[0], words[1], key_of(d), d.first,
            first, last,
        )  # fmt: skip


def _carried(layer: _Layer, first: int, last: int, scratch: int, buffer: Tensor) -> Tensor:
    """W @ δ for some directions, [their evaluations, out, N], in ``buffer`` if that is large enough.

    A large W is cast a tile of rows at a time; torch may take ``scratch`` bytes for its copies of a tile.
    """
    assert layer.difference is not None
    rows, inner = layer.weight.shape
    moved = layer.difference[first * layer.sides : last * layer.sides, :inner]
    count = moved.shape[0]
    if buffer.shape[0] < count:
        buffer = torch.empty(count, rows, layer.samples, dtype=layer.dtype)
    tile = rows if layer.stack is not None else max(1, TILE_ELEMENTS // inner)
    for row in range(0, rows, tile):
        weight = layer.stack
        if weight is None:
            cast = layer.weight[row : row + tile].to(layer.dtype)
            copied = layer.dtype != torch.float32
            copies = max(1, scratch // (cast.numel() * cast.itemsize)) if copied else count
            weight = cast.expand(copies, -1, -1)
        for p in range(0, count, weight.shape[0]):
            some = moved[p : p + weight.shape[0]]
            torch.bmm(weight[: some.shape[0]], some, out=buffer[p : p + some.shape[0], row : row + tile])
    return buffer


def _difference_or_none(layer: _Layer) -> Tensor:
    return torch.empty(0, 0, 0, dtype=layer.dtype) if layer.difference is None else layer.difference


@kernel
def _signs_kernel(
    out, difference, product, base, rows, inner, samples, a, first_term, second_term, kind, signed_eps, sides,
    weight_word, bias_word, key, first_direction, start, stop,
):  # fmt: skip
    """Directions start … stop - 1 of one layer; ``product`` holds their W @ δ, or is empty."""
    carried = product.shape[0] > 0
    runs = base.shape[0]
    padded_rows, width = (rows + 3) // 4 * 4, (inner + 31) // 32
    shared = 1 if carried else max(1, min(SHARED_ROWS // padded_rows, stop - start))
    together = max(1, min(runs, TOTALS_ELEMENTS // (LANES * shared * padded_rows)))
    words = np.zeros((shared * padded_rows, width), np.uint32)
    bias_words = np.zeros((4, (rows + 31) // 32), np.uint32)
    bias = np.zeros((shared, rows), np.float32)
    moved = np.zeros((32 * width if carried else 0, LANES), np.float32)
    totals = np.zeros((together, shared * padded_rows, LANES), np.float32)
    tables = np.empty((GROUPS, 16, LANES), np.float32)
    for first in range(start, stop, shared):
        count = min(shared, stop - first)
        for k in range(count):
            index = first_direction + first + k
            if weight_word >= 0:
                # In pieces, since drawing takes as much scratch again as it draws.
                for row in range(0, padded_rows, DRAWN_ROWS):
                    drawn = words[
                        k * padded_rows + row : k * padded_rows + min(row + DRAWN_ROWS, padded_rows)
                    ]
                    sign_words(drawn, row // 4, weight_word, index, key)
            if bias_word >= 0:
                sign_words(bias_words, 0, bias_word, index, key)
                for row in range(rows):
                    bit = (bias_words[0, row // 32] >> uint32(row % 32)) & uint32(1)
                    bias[k, row] = float32(1.0) if bit else float32(-1.0)
        for side in range(sides if carried else 1):
            for first_run in range(0, runs, together):
                sample = first_run * LANES
                lanes = min(together * LANES, samples - sample)
                if weight_word >= 0:
                    for run in range(first_run, min(first_run + together, runs)):
                        x = base[run]
                        if carried:
                            _gather(moved, x, difference[first * sides + side], inner, run * LANES, samples)
                            x = moved
                        at = run - first_run
                        sign_product(totals[at : at + 1], 0, words[: count * padded_rows], x, tables, LANES)
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
def _gather(x, base, difference, rows, sample, samples):
    """X = a + δ for a run of 32 samples, [at least rows, 32] each; difference [at least rows, N]."""
    at, lanes = uintp(sample), min(LANES, samples - sample)
    for row in range(rows):
        target, source, moved = x[row], base[row], difference[row]
        for j in range(lanes):
            target[j] = source[j] + load(moved[at + uintp(j)])


@device
def _finish(out, product, carried, sums, bias, step, sample, lanes, a, first_term, second_term, kind):
    """out[:, sample …] = activation(W @ δ + step·(U @ (a+δ) + v)) for one evaluation.

    out: [at least rows, N]. product: [rows, N], W @ δ, read if ``carried``. sums: float32 [runs, rows, samples a
    run], U @ (a+δ) for these samples.
    """
    # Unsigned offsets: a signed one could be negative, and Numba would test each element for that.
    at, width = uintp(sample), sums.shape[2]
    steps = np.empty(sums.shape[0] * width, np.float32)
    whole = lanes // WIDTH * WIDTH if kind in (NONE, RELU) else 0
    for row in range(sums.shape[1]):
        shift, target, moved = bias[row], out[row], product[row]
        for j in range(0, whole, WIDTH):
            # By address: a slice for each vector would cost more than the vector.
            place = row * out.shape[1] + sample + j
            sums_at = (
                sums.ctypes.data + (j // width) * sums.strides[0] + row * sums.strides[1] + j % width * 4
            )
            finish_run(
                uintp(out.ctypes.data + place * out.itemsize), uintp(product.ctypes.data + place * out.itemsize),
                uintp(sums_at), uintp(a.ctypes.data + place * 4), step, shift, carried, kind == RELU,
                out.itemsize == 2,
            )  # fmt: skip
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
            product = _carried(layer, k, k + 1, layer.scratch(1), product)
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
    """Inputs [in, max(1, sides)·N] = a + δ of the evaluations p, p + 1 …, or just a with no sides."""
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
