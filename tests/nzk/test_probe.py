import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton.nzk import check_lr_of, curvature, max_stable_lr, ntk, probe_lr

X = torch.randn(12, 5, generator=torch.Generator().manual_seed(0))


def linear(outputs, seed=1):
    model = nn.Linear(5, outputs)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


LOSSES = {
    "cross_entropy": lambda f: F.cross_entropy(f, torch.zeros(len(f), dtype=torch.int64)),
    "mse": lambda f: F.mse_loss(f, torch.ones_like(f)),
    "squared": lambda f: (f - 1).square().sum() / (2 * len(f)),
}


@pytest.mark.parametrize("loss", LOSSES)
def test_curvature_is_the_hessian_of_a_linear_model(loss):
    model = linear(3).double()
    x = X.double()

    def value(weight, bias):
        return LOSSES[loss](F.linear(x, weight, bias))

    blocks = torch.autograd.functional.hessian(value, tuple(model.parameters()))
    hessian = torch.cat(
        [torch.cat([b.reshape(a, -1) for b in row], 1) for a, row in zip((15, 3), blocks, strict=True)]
    )
    expected = np.linalg.eigvalsh(hessian.numpy())
    found = curvature(model, x, loss)
    np.testing.assert_allclose(found[::-1][:18], expected[::-1], atol=1e-10)
    assert np.abs(found[:-18]).max() < 1e-10


def test_squared_loss_asks_the_ntk():
    model = linear(1)
    limit = max_stable_lr(np.linalg.eigvalsh(ntk(model, X) / 12).clip(0), 4)
    probe = probe_lr(model, X, lr=limit / 2, num_directions=4, loss="squared", distribution="gaussian")
    assert probe.lower == probe.upper == pytest.approx(limit)
    assert not probe.is_beyond
    assert "below it" in str(probe)


@pytest.mark.parametrize("loss", LOSSES)
def test_bounds_without_the_spectrum_enclose_the_limit(loss, monkeypatch):
    model = nn.Sequential(linear(4), nn.Tanh(), nn.Linear(4, 3))
    exact = probe_lr(model, X, 0.1, 8, loss, distribution="gaussian")
    heavy = probe_lr(model, X, 0.1, 8, loss, distribution="gaussian", momentum=0.9)
    monkeypatch.setattr("zo_triton.nzk.probe.LARGEST_JACOBIAN", 0)
    monkeypatch.setattr("zo_triton.nzk.probe.PROBES", 400)
    rough = probe_lr(model, X, 0.1, 8, loss, distribution="gaussian")
    assert rough.largest == pytest.approx(exact.largest, rel=1e-4)
    assert rough.trace == pytest.approx(exact.trace, rel=0.1)
    assert rough.lower * 0.9 < exact.lower < rough.upper * 1.1
    rough = probe_lr(model, X, 0.1, 8, loss, distribution="gaussian", momentum=0.9)
    assert rough.lower * 0.9 < heavy.lower < rough.upper * 1.1


def test_the_limit_parts_runs_that_settle_from_runs_that_do_not():
    x, target = X, X.sum(1, keepdim=True)
    ends = {}
    for share in (0.5, 2.0):
        model = linear(1)
        opt = zo.ZOSGD(model.parameters(), lr=1e-9, directions=4, eps=1e-3, seed=3)
        limit = check_lr_of(opt, model, x, "mse").upper
        opt.param_groups[0]["lr"] = share * limit
        if share > 1:
            with pytest.warns(RuntimeWarning, match="beyond it"):
                check_lr_of(opt, model, x, "mse")
        first = F.mse_loss(model(x), target).item()
        for _ in range(200 if share < 1 else 40):
            last = opt.step(lambda model=model: F.mse_loss(model(x), target))
        ends[share] = last / first
    assert ends[0.5] < 0.1
    assert ends[2.0] > 10


def test_a_batch_norm_in_training_mode_is_refused_before_its_statistics_move():
    model = nn.Sequential(linear(4), nn.BatchNorm1d(4))
    with pytest.raises(ValueError, match=r"in training mode.*call model\.eval\(\) first"):
        probe_lr(model, X, 0.1, 4)
    assert model[1].num_batches_tracked == 0


