"""The naive way: evaluate at θ + sεz and at θ in float64, and subtract."""

import copy
import importlib.util

import torch

import zo_triton as zo

ENGINES = ["reference"] + (["cpu"] if importlib.util.find_spec("zo_triton.cpu.perturbed_linear") else [])


def expected_differences(function, params, directions, eps, sides=1, dtype=torch.float32):
    """[K, *shape] or [K, 2, *shape] float64 of ``function(*params)``, the rest in the closure's dtype."""
    with torch.no_grad(), zo.use_engine("reference"):
        thetas = [parameter.detach().double() for parameter in params]
        zs = [zo.sample(directions, i, p.shape, dtype).double() for i, p in enumerate(params)]
        base = function(*thetas)
        rows = [
            function(*[theta + sign * eps * z[k] for theta, z in zip(thetas, zs, strict=True)]) - base
            for k in range(directions.num)
            for sign in (1.0, -1.0)[:sides]
        ]
    stacked = torch.stack(rows)
    return stacked if sides == 1 else stacked.view(directions.num, 2, *base.shape)


def relative_error(found, expected):
    """Largest absolute error over the largest expected difference."""
    return float((found.double() - expected).abs().max() / expected.abs().max())


def of_rule(function, params, eps, sides=1, dtype=torch.float32):
    """The value and differences of ``function(*params)`` by its rules, and their :func:`relative_error`."""
    directions = zo.Directions(seed=1, step=2, num=3, distribution="gaussian")
    with zo.use_engine("reference"):
        value, found = zo.differences(
            lambda: function(*params), params, directions, eps, sides, compute_dtype=dtype, strict=True
        )
    expected = expected_differences(function, params, directions, eps, sides, dtype)
    return value, found, relative_error(found, expected)


def expected_of_module(module, loss_of, directions, eps, sides=1, dtype=torch.float32):
    """:func:`expected_differences` of ``loss_of(module)``, the module in float64."""
    twin = copy.deepcopy(module).double()
    names = [name for name, _ in twin.named_parameters()]

    class Called(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = twin

        def forward(self):
            return loss_of(self.inner)

    def function(*thetas):
        replaced = {f"inner.{name}": theta for name, theta in zip(names, thetas, strict=True)}
        return torch.func.functional_call(Called(), replaced, ())

    return expected_differences(function, list(module.parameters()), directions, eps, sides, dtype)


def median_relative_error(found, expected):
    """Median over all differences of |error|/|expected|."""
    return float(((found.double() - expected).abs() / expected.abs()).median())
