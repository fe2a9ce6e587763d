"""Complex differences: Fourier transforms, rotations written in complex numbers, and what goes by subtraction."""

import pytest
import torch
from difference_oracle import expected_differences, of_rule, relative_error

import zo_triton as zo
from zo_triton.difference import differences

GENERATOR = torch.Generator().manual_seed(0)
A = torch.randn(4, 6, generator=GENERATOR)
C = torch.randn(4, 6, generator=GENERATOR, dtype=torch.complex64)
DIRECTIONS = zo.Directions(seed=1, step=2, num=3, distribution="gaussian")


def like(constant, a):
    return constant.to(a.dtype.to_complex())


def real(z):
    return torch.view_as_real(z).square() if z.is_complex() else z.square()


def window(a):
    return torch.ones(4, dtype=a.dtype)


def rotary(a):
    pairs = torch.view_as_complex(a.reshape(4, 3, 2))
    return torch.view_as_real(pairs * like(C[:, :3], a)).flatten(1)


RULES = {
    "mixing_of_tokens": lambda a: torch.fft.fft(torch.fft.fft(a, dim=-1), dim=-2).real,
    "filter": lambda a: torch.fft.irfft(torch.fft.rfft(a, dim=0) * like(C[:3], a), dim=0, n=4),
    "all_axes": lambda a: real(torch.fft.fftn(a)),
    "two_axes": lambda a: real(torch.fft.ifft2(torch.fft.fft2(a * 1j))),
    "shifted": lambda a: torch.fft.fftshift(torch.fft.hfft(torch.fft.ihfft(a))),
    "stft": lambda a: real(torch.stft(a, 4, 2, window=window(a), return_complex=True)),
    "istft": lambda a: torch.istft(
        torch.stft(a, 4, 1, window=window(a), return_complex=True), 4, 1, window=window(a)
    ),
    "rotary": rotary,
    "pairs_moved_together": lambda a: real(
        torch.view_as_complex((a * a).view(2, 2, 6).movedim(0, -1).contiguous()) * like(C[0], a)
    ),
    "viewed": lambda a: real(a.view(like(C, a).dtype) * like(C[:, :3], a)).view(4, 6),
    "polar": lambda a: real(torch.polar(a, a * 2)),
    "polar_of_a_constant": lambda a: real(torch.polar(torch.ones(6, dtype=a.dtype), a)),
    "complex": lambda a: real(torch.complex(a, a.tanh()) * like(C, a)),
    "imaginary_part_fixed": lambda a: real(torch.complex(a, torch.ones((), dtype=a.dtype))),
    "magnitude": lambda a: (a * like(C, a)).abs(),
    "imag": lambda a: (a * like(C, a)).imag,
    "sum_and_mean": lambda a: real((a * like(C, a)).sum(0) + (a * 1j).mean(0)),
    "numpy_names": lambda a: real(torch.sum(a * like(C, a), axis=0)),
    "no_target": lambda a: real(torch.add(a * like(C, a), 1.0, out=None)),
    "products": lambda a: real((a * like(C, a)) @ (a - like(C, a)).mH),
    "einsum": lambda a: real(torch.einsum("ij,ij->i", a * 1j + 1, like(C, a))),
    "quotient": lambda a: real(like(C, a) / (a * 1j + 3)),
    "conjugate": lambda a: real((a * like(C, a)).conj().resolve_conj() * like(C, a)),
    "joined": lambda a: real(torch.cat([a * like(C, a), like(C, a)])),
    "stacked": lambda a: real(torch.stack([-(a * like(C, a)), like(C, a)])),
    "chosen": lambda a: real(torch.where(like(C, a).real > 0, a * like(C, a), 1j)[:, torch.tensor([1, 2])]),
    "cast": lambda a: real(a.to(like(C, a).dtype) * like(C, a)),
    "hermitian": lambda a: a.mH @ a + a.H @ a + a.adjoint() @ a,
    "real_conjugate": lambda a: a.conj() * a.resolve_conj(),
}


@pytest.mark.parametrize("eps", [1e-1, 1e-6])
@pytest.mark.parametrize("name", RULES)
def test_complex_differences_have_rules(name, eps):
    assert of_rule(RULES[name], [A], eps)[2] < 1e-5


@pytest.mark.parametrize("name", ["mixing_of_tokens", "rotary", "magnitude"])
def test_differences_before_a_complex_one_may_be_bfloat16(name):
    assert of_rule(RULES[name], [A], 1e-2, dtype=torch.bfloat16)[2] < 2e-2


SUBTRACTED = {
    "angle": lambda a: (a * like(C, a) + 4).angle(),
    "exp": lambda a: real((a * 1j).exp()),
    "sqrt": lambda a: real((a * 1j + 3).sqrt()),
    "tanh": lambda a: real((a * 1j).tanh()),
    "eigenvalues": lambda a: torch.linalg.eigvals(a[:, :4]).abs().sum(),
}


@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule")
@pytest.mark.parametrize("name", SUBTRACTED)
def test_other_complex_functions_are_subtracted_in_double_precision(name):
    function = SUBTRACTED[name]
    with zo.use_engine("reference"):
        _, found = differences(lambda: function(A), [A], DIRECTIONS, 1e-4)
    assert relative_error(found, expected_differences(function, [A], DIRECTIONS, 1e-4)) < 1e-5


def test_a_complex_loss_is_refused():
    with pytest.raises(ValueError, match=r"torch.complex64, but a loss is real; return its .abs\(\)"):
        differences(lambda: (A * 1j).sum(), [A], DIRECTIONS, 1e-3)
