"""η* of an optimizer's run at a model's present weights."""

import pytest
import torch
from torch import nn

import zo_triton as zo
from benchmarks.race.networks import make_mlp
from zo_triton.nzk import max_stable_lr_of, probe_lr

X = torch.randn(24, 4, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_on_weights_it_is_the_probes(momentum, distribution):
    model = make_mlp((4, 8, 3), 0)
    opt = zo.ZOSGD(
        model.parameters(), lr=1e9, directions=8, momentum=momentum, distribution=distribution, seed=0
    )
    expected = probe_lr(model, X, 1.0, 8, distribution=distribution, momentum=momentum).lower
    assert max_stable_lr_of(opt, model, X) == expected


@pytest.mark.parametrize("perturb", ["activations", "auto"])
def test_on_activations_it_is_gradient_descents(perturb):
    model = make_mlp((4, 8, 3), 0)
    opt = zo.ZOSGD(model.parameters(), lr=1.0, directions=8, momentum=0.5, perturb=perturb)
    assert max_stable_lr_of(opt, model, X) == 2 * 1.5 / probe_lr(model, X, 1.0, 8).largest


def test_it_is_that_in_eval_mode_and_leaves_the_model_as_it_was():
    model = nn.Sequential(nn.Linear(4, 8), nn.Dropout(), nn.Linear(8, 3))
    model[0].eval()
    opt = zo.ZOSGD(model[2].parameters(), lr=1.0, directions=8)
    found = max_stable_lr_of(opt, model, X)
    assert [module.training for module in model] == [False, True, True]
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        features = model[0](X)
    assert found == pytest.approx(probe_lr(model[2], features, 1.0, 8).lower, rel=1e-5)


def test_no_curvature_sets_no_limit():
    model = nn.Linear(4, 1, bias=False)
    for perturb in ("weights", "activations"):
        opt = zo.ZOSGD(model.parameters(), lr=1.0, perturb=perturb)
        assert max_stable_lr_of(opt, model, 0 * X, "mse") == float("inf")


def test_bad_questions():
    model = make_mlp((4, 3), 0)
    with pytest.raises(TypeError, match=r"known for a zo\.ZOSGD, got ZOAdam"):
        max_stable_lr_of(zo.ZOAdam(model.parameters()), model, X)
    with pytest.raises(ValueError, match="got maximize=True; ask with maximize=False"):
        max_stable_lr_of(zo.ZOSGD(model.parameters(), lr=1.0, maximize=True), model, X)
    with pytest.raises(ValueError, match="hinge"):
        max_stable_lr_of(zo.ZOSGD(model.parameters(), lr=1.0), model, X, "hinge")
