"""The ops reach these kernels: through ``use_engine`` on the CPU, by the tensor's device otherwise."""

import inspect

import pytest
import torch

import zo_triton.kernels as kernels
from zo_triton import ops, reference
from zo_triton.directions import Directions


@pytest.mark.parametrize("name", kernels.__all__)
def test_signatures_begin_like_the_references(name):
    wanted = list(inspect.signature(getattr(reference, name)).parameters)
    parameters = inspect.signature(getattr(kernels, name)).parameters
    assert list(parameters)[: len(wanted)] == wanted
    extras = list(parameters.values())[len(wanted) :]
    assert all(extra.kind is extra.KEYWORD_ONLY and extra.default is not extra.empty for extra in extras)


def test_a_step_through_the_ops_equals_the_reference(device):
    directions = Directions(3, 1, 2)
    weight, base = torch.ones(9, 33), torch.linspace(-1, 1, 5 * 33).view(5, 33)
    results = {}
    for engine, place in (("triton", device), ("reference", "cpu")):
        moved = weight.clone().to(place)
        with ops.use_engine(engine):
            change = ops.perturbed_linear(
                base.to(place), None, moved, directions, torch.full((2,), 1e-3, device=place), weight_id=0
            )
            ops.accumulate([moved], [0], torch.tensor([1.0, -2.0], device=place), directions)
            products = ops.gram([moved], [0], directions)
        results[engine] = [tensor.cpu() for tensor in (change, moved, products)]
    for ours, theirs in zip(results["triton"], results["reference"], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=1e-9)


def test_a_launch_beyond_the_grid_is_refused(device):
    from zo_triton.kernels.launch import launch

    with pytest.raises(ValueError, match=r"a launch of 2147483648 programs exceeds 2\*\*31 - 1"):
        launch(None, 2**31, torch.empty(0, device=device))


def test_tiles_follow_the_chip():
    from zo_triton.kernels.launch import chip_of, launching_for
    from zo_triton.kernels.perturbed_linear import OVERRIDES

    tensor = torch.empty(1)
    assert chip_of(tensor) == ""
    families = {
        "sm_80": "sm_80", "sm_89": "sm_80", "sm_90": "sm_90", "sm_103": "sm_100", "sm_120": "sm_80",
        "gfx950": "gfx942",
    }  # fmt: skip
    for name, family in families.items():
        with launching_for(name):
            assert chip_of(tensor) == family
    assert set(OVERRIDES) == {"sm_80", "sm_100", "gfx942"}
