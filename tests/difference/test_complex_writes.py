"""Writes in place to complex memory, through parts, conjugates and views of its parts: as in complex128."""

import pytest
import torch
from difference_oracle import ENGINES, expected_of_module, of_rule, relative_error
from torch import nn

import zo_triton as zo

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(4, 6, generator=GENERATOR)
C = torch.randn(4, 6, generator=GENERATOR, dtype=torch.complex64)
CHOSEN = C.real > 0


def like(constant, a):
    return constant.to(a.dtype.to_complex())


def spectrum(a):
    """A complex tensor that depends on a."""
    return a * a * like(C, a)


def empty(a, *shape):
    return torch.zeros(shape, dtype=a.dtype.to_complex())


def real(z):
    return torch.view_as_real(z.resolve_conj()).square() if z.is_complex() else z.square()


def after(make, write):
    """The tensor that a write has changed."""

    def function(a):
        z = make(a)
        write(z, a)
        return torch.cat([real(z).flatten(), a.sin().flatten()])

    return function


WRITES = {
    "modes": lambda z, a: z.__setitem__((slice(1, 3), slice(None, 4)), spectrum(a)[:2, 1:5]),
    "an item": lambda z, a: z.__setitem__((0, 0), 0),
    "an item that moves": lambda z, a: z.__setitem__((0, 0), spectrum(a)[1, 1]),
    "of a real tensor": lambda z, a: z[:, 1].copy_(a[:, 0]),
    "by mask": lambda z, a: z.__setitem__(CHOSEN, spectrum(a)[CHOSEN].flip(0)),
    "a constant by mask": lambda z, a: z.masked_fill_(CHOSEN, 1j),
    "by index": lambda z, a: z.index_copy_(0, torch.tensor([2, 0]), spectrum(a)[:2]),
    "added by index": lambda z, a: z.index_add_(0, torch.tensor([2, 2]), spectrum(a)[:2]),
    "a sum": lambda z, a: z.add_(spectrum(a), alpha=2j),
    "a real sum": lambda z, a: z.add_(a),
    "a multiple": lambda z, a: z.mul_(like(C, a)).sub_(1j),
    "a product": lambda z, a: z.mul_(spectrum(a).conj()),
    "a quotient": lambda z, a: z.div_(like(C, a) + a),
    "zeros": lambda z, a: z[1:].zero_(),
    "real parts": lambda z, a: z.real.mul_(a),
    "imaginary parts": lambda z, a: z.imag.copy_(a.tanh()),
    "a part of imaginary parts": lambda z, a: z.imag.__setitem__((slice(None), slice(2)), a[:, :2]),
    "as real numbers": lambda z, a: torch.view_as_real(z)[:, 1:, 1].add_(a[:, 1:]),
    "through the conjugate": lambda z, a: z.conj()[1:].copy_(spectrum(a)[1:]),
    "through the conjugate's imaginary parts": lambda z, a: z.conj().imag.add_(a),
    "through a transpose": lambda z, a: z.mT[2].mul_(spectrum(a)[:, 0]),
    "itself": lambda z, a: z[:, :3].copy_(z[:, 3:].conj()),
}

STARTS = {"constant": lambda a: like(C, a).clone(), "spectrum": spectrum, "zeros": lambda a: empty(a, 4, 6)}


@pytest.mark.parametrize("start", STARTS)
@pytest.mark.parametrize("write", WRITES)
@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule")
def test_a_write(write, start):
    assert compared(after(STARTS[start], WRITES[write]))


def compared(function):
    """Whether the differences are complex128's."""
    directions = zo.Directions(seed=1, step=2, num=3, distribution="gaussian")
    z = zo.sample(directions, 0, A.shape).double()
    base = function(A.double())
    expected = torch.stack([function(A.double() + 1e-2 * each) for each in z]) - base
    for chunk in (None, 2):
        value, found = zo.differences(lambda: function(A), [A], directions, 1e-2, chunk=chunk)
        torch.testing.assert_close(value.double(), base, rtol=1e-4, atol=1e-5)
        if relative_error(found, expected) > 1e-5:
            return False
    return True


def of_parts(a):
    """Complex numbers over real memory that is written to."""
    parts = (a * 2).view(4, 3, 2)
    z = torch.view_as_complex(parts)
    parts[:, :, 1] = a[:, :3].cos()
    z[0] = z[1] * 1j
    parts.mul_(a.view(4, 3, 2))
    return torch.cat([real(z).flatten(), parts.flatten()])


def out(a):
    z, magnitude = empty(a, 4, 6), torch.zeros_like(a)
    torch.mul(spectrum(a), 2, out=z)
    torch.abs(z, out=magnitude)
    return real(z).sum(-1) + magnitude


def real_of_complex(a):
    """Torch takes the real parts, and warns."""
    target = torch.zeros_like(a)
    target.copy_(spectrum(a))
    target[:, 0] = spectrum(a)[:, 1]
    return target.square() + spectrum(a).imag


@pytest.mark.parametrize("function", [of_parts, out, real_of_complex], ids=lambda each: each.__name__)
@pytest.mark.filterwarnings("ignore:Casting complex values to real")
def test_memories_of_complex_and_real_numbers(function):
    assert of_rule(function, [A], 1e-2)[2] < 1e-5


class SpectralConvolution(nn.Module):
    """A layer of a Fourier neural operator, as it is written everywhere (Li et al., 2020, arXiv 2010.08895)."""

    def __init__(self, width: int, modes: int) -> None:
        super().__init__()
        self.modes = modes
        self.weights = nn.ParameterList(
            [nn.Parameter(torch.randn(width, width, modes, modes, 2) / width)] * 1
        )
        self.other = nn.Parameter(torch.randn(width, width, modes, modes, 2) / width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        transformed, m = torch.fft.rfft2(x), self.modes
        out = torch.zeros(*x.shape[:2], x.shape[-2], x.shape[-1] // 2 + 1, dtype=transformed.dtype)
        for place, weight in ((slice(None, m), self.weights[0]), (slice(-m, None), self.other)):
            product = torch.einsum(
                "bixy,ioxy->boxy", transformed[:, :, place, :m], torch.view_as_complex(weight)
            )
            out[:, :, place, :m] = product
        return torch.fft.irfft2(out, s=x.shape[-2:])


class Operator(nn.Module):
    """Two such layers with their bypasses."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.lift, self.project = nn.Conv2d(1, 4, 1), nn.Conv2d(4, 1, 1)
        self.spectral = nn.ModuleList([SpectralConvolution(4, 3) for _ in range(2)])
        self.bypass = nn.ModuleList([nn.Conv2d(4, 4, 1) for _ in range(2)])

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        h = self.lift(x)
        for spectral, bypass in zip(self.spectral, self.bypass, strict=True):
            h = torch.nn.functional.gelu(spectral(h) + bypass(h))
        return self.project(h)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_fourier_neural_operator_takes_a_strict_step(engine, dtype):
    model, x = Operator(), torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(1))
    directions = zo.Directions(0, 1, 4)

    def loss_of(module):
        return module(x.to(next(module.parameters()).dtype)).square().mean()

    with zo.use_engine(engine):
        _, found = zo.differences(
            lambda: loss_of(model), model.parameters(), directions, 1e-3, 2, dtype, strict=True
        )
    expected = expected_of_module(model, loss_of, directions, 1e-3, 2, dtype)
    assert relative_error(found, expected) < (1e-5 if dtype == torch.float32 else 3e-2)
