"""No tensor of the library takes its dtype or its device from torch's defaults, which belong to the program."""

import ast
from pathlib import Path

import pytest

import zo_triton

SOURCES = sorted(Path(zo_triton.__file__).parent.rglob("*.py"))
MAKERS = {
    "arange", "as_tensor", "empty", "empty_strided", "eye", "full", "linspace", "logspace", "normal", "ones",
    "rand", "randint", "randn", "randperm", "scalar_tensor", "tensor", "tril_indices", "triu_indices", "zeros",
}  # fmt: skip
"""Functions of torch that make a tensor of nothing but numbers."""


def careless(source):
    """Line numbers of calls that leave the dtype or the device open."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Attribute):
            continue
        owner, name = node.func.value, node.func.attr
        if not isinstance(owner, ast.Name) or owner.id != "torch":
            continue
        given = {keyword.arg for keyword in node.keywords}
        # ``torch.Generator()`` lies on the default device, too, and has no dtype.
        if name == "Generator" and not node.args and "device" not in given:
            found.append(node.lineno)
        if name in MAKERS and not {"dtype", "device"} <= given:
            found.append(node.lineno)
    return found


@pytest.mark.parametrize(
    ("call", "is_careless"),
    [
        ("torch.zeros(3)", True),
        ("torch.zeros(3, dtype=torch.float32)", True),
        ("torch.tensor([1.0], device='cpu')", True),
        ("torch.Generator()", True),
        ("torch.zeros(3, dtype=torch.float32, device=x.device)", False),
        ("torch.Generator('cpu')", False),
        ("torch.zeros_like(x)", False),
        ("x.new_zeros(3)", False),
    ],
)
def test_what_the_lint_finds(call, is_careless):
    assert bool(careless(call)) is is_careless


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.stem)
def test_dtype_and_device_are_said(path):
    assert careless(path.read_text()) == []
