"""Δz = δ*W + sε·(a+δ)*U + sε·v for every evaluation of a convolution, and the activation's exact difference.

The folded form Δz = δ*(W+sεU) + sε·(a*U + v). The second term belongs to a direction, both its sides share it;
for signs it comes from the table product of ``signs``, whose tables a group of directions shares. The first is
torch's convolution, one evaluation at a time. A thread takes a share of the directions and goes through them
in groups, and through the samples in parts, so that what one step leaves the next finds in the cache.
"""

from __future__ import annotations

from math import prod
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from zo_triton._precision import convolution_factor, factor
from zo_triton.cpu.activating import kind_of
from zo_triton.cpu.activation import NONE, base_terms
from zo_triton.cpu.arrays import as_array, draw_factors, draw_whole, steps_of
from zo_triton.cpu.compiling import kernel
from zo_triton.cpu.conv2d_signs import sign_convolution
from zo_triton.cpu.field import key_of
from zo_triton.cpu.layer import finish
from zo_triton.cpu.patches import Geometry, plan
from zo_triton.cpu.threads import parallel
from zo_triton.directions import Directions, tensor_word

SHARED_ROWS = 128
"""Rows of U, of several directions, that share one set of tables."""

PART_ELEMENTS = 1 << 20
"""Float32 sums a*U + v that wait for their evaluations: 4 MiB a thread."""

FEWEST_ROWS = 4
"""Output channels in a group below which making the tables costs more than they save."""


class Convolution(NamedTuple):
    """One call: what the kernels take whole, and what the groups of directions are cut from."""

    out: Tensor  # [P, N, out, H', W'], contiguous
    base: Tensor  # float32 [N, in, H, W]
    difference: Tensor | None  # [P, N, in, H, W]
    weight: Tensor  # float32
    terms: tuple[Tensor, Tensor, Tensor]  # float32 [N, out, H', W'] each, what the activation reads; or empty
    kind: int
    directions: Directions
    weight_id: int
    bias_id: int
    signed_eps: np.ndarray
    options: dict[str, Any]  # of torch's convolution
    geometry: Geometry
    shifts: np.ndarray

    @property
    def sides(self) -> int:
        """Evaluations of a direction."""
        return self.signed_eps.size // self.directions.num


def perturbed_conv2d(
    out: Tensor,
    base: Tensor,
    difference: Tensor | None,
    weight: Tensor,
    base_output: Tensor | None,
    directions: Directions,
    weight_id: int,
    bias_id: int,
    signed_eps: Tensor,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    activation: str,
) -> None:
    """Same contract as the reference; fastest if ``out`` and ``difference`` are contiguous."""
    if out.numel() == 0:
        return
    result = out if out.is_contiguous() else torch.empty(out.shape, dtype=out.dtype, device="cpu")
    geometry, shifts = plan(
        tuple(base.shape), tuple(out.shape[3:]), tuple(weight.shape[2:]), tuple(stride), tuple(padding),
        tuple(dilation), groups,
    )  # fmt: skip
    z = base.new_empty(0) if base_output is None else base_output.detach().float().contiguous()
    convolution = Convolution(
        out=result,
        base=base.detach().float().contiguous(),
        difference=difference,
        weight=weight.detach().float(),
        terms=(z, *base_terms(z, activation)),
        kind=kind_of(activation),
        directions=directions,
        weight_id=weight_id,
        bias_id=bias_id,
        signed_eps=steps_of(signed_eps),
        options={"stride": stride, "padding": padding, "dilation": dilation, "groups": groups},
        geometry=geometry,
        shifts=shifts,
    )
    samples = base.shape[0]
    if directions.num > 1:
        parallel(lambda start, stop: _run(convolution, start, stop, 0, samples), directions.num)
    else:
        parallel(lambda start, stop: _run(convolution, 0, 1, start, stop), samples)
    if result is not out:
        out.copy_(result)


