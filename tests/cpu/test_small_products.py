"""Products of many small matrices, both of which move: against float64, and in what they leave to torch."""

from __future__ import annotations

import pytest
import torch

import zo_triton as zo
from zo_triton import cpu, ops
from zo_triton._threads import torch_threads
from zo_triton.difference.rules.linear import product

P = 6


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed + sum(shape)))


def plain(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """A base and its differences, one behind the other."""
    return noise(*shape), noise(P, *shape, seed=1)


def turned(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same with the columns of each matrix side by side."""
    return tuple(each.mT for each in plain(*shape[:-2], shape[-1], shape[-2]))


def heads(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The same as a part of a projection to queries, keys and values holds it."""
    samples, heads, tokens, width = shape
    return tuple(
        each.unflatten(-1, (3, heads, width)).select(-3, 1).transpose(-3, -2)
        for each in plain(samples, tokens, 3 * heads * width)
    )


def repeated(*shape: int) -> tuple[torch.Tensor, torch.Tensor]:
    """One matrix for the whole of a batch's last axis."""
    base, change = plain(*shape[:-3], 1, *shape[-2:])
    return base.expand(shape), change.expand(P, *shape)


CASES = {
    "scores of the last token": (plain(9, 2, 1, 8), turned(9, 2, 8, 12)),
    "its values": (plain(9, 2, 1, 12), plain(9, 2, 12, 8)),
    "heads of a projection": (heads(5, 3, 4, 7), heads(5, 3, 7, 4)),
    "one axis": (plain(11, 3, 5), turned(11, 5, 6)),
    "a single pair": (plain(1, 7, 7), plain(1, 7, 7)),
    "one column": (turned(4, 3, 5, 19), plain(4, 3, 19, 1)),
    "keys for several heads": (plain(4, 3, 3, 6), repeated(4, 3, 6, 5)),
    "few multiplications": (plain(50, 2, 3), plain(50, 3, 4)),
    "no sample": (plain(0, 2, 4, 5), plain(0, 2, 5, 6)),
}


def by_torch(left, right, monkeypatch):
    """ΔA·B + (A + ΔA)·ΔB as it is where no engine has a way of its own."""
    with monkeypatch.context() as patched:
        patched.setattr(ops, "product_difference", lambda *operands: None)
        return product(Mode, left[0] @ right[0], left, right)


class Mode:
    """What the rule asks of a mode."""

    evaluations = P

    @staticmethod
    def align(difference: torch.Tensor, dimensions: int) -> torch.Tensor:
        return difference


@pytest.mark.parametrize("name", CASES)
def test_against_float64_and_torch(name, monkeypatch):
    left, right = CASES[name]
    found = cpu.product_difference(*left, *right)
    assert found is not None
    (a, da), (b, db) = ((each.double() for each in pair) for pair in (left, right))
    exact = (a + da) @ (b + db) - a @ b
    bound = 2 * (by_torch(left, right, monkeypatch) - exact).abs().amax() if exact.numel() else 0.0
    assert found.shape == exact.shape
    assert torch.all((found - exact).abs() <= bound)


@pytest.mark.parametrize("name", CASES)
def test_no_bit_depends_on_the_evaluations_that_come_together(name):
    (a, da), (b, db) = CASES[name]
    together = cpu.product_difference(a, da, b, db)
    for p in range(P):
        alone = cpu.product_difference(a, da[p : p + 1], b, db[p : p + 1])
        assert alone is not None
        assert torch.equal(alone[0], together[p])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_bfloat16_is_read_and_written_as_float32_would_be(name, dtype):
    (a, da), (b, db) = CASES[name]
    short, other = da.bfloat16(), db.bfloat16()
    expected = cpu.product_difference(a, short.float(), b, other.float())
    assert torch.equal(cpu.product_difference(a, short, b, other, dtype), expected.to(dtype))
    mixed = cpu.product_difference(a, short, b, db, dtype)
    assert torch.equal(mixed, cpu.product_difference(a, short.float(), b, db).to(dtype))


def test_no_bit_depends_on_the_threads(monkeypatch):
    monkeypatch.setattr("zo_triton.cpu.small_products.SMALL_WORK", 0)
    monkeypatch.setattr("zo_triton.cpu.small_products.GRAIN", 1)
    left, right = CASES["heads of a projection"]
    with torch_threads(1):
        alone = cpu.product_difference(*left, *right)
    with torch_threads(2):
        assert torch.equal(cpu.product_difference(*left, *right), alone)


LEFT = {
    "large": (plain(2, 9, 9), plain(2, 9, 9)),
    "nothing to add up": (plain(9, 2, 0), plain(9, 0, 4)),
    "float64": tuple(tuple(each.double() for each in pair) for pair in CASES["one axis"]),
    "differences in float64": tuple((base, change.double()) for base, change in CASES["one axis"]),
    "one of them in float16": ((plain(3, 5, 5)[0], plain(3, 5, 5)[1].half()), plain(3, 5, 5)),
    "bases in bfloat16": tuple((base.bfloat16(), change) for base, change in CASES["one axis"]),
    "three axes": (plain(2, 2, 2, 5, 5), plain(2, 2, 2, 5, 5)),
    "no batch": (plain(7, 7), plain(7, 7)),
    "other batches": (plain(1, 5, 5), (noise(4, 5, 5), noise(P, 4, 5, 5))),
    "a sign not taken yet": ((torch._neg_view(noise(3, 5, 5)), noise(P, 3, 5, 5)), plain(3, 5, 5)),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_is_left_to_torch(name):
    left, right = LEFT[name]
    assert cpu.product_difference(*left, *right) is None


def test_rounded_factors_are_left_to_torch(monkeypatch):
    monkeypatch.setattr("zo_triton.cpu.small_products.rounds_factors", lambda: True)
    left, right = CASES["one axis"]
    assert cpu.product_difference(*left, *right) is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("engine", ["cpu", "reference"])
def test_attention_written_out(engine, dtype, monkeypatch):
    """A closure's two products, with the engine's way where it has one, whatever dtype their factors come in."""
    calls = []
    own = ops.product_difference

    def seen(*operands):
        found = own(*operands)
        calls.append(found is not None and found.dtype == dtype)
        return found

    monkeypatch.setattr(ops, "product_difference", seen)
    x, weight = noise(5, 6, 8), noise(24, 8)
    directions = zo.Directions(0, 1, 4)

    def attend(weight: torch.Tensor, x: torch.Tensor) -> torch.Tensor:
        query, key, value = (x @ weight.mT).view(5, 6, 3, 2, 4).permute(2, 0, 3, 1, 4).unbind(0)
        return torch.softmax(query @ key.mT, -1) @ value

    with zo.use_engine(engine):
        _, found = zo.differences(lambda: attend(weight, x), [weight], directions, 1e-2, compute_dtype=dtype)
    z = zo.sample(directions, 0, weight.shape).double()
    exact = torch.stack([attend(weight + 1e-2 * each, x.double()) for each in z]) - attend(
        weight.double(), x.double()
    )
    assert calls == [engine == "cpu"] * 2
    # bfloat16 rounds the projection, the scores and the result: each 2⁻⁹ of what is largest there.
    bound = 2e-6 if dtype == torch.float32 else 3 * 2**-9
    assert (found - exact).norm() <= bound * exact.norm()
