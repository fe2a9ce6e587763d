"""An activation that something multiplies runs in the pass that does so, not at the end of its layer."""

import pytest
import torch
import torch.nn.functional as F
from chain_programs import error_of, numbers

GATES = {
    "silu": F.silu,
    "relu": F.relu,
    "tanh": torch.tanh,
    "sigmoid": torch.sigmoid,
    "gelu-tanh": lambda x: F.gelu(x, approximate="tanh"),
    "gelu": F.gelu,
}


@pytest.mark.parametrize("eps", [1e-5, 1e-2, 0.3])
@pytest.mark.parametrize("name", GATES)
def test_the_activation_of_a_gate_runs_with_what_it_multiplies(name, eps, programs):
    """Not at the end of its layer: but for GELU, whose error function no program has."""
    inputs, params = numbers(3, 33), (0.2 * numbers(33, 17), 0.2 * numbers(33, 17), numbers(17, 5))

    def function(gate, up, down):
        x = inputs.to(gate.dtype)
        return (GATES[name](x @ gate) * (x @ up)) @ down

    assert error_of(function, params, eps) < 1e-5
    assert len(programs) == 1
    assert any(operation.startswith("activation") for operation in operations_of(programs[0])) == (
        name != "gelu"
    )


def operations_of(program):
    return [name for formula, _ in program._parts for name, _ in formula.operations]


def test_an_activation_of_another_shape_stays_with_its_layer(programs):
    inputs, params = numbers(3, 33), (0.2 * numbers(33, 17), numbers(4, 3, 17))
    assert error_of(lambda weight, other: F.silu(inputs.to(weight.dtype) @ weight) * other, params) < 1e-5
    assert len(programs) == 1
    assert all("activation" not in " ".join(operations_of(program)) for program in programs)


def test_a_gate_that_is_read_again_is_computed_once():
    inputs, weight = numbers(3, 33), 0.2 * numbers(33, 17)

    def function(weight):
        before = inputs.to(weight.dtype) @ weight
        gate = F.silu(before)
        product = gate * before
        return product + gate - before

    assert error_of(function, (weight,)) < 1e-5