def _run(c: Convolution, start: int, stop: int, first_sample: int, last_sample: int) -> None:
    """Directions start … stop - 1 of the samples first_sample … last_sample - 1."""
    d, outputs = c.directions, c.weight.shape[0]
    rows = outputs // c.options["groups"]
    tables = d.signs and d.rank is None and (rows >= FEWEST_ROWS or c.weight_id < 0)
    group = max(1, min(stop - start, SHARED_ROWS // outputs)) if tables else 1
    if tables and c.difference is None:
        for first in range(start, stop, group):
            _sign_sums(c, c.out, first, min(stop, first + group), first_sample, last_sample)
        return
    image = c.out.shape[2:]
    together = max(1, min(last_sample - first_sample, PART_ELEMENTS // (group * image.numel())))
    held = torch.empty(group * together * image.numel() if tables else 0, dtype=torch.float32, device="cpu")
    for first in range(start, stop, group):
        last = min(stop, first + group)
        noise = _draw_weights(c, first, last)
        moved = _moved_weights(c, noise, first)
        for sample in range(first_sample, last_sample, together):
            samples = slice(sample, min(last_sample, sample + together))
            if tables:
                shape = last - first, samples.stop - sample, *image
                sums = held[: prod(shape)].view(shape)
                _sign_sums(c, sums, first, last, sample, samples.stop)
            else:
                sums = _dense_sums(c, noise, first, samples)
            terms = _terms(c, samples)
            for p in range(first * c.sides, last * c.sides):
                weight = None if moved is None else moved[min(p - first * c.sides, moved.shape[0] - 1)]
                _evaluate(c, p, samples, weight, sums[p // c.sides - first], terms)


def _draw_weights(c: Convolution, first: int, last: int) -> Tensor | None:
    """U of some directions, float32 [count, *weight.shape]; None if it is not trained."""
    d, shape = c.directions, c.weight.shape
    if c.weight_id < 0:
        return None
    if d.rank is not None:
        left, right = draw_factors(d[first:last], c.weight_id, shape, c.out.dtype)
        return (factor(left) @ factor(right).mT).view(-1, *shape)
    indices = range(d.first + first, d.first + last)
    drawn = [draw_whole(d, index, c.weight_id, shape, c.out.dtype) for index in indices]
    return torch.stack(drawn).float().view(-1, *shape)


def _draw_bias(c: Convolution, k: int) -> Tensor:
    """V of one direction, float32 [out]; zeros if it is not trained."""
    if c.bias_id < 0:
        return torch.zeros(c.weight.shape[0], dtype=torch.float32, device="cpu")
    return draw_whole(c.directions, c.directions.first + k, c.bias_id, c.weight.shape[:1], c.out.dtype)[
        0
    ].float()


def _moved_weights(c: Convolution, noise: Tensor | None, first: int) -> Tensor | None:
    """W + step·U for each evaluation of these directions, in the differences' dtype; None in a first layer."""
    if c.difference is None:
        return None
    if noise is None:
        return convolution_factor(c.weight.to(c.out.dtype))[None]
    steps = torch.from_numpy(c.signed_eps[first * c.sides : (first + noise.shape[0]) * c.sides])
    noise = noise.repeat_interleave(c.sides, 0)
    moved = torch.addcmul(c.weight, noise, steps.view(-1, 1, 1, 1, 1)).to(c.out.dtype)
    return convolution_factor(moved)


def _dense_sums(c: Convolution, noise: Tensor | None, k: int, samples: slice) -> Tensor:
    """a*U + v of one direction that has no tables, [1, samples, out, H', W']."""
    shift = _draw_bias(c, k)
    if noise is None:
        return shift[:, None, None].expand(c.out[:1, samples].shape)
    return torch.conv2d(
        convolution_factor(c.base[samples]), convolution_factor(noise[0]), shift, **c.options
    )[None]


def _terms(c: Convolution, samples: slice) -> list[np.ndarray]:
    return [term[samples].flatten().numpy() for term in c.terms]


def _evaluate(
    c: Convolution, p: int, samples: slice, weight: Tensor | None, sums: Tensor, terms: list[np.ndarray]
) -> None:
    """Evaluation p of some samples from its weights W + step·U and its direction's a*U + v."""
    out = c.out[p, samples].view(1, -1)
    if weight is None:
        product = out[:, :0]
    else:
        assert c.difference is not None
        given = convolution_factor(c.difference[p, samples])
        product = torch.conv2d(given, weight, **c.options).contiguous().view(1, -1)
    # The one value of an only channel, expanded, would be a row of no length to the kernel, which goes by address.
    totals = sums.contiguous().view(1, 1, -1).numpy()
    _finish_kernel(as_array(out), as_array(product), totals, c.signed_eps[p], *terms, c.kind)


@kernel
def _finish_kernel(out, product, sums, step, a, first_term, second_term, kind):
    """Out = activation(product + step·sums) element by element; out [1, M], product [1, M] or empty."""
    zero = np.zeros(1, np.float32)
    count = out.shape[1]
    terms = a.reshape(1, a.size), first_term.reshape(1, a.size), second_term.reshape(1, a.size)
    finish(out, product, 0, product.size > 0, sums, zero, step, 0, count, terms[0], terms[1], terms[2], kind)


def _sign_sums(c: Convolution, out: Tensor, first: int, last: int, start: int, stop: int) -> None:
    """By tables, for the directions first … last - 1 and the samples start … stop - 1.

    If ``out`` is the result, a first layer's evaluations; otherwise a*U + v, [directions, samples, out, H', W'].
    """
    d, whole = c.directions, out is c.out
    words = [tensor_word(i) if i >= 0 else -1 for i in (c.weight_id, c.bias_id)]
    evaluations = slice(first * c.sides, last * c.sides)
    steps = c.signed_eps[evaluations] if whole else np.ones(last - first, np.float32)
    sign_convolution(
        as_array((out[evaluations] if whole else out).flatten(3)), 0 if whole else start, c.base.flatten(2).numpy(),
        start, stop, c.shifts, c.options["groups"], steps, steps.size // (last - first),
        *_terms(c, slice(None)), c.kind if whole else NONE, words[0], words[1], key_of(d), d.first + first,
        c.geometry,
    )  # fmt: skip
