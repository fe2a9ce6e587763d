import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks.contenders.backprop import Backprop
from benchmarks.contenders.contender import Setting
from benchmarks.contenders.forward_gradient import ForwardGradient
from benchmarks.contenders.fused import Fused, FusedSGD
from benchmarks.contenders.mezo import MeZO
from benchmarks.contenders.rank_one import RankOne
from benchmarks.contenders.vmap_ensemble import VmapEnsemble
from benchmarks.race.networks import count_parameters, make_mlp

SIZES = (5, 4, 3)  # d = 39: small enough for thousands of directions, with every kind of layer


def batch(seed=0, samples=7):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(samples, 5, generator=generator), torch.arange(samples) % 3


def flat(model):
    return torch.cat([parameter.detach().flatten() for parameter in model.parameters()])


def autograd(model, x, y):
    loss = F.cross_entropy(model(x), y)
    return torch.cat([slope.flatten() for slope in torch.autograd.grad(loss, list(model.parameters()))])


def test_mezo_restores_the_weights_within_rounding():
    model = make_mlp(SIZES, 0)
    before = flat(model)
    MeZO(model, Setting(0.0, 0, 50)).step(*batch())
    # 150 additions of ε-sized noise, each rounded to an ulp of values below 1.
    assert (flat(model) - before).abs().max() < 150 * 2**-24


@pytest.mark.parametrize(
    "build",
    [
        lambda model, K: MeZO(model, Setting(1.0, 0, K)),
        lambda model, K: VmapEnsemble(model, Setting(1.0, 0, K)),
        lambda model, K: VmapEnsemble(model, Setting(1.0, 0, K), sides=2),
        lambda model, K: ForwardGradient(model, Setting(1.0, 0, K)),
        lambda model, K: RankOne(model, Setting(1.0, 0, K)),
        lambda model, K: FusedSGD(model, Setting(1.0, 0, K), compute_dtype=torch.float32),
    ],
    ids=["mezo", "vmap", "vmap central", "forward", "rank one", "fused"],
)
def test_mean_estimate_agrees_with_autograd(build):
    count = 2000
    model = make_mlp(SIZES, 0)
    x, y = batch()
    truth, before = autograd(model, x, y), flat(model)
    build(model, count).step(x, y)
    estimate = before - flat(model)
    # A component's variance over K directions is at most (|g|² + g_i²)/K.
    deviation = ((truth.square().sum() + truth.square()) / count).sqrt()
    assert ((estimate - truth) / deviation).abs().max() < 4.5


@pytest.mark.parametrize("sides", [1, 2])
def test_vmap_ensemble_equals_one_evaluation_after_another(sides):
    model, eps = make_mlp(SIZES, 0).double(), 1e-3
    x, y = batch()
    x = x.double()
    generator = torch.Generator().manual_seed(3)
    noise = {
        name: torch.randn(4, *weight.shape, generator=generator, dtype=torch.float64)
        for name, weight in model.named_parameters()
    }
    _, slopes = VmapEnsemble(model, Setting(0.0, 0, 4), eps, sides).slopes(noise, x, y)

    def loss(k, step):
        moved = make_mlp(SIZES, 0).double()
        with torch.no_grad():
            for name, weight in moved.named_parameters():
                weight += step * noise[name][k]
            return F.cross_entropy(moved(x), y)

    for k in range(4):
        low = loss(k, -eps if sides == 2 else 0.0)
        assert slopes[k].item() == pytest.approx(((loss(k, eps) - low) / (sides * eps)).item(), rel=1e-9)


def test_forward_gradient_takes_exact_derivatives():
    model, (x, y) = make_mlp(SIZES, 0).double(), batch()
    noise = {name: torch.randn(4, *weight.shape).double() for name, weight in model.named_parameters()}
    loss, slopes = ForwardGradient(model, Setting(0.0, 0, 4)).slopes(noise, x.double(), y)
    truth = autograd(model, x.double(), y)
    directions = torch.cat([each.flatten(1) for each in noise.values()], dim=1)
    torch.testing.assert_close(slopes, directions @ truth)
    assert loss == pytest.approx(F.cross_entropy(model(x.double()), y).item())


def test_mezo_walks_the_directions_that_it_measured():
    model = make_mlp(SIZES, 0)
    x, y = batch()
    truth, before = autograd(model, x, y), flat(model)
    MeZO(model, Setting(1e-2, 0, 1)).step(x, y)
    moved = before - flat(model)
    # The step s = lr·(g·z)z has s·g = lr·(g·z)², so |s|²/(lr·s·g) is |z|², which is near d = 39.
    norm = moved.square().sum() / (1e-2 * moved @ truth)
    assert 39 - 6 * 78**0.5 < norm < 39 + 6 * 78**0.5
    assert moved @ truth > 0


