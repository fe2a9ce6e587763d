"""One perturbed linear layer in torch's own order: differences lie as [P, N, features], as everything around them.

An evaluation is δWᵀ, written where the result lies, and then what its direction adds. It is cut into runs of
samples that lie near in the caches from the product to the activation; where it is cut depends on the layer alone,
so neither the directions that come together nor the threads change a sum.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from zo_triton._precision import factor, rounds_factors
from zo_triton.cpu.activating import activate_rows, kind_of
from zo_triton.cpu.activation import NONE, base_terms
from zo_triton.cpu.arrays import as_array, draw, draw_factors, steps_of
from zo_triton.cpu.bfloat16 import is_emulated, is_native
from zo_triton.cpu.compiling import kernel
from zo_triton.cpu.field import code_of, fill_matrix, key_of
from zo_triton.cpu.layer import TILE_ELEMENTS
from zo_triton.cpu.matrix_unit import has_matrix_unit
from zo_triton.cpu.natural_signs import (
    SMALL_PIECE,
    SMALL_PRODUCT,
    draw_kernel,
    layer_kernel,
    signs_kernel,
)
from zo_triton.cpu.natural_tiles import noise_tiles, packed, product_kernel, tiles_kernel
from zo_triton.cpu.panels import in_panels
from zo_triton.cpu.scalars import store
from zo_triton.cpu.squares import most_parts
from zo_triton.cpu.threads import parallel, together
from zo_triton.cpu.tiles import DEPTH, PARTS, padded
from zo_triton.cpu.vectors import LANES
from zo_triton.directions import PART_WHOLE, Directions, tensor_word

RUN_SAMPLES = 512
"""Of an evaluation at a time: in shorter runs the product, which packs all of W for each, takes a tenth longer."""

DEEPEST, LARGEST, WEIGHTS_A_SAMPLE = 1024, 1 << 20, 1024
"""Inputs, weights, and weights for each sample up to which factors in parts gain, and U is drawn as a whole.

Parts take one and a half times the memory of float32: those of larger layers stay in no near cache, and those of
weights which few samples meet take longer to make than they save. So do those of fewer inputs than a tile is deep.
"""

FEW_DIRECTIONS = 8
"""With fewer of them threads share the runs of a direction: its signs take a hundredth of its products' time."""

MOST_COPIED = 1 << 22
"""Weights, 16 MiB, that are copied for a product of the engine's own."""


