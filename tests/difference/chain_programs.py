"""What the tests of chains share: functions on the CPU engine, and how far they are from float64."""

import math

import torch
from difference_oracle import expected_differences, relative_error

import zo_triton as zo

DIRECTIONS = zo.Directions(seed=1, step=2, num=3, distribution="gaussian")
GENERATOR = torch.Generator().manual_seed(0)


def numbers(*shape):
    return torch.randn(shape, generator=GENERATOR)


def on_cpu(function, params, eps=1e-2, **options):
    with zo.use_engine("cpu"):
        return zo.differences(lambda: function(*params), params, DIRECTIONS, eps, strict=True, **options)[1]


def error_of(function, params, eps=1e-2, **options):
    found = on_cpu(function, params, eps, **options)
    return relative_error(found, expected_differences(function, params, DIRECTIONS, eps))


def new_gelu(x):
    return 0.5 * x * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (x + 0.044715 * torch.pow(x, 3.0))))