def test_orthogonal_signs_on_activations_take_backprops_step_with_as_many_directions_as_columns():
    """7 columns of nodes, 8 directions of order 8: the estimate is the gradient but for ε."""
    fused, eager = make_mlp(SIZES, 0), make_mlp(SIZES, 0)
    x, y = batch()
    setting = Setting(0.5, 0, 8)
    Fused(fused, setting, momentum=0.0, compute_dtype=torch.float32, perturb="activations").step(x, y)
    Backprop(eager, setting, adam=False).step(x, y)
    torch.testing.assert_close(flat(fused), flat(eager), rtol=0, atol=1e-3)


def test_differences_of_outputs_are_in_bfloat16_only_where_a_layer_is_worth_it(monkeypatch):
    monkeypatch.setattr("benchmarks.contenders.fused.hardware_dtype", lambda: torch.bfloat16)
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    narrow = nn.Sequential(nn.Embedding(9, 63), nn.Linear(63, 64), nn.Tanh())
    wide = nn.Sequential(nn.Linear(64, 2), nn.Tanh())
    convolutional = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.Linear(8, 2))
    compiled = make_mlp((64, 8, 2), 0)
    found = {
        name: Fused(model, Setting(0.1, 0, 4), perturb="activations").computes_in
        for name, model in zip("nwcm", (narrow, wide, convolutional, compiled), strict=True)
    }
    assert found == {"n": "float32", "w": "bfloat16", "c": "bfloat16", "m": "float32"}
    assert Fused(make_mlp((64, 8, 2), 0), Setting(0.1, 0, 4)).computes_in is None


@pytest.mark.parametrize("adam", [False, True])
def test_mezo_and_vmap_feed_adam_or_descend(adam):
    model = make_mlp(SIZES, 0)
    x, y = batch()
    start = F.cross_entropy(model(x), y).item()
    contender = MeZO(model, Setting(0.02, 0, 16), adam=adam)
    for _ in range(30):
        contender.step(x, y)
    assert F.cross_entropy(model(x), y).item() < start


def test_backprop_is_plain_gradient_descent():
    model = make_mlp(SIZES, 0)
    x, y = batch()
    expected = flat(model) - 0.5 * autograd(model, x, y)
    assert Backprop(model, Setting(0.5), adam=False).step(x, y) == pytest.approx(
        F.cross_entropy(make_mlp(SIZES, 0)(x), y).item()
    )
    torch.testing.assert_close(flat(model), expected)


@pytest.mark.parametrize(
    ("build", "passes"),
    [
        (lambda model: MeZO(model, Setting(0.1, 0, 3)), 6),
        (lambda model: VmapEnsemble(model, Setting(0.1, 0, 3)), 4),
        (lambda model: VmapEnsemble(model, Setting(0.1, 0, 3), sides=2), 6),
        (lambda model: ForwardGradient(model, Setting(0.1, 0, 3)), 7),
        (lambda model: Backprop(model, Setting(0.1)), 3),
        (lambda model: Fused(model, Setting(0.1, 0, 3)), 4),
        (lambda model: FusedSGD(model, Setting(0.1, 0, 3), sides=2), 7),
    ],
    ids=["mezo", "vmap", "vmap central", "forward", "backprop", "fused Adam", "fused central"],
)
def test_evaluations_are_counted_as_the_report_says(build, passes):
    assert build(make_mlp(SIZES, 0)).evaluations_per_step == passes


def test_mezo_really_makes_the_passes_it_counts():
    model = make_mlp(SIZES, 0)
    seen = []
    model.register_forward_hook(lambda *_: seen.append(1))
    contender = MeZO(model, Setting(0.1, 0, 3))
    contender.step(*batch())
    assert len(seen) == contender.evaluations_per_step


@pytest.mark.parametrize("build", [Fused, FusedSGD, MeZO, VmapEnsemble, RankOne])
def test_seed_decides_and_global_state_is_left_alone(build):
    state = torch.get_rng_state()
    ends = []
    for seed in (0, 0, 1):
        model = make_mlp(SIZES, 0)
        contender = build(model, Setting(0.05, seed, 4))
        contender.step(*batch())
        contender.step(*batch(1))
        ends.append(flat(model))
    assert torch.equal(ends[0], ends[1])
    assert not torch.equal(ends[0], ends[2])
    assert torch.equal(torch.get_rng_state(), state)


def test_networks_have_torchs_initialisation_range():
    model = make_mlp((64, 32, 10), 0)
    assert count_parameters(model) == 2410
    assert 0.9 / 8 < model[0].weight.abs().max() <= 1 / 8
    with pytest.raises(ValueError, match=r"an input and an output size, got \(3,\)"):
        make_mlp((3,), 0)
