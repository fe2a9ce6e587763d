"""A step's differences where tensors have shapes and no values: nothing between may wait for one."""

import pytest
import torch
import torch.nn.functional as F
from cuda_stand_in import CUDA, cuda_without_values, to_cuda, without_values
from test_cuda_stand_in import MODELS
from torch._subclasses.fake_tensor import DataDependentOutputException

import zo_triton as zo

HALF = torch.bfloat16
WAYS = {
    "one side": (zo.Directions(3, 0, 4), {}),
    "both sides, Gaussian, bfloat16": (
        zo.Directions(3, 0, 4, "gaussian"),
        {"sides": 2, "compute_dtype": HALF},
    ),
    "rank 1": (zo.Directions(3, 0, 4, rank=1), {}),
}
# Whether two tensors share memory is asked, and has no answer here that a value could depend on.
pytestmark = pytest.mark.filterwarnings("ignore:Accessing the data pointer of FakeTensor is deprecated")


def _differences(name, way):
    make, shape = MODELS[name]
    model = make()
    directions, settings = WAYS[way]
    with cuda_without_values():
        model = to_cuda(model, without_values)
        dtype = torch.long if name == "tiny-gpt" else next(model.parameters()).dtype
        x = torch.empty(shape, dtype=dtype, device=CUDA)
        y = torch.empty(shape[:1], dtype=torch.long, device=CUDA)
        losses = lambda: F.cross_entropy(model(x).float(), y, reduction="none")  # noqa: E731
        return zo.differences(losses, list(model.parameters()), directions, 1e-3, **settings)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", [name for name in MODELS if name != "no rule"])
def test_every_model_has_its_differences_without_a_value(name, way):
    samples, sides = MODELS[name][1][:1], (2,) if "both" in way else ()
    value, differences = _differences(name, way)
    assert (value.device, differences.device) == (CUDA, CUDA)
    assert (value.shape, differences.shape) == (samples, (4, *sides, *samples))


@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule for torch.special.bessel_j0")
def test_a_function_without_a_rule_waits_for_its_values():
    """Evaluated twice, it must have given the same ones; which also shows that a read would be seen."""
    with pytest.raises(DataDependentOutputException):
        _differences("no rule", "one side")