def test_bad_questions():
    model = linear(1)
    with pytest.raises(ValueError, match="loss"):
        probe_lr(model, X, 0.1, 4, "hinge")
    with pytest.raises(ValueError, match="lr"):
        probe_lr(model, X, -1.0, 4, "mse")
    opt = zo.ZOSGD(model.parameters(), lr=0.1, aggregator="best")
    with pytest.raises(ValueError, match="aggregator 'average'"):
        check_lr_of(opt, model, X)


def test_only_the_curvature_along_what_is_trained_counts():
    model = nn.Sequential(linear(4), nn.Tanh(), nn.Linear(4, 3))
    head = model[2].parameters()
    told = check_lr_of(zo.ZOSGD(head, lr=1e-9, directions=8), model, X)
    assert all(parameter.requires_grad for parameter in model.parameters())
    with torch.no_grad():
        features = model[:2](X)
    alone = probe_lr(model[2], features, 1e-9, 8)
    assert told.upper == pytest.approx(alone.upper, rel=1e-5)
    assert told.upper > probe_lr(model, X, 1e-9, 8).upper


def test_a_frozen_parameter_that_the_optimizer_has_counts():
    model = linear(3)
    free = probe_lr(model, X, 1e-9, 8)
    model.weight.requires_grad_(False)
    with pytest.warns(UserWarning, match="will move all the same"):
        opt = zo.ZOSGD(model.parameters(), lr=1e-9, directions=8)
    assert check_lr_of(opt, model, X).upper == free.upper
    assert [parameter.requires_grad for parameter in model.parameters()] == [False, True]


def test_a_tensor_that_is_not_the_models_is_refused_by_name_and_shape():
    model, scale = linear(3), torch.ones(2, 7, requires_grad=True)
    opt = zo.ZOSGD([*model.parameters(), scale], lr=0.1)
    with pytest.raises(ValueError, match=r"no parameter of the model: \[2, 7\]; pass the module"):
        check_lr_of(opt, model, X)
    opt = zo.ZOSGD([*model.named_parameters(), ("scale", scale)], lr=0.1)
    with pytest.raises(ValueError, match=r"no parameter of the model: scale \[2, 7\]"):
        check_lr_of(opt, model, X)
    with pytest.raises(TypeError, match=r"model must be a torch\.nn\.Module"):
        check_lr_of(opt, lambda x: x, X)


def test_a_climb_has_no_such_limit():
    model = linear(3)
    with pytest.raises(ValueError, match="got maximize=True; ask with maximize=False"):
        check_lr_of(zo.ZOSGD(model.parameters(), lr=0.1, maximize=True), model, X)


@pytest.mark.parametrize("ask", [curvature, lambda model, x, loss: probe_lr(model, x, 0.1, 4, loss)])
def test_what_has_no_curvature_is_refused(ask):
    broken = X.clone()
    broken[3, :2] = torch.tensor([float("nan"), float("inf")])
    with pytest.raises(ValueError, match=r"x has 2 value\(s\) that are NaN or infinite"):
        ask(linear(3), broken, "mse")
    for model in (nn.Sequential(linear(6), nn.Unflatten(1, (2, 3))), nn.Sequential(linear(1), nn.Flatten(0))):
        with pytest.raises(ValueError, match=r"needs logits \[n, classes\], got outputs of shape \(12,"):
            ask(model, X, "cross_entropy")
    with pytest.raises(ValueError, match=r"got shape \(36,\) for \(12, 5\); give each sample its own"):
        ask(nn.Sequential(linear(3), nn.Flatten(0)), X, "mse")
    with pytest.raises(TypeError, match="model must return a tensor, got tuple; wrap it"):
        ask(nn.RNN(5, 3), X, "mse")
    model = linear(3)
    torch.nn.init.constant_(model.bias, float("inf"))
    with pytest.raises(zo.NonFiniteLossError, match="outputs on x are not all finite"):
        ask(model, X, "mse")


def test_adams_rate_has_no_such_limit():
    model = linear(1)
    with pytest.raises(TypeError, match=r"known for a zo\.ZOSGD, got ZOAdam"):
        check_lr_of(zo.ZOAdam(model.parameters()), model, X, "mse")
