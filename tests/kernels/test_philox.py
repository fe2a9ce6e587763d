"""Words and values of the generator, against published answers and the float64 formulas."""

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from zo_triton.kernels.philox import gaussian_pair, laplace, philox, uniform


@triton.jit
def _words(out_ptr, c0, c1, c2, c3, key0, key1, ROUNDS: tl.constexpr):
    block = c0.to(tl.uint32, bitcast=True) + tl.zeros((1,), tl.uint32)
    word0, word1, word2, word3 = philox(
        block,
        c1.to(tl.uint32, bitcast=True),
        c2.to(tl.uint32, bitcast=True),
        c3.to(tl.uint32, bitcast=True),
        key0.to(tl.uint32, bitcast=True),
        key1.to(tl.uint32, bitcast=True),
        ROUNDS,
    )
    offset = tl.arange(0, 1)
    tl.store(out_ptr + offset, word0.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 1 + offset, word1.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 2 + offset, word2.to(tl.int32, bitcast=True))
    tl.store(out_ptr + 3 + offset, word3.to(tl.int32, bitcast=True))


@triton.jit
def _values(out_ptr, first_ptr, second_ptr, NAME: tl.constexpr, SIZE: tl.constexpr):
    offsets = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
    first = tl.load(first_ptr + offsets).to(tl.uint32, bitcast=True)
    second = tl.load(second_ptr + offsets).to(tl.uint32, bitcast=True)
    if NAME == "gaussian":
        one, two = gaussian_pair(first, second)
    elif NAME == "laplace":
        one, two = laplace(first), laplace(second)
    else:
        one, two = uniform(first), uniform(second)
    tl.store(out_ptr + 2 * offsets, one)
    tl.store(out_ptr + 2 * offsets + 1, two)


# The authors' own answers (Random123, kat_vectors): zeros, ones, digits of pi.
ANSWERS = {
    "zeros, 10 rounds": (10, [0] * 4, [0] * 2, "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "zeros, 7 rounds": (7, [0] * 4, [0] * 2, "5f6fb709 0d893f64 4f121f81 4f730a48"),
    "ones, 10 rounds": (10, [0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, "408f276d 41c83b0e a20bc7c6 6d5451fd"),
    "pi, 10 rounds": (
        10,
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
}


@pytest.mark.parametrize("name", ANSWERS)
def test_words_are_the_published_ones(name, device):
    rounds, counter, key, expected = ANSWERS[name]
    out = torch.full((4,), -1, dtype=torch.int32, device=device)
    signed = [word - 2**32 if word >= 2**31 else word for word in (*counter, *key)]
    _words[(1,)](out, *signed, ROUNDS=rounds, enable_fp_fusion=True)
    assert " ".join(f"{word % 2**32:08x}" for word in out.tolist()) == expected


def _interesting_words() -> tuple[np.ndarray, np.ndarray]:
    """Pairs of words: u next to 1 and to 0, angles next to every quarter turn, and 2^14 ordinary ones."""
    ends = np.concatenate([np.arange(1024), 2**24 - 1 - np.arange(1024)])
    turns = np.concatenate([q * 2**22 + np.arange(-64, 64) for q in range(8)]) // 2 % 2**24
    ordinary = np.random.default_rng(0).integers(0, 2**24, (2, 2**14))
    # Around 1 - u = 2^-5, where the series hands over to the logarithm.
    seam = 2**24 - 2**19 + np.arange(-512, 512)
    first = np.concatenate([ends, seam, np.resize(ends, 1024), ordinary[0]])
    second = np.concatenate([np.resize(ordinary[1], 2048), np.resize(turns, 1024), turns, ordinary[1]])
    return (first.astype(np.uint32) << 8, second.astype(np.uint32) << 8)


def _drawn(name: str, first: np.ndarray, second: np.ndarray, device: str) -> np.ndarray:
    size = 1024
    assert first.size % size == 0
    out = torch.full((first.size, 2), float("nan"), device=device)
    one, two = (torch.from_numpy(words.view(np.int32).copy()).to(device) for words in (first, second))
    _values[(first.size // size,)](out, one, two, NAME=name, SIZE=size, enable_fp_fusion=True)
    return out.cpu().double().numpy()


def test_gaussian_agrees_with_float64_to_1e_5_everywhere(device):
    first, second = _interesting_words()
    u, turn = ((first >> 8) + 1.0) * 2.0**-24, (second >> 8) * 2.0**-24
    radius, angle = np.sqrt(-2 * np.log(u)), 2 * np.pi * turn
    expected = radius[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    error = np.abs(_drawn("gaussian", first, second, device) - expected)
    assert error.max() <= 1e-5
    # Next to u = 1 the radius is tiny: there the error must be small relative to it, not merely absolutely.
    assert (error.max(axis=1) <= 1e-6 * radius)[u > 1 - 2.0**-12].all()


def test_laplace_agrees_with_float64_to_1e_5_and_keeps_its_small_values(device):
    first, second = _interesting_words()
    m = (2.0 * (np.stack([first, second], axis=1) >> 8) + 1 - 2.0**24) * 2.0**-24
    expected = -np.sign(m) * np.log(1 - np.abs(m)) / np.sqrt(2)
    error = np.abs(_drawn("laplace", first, second, device) - expected)
    assert error.max() <= 1e-5
    assert (error <= 1e-6 * np.abs(expected))[np.abs(m) < 2.0**-6].all()


def test_uniform_is_within_one_rounding(device):
    first, second = _interesting_words()
    m = (2.0 * (np.stack([first, second], axis=1) >> 8) + 1 - 2.0**24) * 2.0**-24
    expected = np.sqrt(3) * m
    error = np.abs(_drawn("uniform", first, second, device) - expected)
    assert (error <= 2.0**-23 * np.abs(expected)).all()
