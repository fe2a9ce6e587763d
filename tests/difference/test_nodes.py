"""Noise on layers' outputs: with as many orthogonal directions as there are columns, the gradient is backprop's."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from node_models import CLASSES, LABELS, Decoder, N, error, flattened, made, measured, noise
from torch import Tensor, nn

import zo_triton as zo
from zo_triton.difference import Evaluation
from zo_triton.optim.node_measure import measure_nodes, start_plan


class Recurrent(nn.Module):
    """One layer applied to what it made: its gradient is a sum over its applications."""

    def __init__(self) -> None:
        super().__init__()
        self.cell, self.head = nn.Linear(8, 8), nn.Linear(8, CLASSES)

    def forward(self, x: Tensor) -> Tensor:
        for _ in range(3):
            x = torch.tanh(self.cell(x))
        return self.head(x)


class Adapted(nn.Module):
    """A frozen layer with a trained pair of thin ones beside it."""

    def __init__(self) -> None:
        super().__init__()
        self.frozen, self.down, self.up = (
            nn.Linear(8, CLASSES),
            nn.Linear(8, 2, bias=False),
            nn.Linear(2, CLASSES, bias=False),
        )
        self.frozen.requires_grad_(False)

    def forward(self, x: Tensor) -> Tensor:
        return self.frozen(x) + self.up(self.down(x))


MODELS: dict[str, tuple[Callable[[], nn.Module], tuple[int, ...]]] = {
    "a layer": (lambda: nn.Linear(8, CLASSES), (N, 8)),
    "ReLU network": (lambda: nn.Sequential(nn.Linear(8, 12), nn.ReLU(), nn.Linear(12, CLASSES)), (N, 8)),
    "no biases, other activations": (
        lambda: nn.Sequential(nn.Linear(8, 9, False), nn.GELU(), nn.Linear(9, 7, False), nn.Tanh(),
                              nn.Linear(7, CLASSES, False)), (N, 8),
    ),
    "convolutions": (
        lambda: nn.Sequential(nn.Conv2d(1, 4, 3, stride=2, padding=1), nn.ReLU(), nn.Conv2d(4, 6, 2, groups=2),
                              nn.Tanh(), nn.Flatten(), nn.Linear(24, CLASSES)), (N, 1, 6, 6),
    ),
    "pooling between": (
        lambda: nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten(), nn.Linear(12, CLASSES)),
        (N, 1, 6, 6),
    ),
    "a layer applied three times": (Recurrent, (N, 8)),
    "adapters of a frozen layer": (Adapted, (N, 8)),
    "layer norm": (
        lambda: nn.Sequential(nn.Linear(8, 12), nn.LayerNorm(12), nn.ReLU(), nn.Linear(12, CLASSES)), (N, 8)
    ),
    "batch norm in evaluation": (
        lambda: nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12).eval(), nn.ReLU(), nn.Linear(12, CLASSES)), (N,
    8) ),
}  # fmt: skip


@pytest.mark.parametrize("name", MODELS)
def test_as_many_directions_as_columns_give_the_gradient(name):
    make, shape = MODELS[name]
    model = made(make())
    params = [p for p in model.parameters() if p.requires_grad]
    x = noise(*shape)

    def closure() -> Tensor:
        return F.cross_entropy(model(x), LABELS, reduction="none")

    assert error(measured(closure, params, sides=2), closure, params) < 2e-5
    assert error(measured(closure, params), closure, params) < 2e-4


REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "cross entropy": lambda z: F.cross_entropy(z, LABELS),
    "cross entropy, an ignored label": lambda z: F.cross_entropy(z, LABELS.masked_fill(LABELS == 3, -100)),
    "cross entropy, weighted": lambda z: F.cross_entropy(z, LABELS, weight=torch.arange(1.0, CLASSES + 1)),
    "negative log-likelihood": lambda z: F.nll_loss(z.log_softmax(1), LABELS),
    "squared error": lambda z: F.mse_loss(z, torch.zeros_like(z)),
    "squared error, summed": lambda z: F.mse_loss(z, torch.zeros_like(z), reduction="sum"),
    "binary": lambda z: F.binary_cross_entropy_with_logits(z, torch.ones_like(z)),
    "a mean at the end": lambda z: z.square().sum(1).mean(),
    "a sum at the end": lambda z: z.tanh().sum(),
    "a mean over all elements": lambda z: torch.mean(z.square()),
    "divergence": lambda z: F.kl_div(z.log_softmax(1), torch.full_like(z, 0.2), reduction="batchmean"),
}


def twice_in_place(loss: Tensor) -> Tensor:
    loss *= 6
    loss /= 3
    return loss


LINEAR: dict[str, Callable[[Tensor], Tensor]] = {
    "negative": lambda z: -z.log_softmax(1).gather(1, LABELS[:, None]).mean(),
    "negative in place": lambda z: z.log_softmax(1).gather(1, LABELS[:, None]).mean().neg_(),
    "in place": lambda z: twice_in_place(F.cross_entropy(z, LABELS)),
    "a multiple": lambda z: 2 * F.cross_entropy(z, LABELS) * 0.25,
    "a multiple by a tensor": lambda z: torch.mul(torch.tensor(3.0), F.cross_entropy(z, LABELS)),
    "a sum over the count": lambda z: z.square().sum() / len(z),
    "in another dtype": lambda z: F.cross_entropy(z, LABELS).double().clone() / torch.tensor(8),
    "two terms": lambda z: z.square().mean() + 0.1 * z.abs().mean(),
    "terms of samples and of elements": lambda z: F.cross_entropy(z, LABELS) - z.square().mean(),
    "with a factor": lambda z: torch.sub(F.cross_entropy(z, LABELS), z.square().mean(), alpha=0.5).add(1),
    "a number less it": lambda z: 1 - F.cross_entropy(z, LABELS) - torch.rsub(z.tanh().mean(), 2, alpha=3),
    "a list of terms": lambda z: sum([z.tanh().sum(), F.cross_entropy(z, LABELS), z.exp().sum(1).mean()]),
    "a reduced loss reduced again": lambda z: F.cross_entropy(z, LABELS).mean().squeeze(),
}


@pytest.mark.parametrize("name", REDUCTIONS | LINEAR)
def test_losses_are_seen_before_a_reduction_and_what_is_linear_in_it(name):
    model, x, reduce = made(nn.Linear(8, CLASSES)), noise(N, 8), (REDUCTIONS | LINEAR)[name]

    def closure() -> Tensor:
        return reduce(model(x))

    found = measured(closure, model.parameters(), 8, sides=2)
    assert found.loss == pytest.approx(closure().item(), rel=1e-5)
    assert error(found, closure, list(model.parameters())) < 2e-5


@pytest.mark.parametrize(
    "closing",
    [
        lambda z: F.cross_entropy(z, LABELS) ** 2,
        lambda z: F.cross_entropy(z, LABELS) * z.square().mean(),
        lambda z: 2 / F.cross_entropy(z, LABELS),
        lambda z: F.cross_entropy(z, LABELS) + z[0, 0],
        lambda z: F.cross_entropy(z, LABELS) + z[1:].square().mean(),
        lambda z: z[0, 0],
        lambda z: (loss := F.cross_entropy(z, LABELS)).copy_(loss * 2),
        lambda z: (loss := F.cross_entropy(z, LABELS)) + loss.detach().mul_(2),
        lambda z: torch.zeros(()).copy_(F.cross_entropy(z, LABELS)),
    ],
    ids=["square", "product", "quotient", "an element more", "other samples", "an element", "over itself",
         "behind a view", "elsewhere"],
)  # fmt: skip
def test_a_scalar_that_was_made_otherwise_is_refused(closing):
    model, x = made(nn.Linear(8, CLASSES)), noise(N, 8)
    with pytest.raises(ValueError, match=r"of which losses it was made can't be seen.*reduction='none'"):
        measured(lambda: closing(model(x)), model.parameters(), 8)


def test_a_weight_that_is_an_embedding_too_is_perturbed_itself():
    model = made(Decoder(causal=True))
    model.head.weight = model.embed.weight
    params = list(model.parameters())
    found = measured(lambda: flattened(model), params, 2048, sides=2)
    assert 0 not in found.on_nodes
    assert error(found, lambda: flattened(model), params) < 1e-4


def test_a_sample_without_a_loss_is_left_out_of_the_gradient():
    model, x = made(nn.Linear(8, CLASSES)), noise(N, 8)
    x[2] = torch.inf

    def losses() -> Tensor:
        return F.cross_entropy(model(x), LABELS, reduction="none")

    with pytest.warns(RuntimeWarning, match="1 of 6 samples are NaN or infinite.*left out"):
        found = measured(losses, model.parameters(), 8, sides=2)
    good = [0, 1, 3, 4, 5]
    assert found.loss == pytest.approx(losses()[good].mean().item(), rel=1e-5)
    exact = torch.autograd.grad(
        F.cross_entropy(model(x[good]), LABELS[good], reduction="sum") / N, model.parameters()
    )
    for one, other in zip(found.gradients, exact, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)


def test_a_reduced_loss_that_is_nan_changes_nothing():
    model, x = made(nn.Linear(8, CLASSES)), noise(N, 8)
    x[2] = torch.nan
    with pytest.raises(zo.NonFiniteLossError, match="reduction='none'"):
        measured(lambda: F.cross_entropy(model(x), LABELS), model.parameters(), 8)


def test_an_input_that_is_overwritten_later_was_kept():
    model, x = made(nn.Sequential(nn.Linear(8, 8), nn.Linear(8, CLASSES))), noise(N, 8)

    def careful() -> Tensor:
        return (model[1](model[0](x)) + model[0](x).sum(1, keepdim=True)).square().sum(1)

    def careless() -> Tensor:
        hidden = model[0](x)
        out = model[1](hidden)
        total = hidden.sum(1, keepdim=True)
        hidden.zero_()
        return (out + total).square().sum(1)

    params = list(model.parameters())
    assert error(measured(careless, params, 64, sides=2), careful, params) < 2e-5


def test_chunks_and_sizes_of_a_batch_change_nothing():
    model, x = made(MODELS["ReLU network"][0]()), noise(N, 8)
    params = list(model.parameters())

    def losses() -> Tensor:
        return F.cross_entropy(model(x), LABELS, reduction="none")

    whole, cut = measured(losses, params, 16), measured(losses, params, 16, chunk=3)
    for one, other in zip(whole.gradients, cut.gradients, strict=True):
        torch.testing.assert_close(one, other, atol=2e-5, rtol=1e-3)

    def fewer() -> Tensor:
        return F.cross_entropy(model(x[:2]), LABELS[:2], reduction="none")

    after = measured(fewer, params, 32, plan=whole.plan, sides=2)
    assert error(after, fewer, params) < 2e-5


def test_bfloat16_differences_are_as_near_as_their_rounding():
    model, x = made(MODELS["ReLU network"][0]()), noise(N, 8)
    params = list(model.parameters())

    def losses() -> Tensor:
        return F.cross_entropy(model(x), LABELS, reduction="none")

    found = measured(losses, params, 32, compute_dtype=torch.bfloat16)
    assert error(found, losses, params) < 2e-2


def test_random_signs_are_unbiased():
    model, x = made(nn.Linear(8, CLASSES)), noise(N, 8)
    params = list(model.parameters())

    def losses() -> Tensor:
        return F.cross_entropy(model(x), LABELS, reduction="none")

    exact = torch.cat([g.flatten() for g in torch.autograd.grad(losses().mean(), params)])
    for distribution in ("rademacher", "hadamard"):
        draws, plan = [], start_plan("activations", 2)
        for step in range(1, 401):
            directions = zo.Directions(5, step, 2, distribution)
            with torch.no_grad():
                found = measure_nodes(losses, params, directions, Evaluation(1e-3, 2), plan)
            plan = found.plan
            draws.append(torch.cat([g.flatten() for g in found.gradients if g is not None]))
        every = torch.stack(draws)
        z = (every.mean(0) - exact) / (every.std(0) / len(draws) ** 0.5)
        assert z.abs().max() < 4.5


def test_auto_perturbs_a_wide_convolution_in_its_weights_and_a_wide_layer_on_its_nodes():
    model = made(
        nn.Sequential(nn.Conv2d(1, 6, 5), nn.ReLU(), nn.AvgPool2d(4), nn.Flatten(), nn.Linear(216, CLASSES))
    )
    params, image = list(model.parameters()), noise(N, 1, 28, 28)
    found = measured(lambda: F.cross_entropy(model(image), LABELS), params, 16, perturb="auto")
    assert found.plan.nodes.chosen
    assert found.on_nodes == {2, 3}  # the convolution has 3 456 nodes a sample, and 156 weights


def test_a_closure_without_layers_is_refused():
    weight = noise(8)
    with pytest.raises(ValueError, match="needs linear layers or convolutions"):
        measured(lambda: (noise(N, 8) * weight).sum(1).square(), [weight], 8)


EMPTY: dict[str, Callable[[Tensor], Tensor]] = {
    "losses": lambda z: F.cross_entropy(z, LABELS[:0], reduction="none"),
    "a mean": lambda z: F.cross_entropy(z, LABELS[:0]),
    "a sum": lambda z: z.square().sum(),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_batch_is_refused_as_such(name):
    model = made(MODELS["ReLU network"][0]())
    with pytest.raises(
        ValueError, match=r"the batch is empty: its losses have shape \(0.*leave empty batches out"
    ):
        measured(lambda: EMPTY[name](model(noise(0, 8))), model.parameters(), 8)