class NaturalLayer(NamedTuple):
    """One call; W and U are matrices [out, in] here, however the parameter is stored.

    Attributes:
        out: [P, N, out], contiguous.
        base: Float32 [N, in], contiguous.
        difference: [P, N, in] in the dtype of ``out``.
        weight: Wᵀ, [in, out] in the dtype that products are made in.
        tiles: The same as a right factor for squares of products; empty where torch's GEMM makes them.
        terms: Float32 [N, out] each, what the activation reads of the base; empty without one.
        transposed: Whether the parameter is stored as Wᵀ, so that the field's tensor is Uᵀ.
    """

    out: Tensor
    base: Tensor
    difference: Tensor
    weight: Tensor
    tiles: np.ndarray
    directions: Directions
    weight_id: int
    bias_id: int
    signed_eps: np.ndarray
    terms: tuple[np.ndarray, np.ndarray, np.ndarray]
    kind: int
    transposed: bool

    @property
    def sides(self) -> int:
        """Evaluations of a direction."""
        return self.out.shape[0] // self.directions.num

    @property
    def rounded(self) -> bool:
        """Whether what signs multiply is rounded to fixed point: where the results, or factors, are to bfloat16."""
        return self.out.dtype != torch.float32 or rounds_factors()

    @property
    def run(self) -> int:
        """Samples in a run, a multiple of 32: an evaluation of many has two runs at least, for two threads."""
        samples = self.base.shape[0]
        runs = max(-(-samples // RUN_SAMPLES), 2 if samples >= RUN_SAMPLES // 2 else 1)
        return -(-samples // (runs * LANES)) * LANES

    @property
    def runs(self) -> int:
        """Of all evaluations."""
        return self.out.shape[0] * -(-self.base.shape[0] // self.run)

    @property
    def stored(self) -> tuple[int, int]:
        """The shape of the parameter."""
        inner, rows = self.weight.shape
        return (inner, rows) if self.transposed else (rows, inner)

    def pieces(self, start: int, stop: int) -> Iterator[tuple[int, int, Tensor, Tensor]]:
        """Of the runs start … stop - 1: the evaluation, the first sample, δ and out [samples, features].

        Few and cheap operations, since a product leaves none of the interpreter in the caches.
        """
        length, samples = self.run, self.base.shape[0]
        runs, flat = -(-samples // length), self.out.view(-1, self.out.shape[2])
        for each in range(start, stop):
            p, first = each // runs, each % runs * length
            count = min(length, samples - first)
            given = self.difference.select(0, p).narrow(0, first, count).contiguous()
            yield p, first, given, flat.narrow(0, p * samples + first, count)


def natural_linear(
    out: Tensor,
    base: Tensor,
    difference: Tensor,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    activation: str,
    transposed: bool,
) -> None:
    """As ``perturbed_linear``, for a contiguous ``out`` and a ``difference`` whose features are neighbours."""
    terms = (_NO_TERMS,) * 3
    if activation != "none":
        assert base_output is not None
        a = base_output.detach().float().contiguous()
        terms = tuple(term.contiguous().numpy() for term in (a, *base_terms(a, activation)))  # type: ignore[assignment]
    steps = steps_of(signed_eps)
    full = directions.rank is None
    signs = full and directions.signs
    dense = full and weight_id >= 0 and not signs
    paired = signs and is_native() and (out.dtype != torch.float32 or rounds_factors())
    wide = out.dtype == torch.float32 or paired or is_emulated()
    matrix, multiplied = weight.detach(), torch.float32 if wide else out.dtype
    if matrix.dtype != multiplied and not (paired and matrix.dtype == torch.bfloat16):
        matrix = matrix.to(multiplied)
    turned = matrix if transposed else matrix.T
    # U as a whole would take too much memory; in the unit, torch's own product of rounded factors is as quick.
    fits = turned.numel() <= LARGEST if dense else signs or not has_matrix_unit()
    fits = fits and out.dtype == torch.float32 and not paired
    parts = _parts(base.shape[0], *turned.shape) if fits else 0
    layer = NaturalLayer(
        out, base.detach().float().contiguous(), difference.detach(), turned if parts or paired else factor(turned),
        packed(turned, parts) if parts else _NO_TILES, directions, weight_id, bias_id, steps, terms,
        kind_of(activation), transposed,
    )  # fmt: skip
    if parts and dense:
        parallel(partial(_run_dense_tiles, layer), directions.num)
    elif parts and has_matrix_unit():
        parallel(partial(_run_tiles, layer), layer.runs)
    elif paired or (signs and _is_compiled(layer)):
        _run_compiled(layer, paired)
    elif dense:
        parallel(partial(_run_dense, layer), directions.num)
    else:
        parallel(partial(_run_signs if signs else _run_thin, layer), layer.runs)


def _parts(samples: int, inner: int, rows: int) -> int:
    """In how many parts factors are multiplied; 0 if torch's GEMM and tables of signs are quicker."""
    if rounds_factors():
        return min(1, most_parts())
    if most_parts() < PARTS:
        return 0
    fits = DEPTH <= inner <= DEEPEST and inner * rows <= min(LARGEST, WEIGHTS_A_SAMPLE * samples)
    return PARTS if fits else 0


def _is_compiled(layer: NaturalLayer) -> bool:
    """Whether the engine's own product of floats is the quicker one, where signs are.

    In float32 it is where there are pairs and no matrix unit, on AMD's processors: torch's is not made for them
    (measured on Zen 4: a layer takes 0.75 to 0.95 of the time). It takes a copy of W, for a vocabulary a large one.
    """
    size = layer.weight.numel()
    if rounds_factors():
        return False
    if layer.out.dtype == torch.float32 and is_native():
        return size <= MOST_COPIED
    return layer.run * size <= SMALL_PRODUCT


_NO_TERMS = np.empty((0, 0), np.float32)
_NO_TILES = np.empty((0, 0, 0, 0, 0), np.uint32)


def _run_signs(layer: NaturalLayer, start: int, stop: int) -> None:
    """Runs start … stop - 1, those of an evaluation one after the other."""
    d, (inner, rows), drawn, rounded = layer.directions, layer.weight.shape, -1, layer.rounded
    out, base, key = as_array(layer.out), layer.base.numpy(), key_of(d)
    moved = as_array(layer.difference) if layer.difference.is_contiguous() else None
    words = np.zeros((1, -(-rows // 4) * 4 if layer.weight_id >= 0 else 0, -(-inner // 32)), np.uint32)
    bias = np.zeros(rows, np.float32)
    ids = [tensor_word(i) if i >= 0 else -1 for i in (layer.weight_id, layer.bias_id)]
    for p, first, given, target in layer.pieces(start, stop):
        if p // layer.sides != drawn:
            drawn = p // layer.sides
            draw_kernel(words, bias, layer.transposed, inner, *ids, d.first + drawn, key)
        _product(layer, given, target)
        where = (as_array(given[None]), 0, 0) if moved is None else (moved, p, first)
        signs_kernel(
            out, p, first, len(given), base, *where, words, bias, layer.signed_eps, rounded,
            *layer.terms, layer.kind,
        )  # fmt: skip


def _run_compiled(layer: NaturalLayer, paired: bool) -> None:
    """The same for all runs in one call, which makes the products as well: of pairs of bfloat16, or of float32."""
    d, run, count = layer.directions, layer.run, layer.runs
    ids = [tensor_word(i) if i >= 0 else -1 for i in (layer.weight_id, layer.bias_id)]
    arguments = (
        as_array(layer.out), layer.base.numpy(), as_array(layer.difference.contiguous()),
        in_panels(layer.weight, paired), *ids, layer.transposed, key_of(d), d.first, layer.sides, run,
        layer.signed_eps, layer.rounded, *layer.terms, layer.kind,
    )  # fmt: skip
    work, each = max(1, run * layer.weight.numel()), count // d.num
    # Whole directions, so that none is drawn twice, unless they are so few that threads would wait.
    grain = each * (SMALL_PIECE // (each * work)) or (each if d.num >= FEW_DIRECTIONS else 1)
    together(layer_kernel, arguments, count, grain, alone=count * work < 2 * SMALL_PIECE)


def _run_tiles(layer: NaturalLayer, start: int, stop: int) -> None:
    """The same, signs too in the matrix unit, all runs in one call: a small product takes no longer than one."""
    inner, rows = layer.weight.shape
    noise, bias = noise_tiles(inner, padded(rows) if layer.weight_id >= 0 else 0), np.zeros(rows, np.float32)
    ids = [tensor_word(i) if i >= 0 else -1 for i in (layer.weight_id, layer.bias_id)]
    _multiply_tiles(layer, noise, bias, ids, start, stop)


def _run_dense_tiles(layer: NaturalLayer, start: int, stop: int) -> None:
    """Directions start … stop - 1 of other values, each drawn as a whole and packed like W."""
    d, runs = layer.directions, layer.runs // layer.directions.num
    drawn = torch.empty(layer.stored, dtype=torch.float32, device="cpu")
    for k in range(start, stop):
        fill_matrix(drawn.numpy(), 0, tensor_word(layer.weight_id), d.first + k, key_of(d), code_of(d))
        noise = packed(drawn if layer.transposed else drawn.T, layer.tiles.shape[2])
        _multiply_tiles(layer, noise, _bias(layer, d.first + k), [-1, -1], k * runs, (k + 1) * runs)


def _multiply_tiles(
    layer: NaturalLayer,
    noise: np.ndarray,
    bias: np.ndarray,
    ids: list[int],
    start: int,
    stop: int,
) -> None:
    """Runs start … stop - 1; for ids of -1 the kernel finds Uᵀ in ``noise``, and v in ``bias``."""
    d, given = layer.directions, _in_rows(layer.difference)
    lying = np.array([given.data_ptr(), given.stride(0), given.stride(1)], np.int64)
    tiles_kernel(
        as_array(layer.out), layer.base.numpy(), lying, layer.tiles, noise, bias, *ids, layer.transposed, key_of(d),
        d.first, layer.sides, layer.run, layer.signed_eps, *layer.terms, layer.kind, start, stop,
    )  # fmt: skip


def _in_rows(tensor: Tensor) -> Tensor:
    """The tensor [P, N, features], or a copy if its rows lie on one another."""
    tensor = tensor.resolve_neg()  # an address knows nothing of a sign that is still to be turned
    return tensor if tensor.stride(1) >= tensor.shape[2] else tensor.contiguous()


def _run_thin(layer: NaturalLayer, start: int, stop: int) -> None:
    """The same for U = A·Bᵀ/√r, (a+δ)Uᵀ being two thin products, and for any direction that leaves W alone."""
    d, drawn = layer.directions, -1
    for p, first, given, target in layer.pieces(start, stop):
        if p // layer.sides != drawn:
            drawn = p // layer.sides
            bias = _bias(layer, d.first + drawn)
            if layer.weight_id >= 0:
                ours = d[drawn : drawn + 1]
                left, right = draw_factors(ours, layer.weight_id, layer.stored, layer.out.dtype)
                into, onto = (left[0], right[0]) if layer.transposed else (right[0], left[0])
        _product(layer, given, target)
        sums = target.float()
        if layer.weight_id >= 0:
            thin = torch.mm(factor(layer.base[first : first + len(given)] + given), factor(into))
            torch.addmm(sums, factor(thin), factor(onto.T), alpha=float(layer.signed_eps[p]), out=sums)
        _finish_kernel(
            as_array(target), sums.numpy(), first, bias, layer.signed_eps[p], *layer.terms, layer.kind
        )


def _run_dense(layer: NaturalLayer, start: int, stop: int) -> None:
    """Directions start … stop - 1, each drawn a tile of its tensor's rows at a time, for both sides."""
    d, sides, (rows, cols), dtype = layer.directions, layer.sides, layer.stored, layer.out.dtype
    height = min(rows, max(4, TILE_ELEMENTS // cols // 4 * 4))
    drawn = torch.empty(height, cols, dtype=dtype, device="cpu")
    work = None
    if dtype != torch.float32:
        work = torch.empty(sides, *layer.out.shape[1:], dtype=torch.float32, device="cpu")
    for k in range(start, stop):
        evaluations = range(k * sides, (k + 1) * sides)
        inputs = [layer.base + layer.difference[p] for p in evaluations]
        for p in evaluations:
            _product(layer, layer.difference[p], layer.out[p])
        made = layer.out[evaluations.start : evaluations.stop]
        sums = made if work is None else work.copy_(made)
        for row in range(0, rows, height):
            tile, part = drawn[: rows - row], slice(row, row + height)
            word = tensor_word(layer.weight_id)
            fill_matrix(as_array(tile), row, word, d.first + k, key_of(d), code_of(d))
            matrix = tile.to(layer.weight.dtype)
            for p, x, total in zip(evaluations, inputs, sums, strict=True):
                if layer.transposed:
                    _add_product(total, x[:, part], matrix, layer.signed_eps[p])
                else:
                    _add_product(total[:, part], x, matrix.T, layer.signed_eps[p])
        bias = _bias(layer, d.first + k)
        for p, total in zip(evaluations, sums, strict=True):
            target = as_array(layer.out[p])
            _finish_kernel(target, total.numpy(), 0, bias, layer.signed_eps[p], *layer.terms, layer.kind)


def _product(layer: NaturalLayer, x: Tensor, out: Tensor) -> None:
    """``out = x @ Wᵀ``; out and x float32 or bfloat16."""
    matrix = layer.weight
    if layer.tiles.size:
        product_kernel(out.numpy(), x.contiguous().numpy(), layer.tiles)
    elif matrix.dtype == out.dtype:
        torch.mm(factor(x), matrix, out=out)
    else:
        out.copy_(factor(x.to(matrix.dtype)) @ matrix)


def _add_product(total: Tensor, x: Tensor, matrix: Tensor, step: np.float32) -> None:
    """``total += step·(x @ matrix)``, total and x float32, matrix in the dtype to multiply in."""
    if matrix.dtype == torch.float32:
        torch.addmm(total, factor(x), factor(matrix), alpha=float(step), out=total)
    else:
        total.add_(torch.mm(x.to(matrix.dtype), matrix), alpha=float(step))


def _bias(layer: NaturalLayer, index: int) -> np.ndarray:
    """v of one direction in float32 [out]; zeros if the bias is not trained."""
    shape = 1, layer.out.shape[2]
    if layer.bias_id < 0:
        return np.zeros(shape[1], np.float32)
    drawn = draw(layer.directions, index, layer.bias_id, PART_WHOLE, shape, layer.out.dtype)
    return drawn.float().numpy()[0]


@kernel
def _finish_kernel(out, sums, first, bias, step, a, first_term, second_term, kind):
    """``out`` = the activation's difference of ``sums + step·v``, for the samples ``first`` … of the batch."""
    rows = out.shape[1]
    for j in range(out.shape[0]):
        source, target = sums[j], out[j]
        for row in range(rows):
            store(target, row, source[row] + step * bias[row])
    if kind != NONE:
        activate_rows(out, first, a, first_term, second_term, kind)
