"""Which samples and tokens depend on one another is measured, and what can't be told apart is refused or moved."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from node_models import CLASSES, LABELS, Decoder, N, by_token, error, flattened, made, measured, noise
from torch import Tensor, nn

from zo_triton.difference.nodes import NodePlan
from zo_triton.difference.plan import Plan


@pytest.mark.parametrize("losses", [by_token, flattened], ids=["[N, T]", "flattened and reduced"])
def test_tokens_are_credited_with_later_losses_only_where_attention_is_causal(losses):
    model = made(Decoder(causal=True))
    params = list(model.parameters())
    found = measured(lambda: losses(model), params, 2048, sides=2)
    nodes = found.plan.nodes
    assert error(found, lambda: losses(model), params) < 1e-4
    assert list(nodes.known.values()) == [frozenset({0, 1, 2})]
    assert found.on_nodes == {4, 5, 6, 7, 8, 9}
    model.causal = False
    again = measured(lambda: losses(model), params, 2048, plan=found.plan, sides=2)
    assert list(again.plan.nodes.known.values())[-1] == frozenset({1, 2})  # behind the attention
    assert error(again, lambda: losses(model), params) < 1e-4


def test_credit_from_a_token_on_has_the_smaller_error():
    model = made(Decoder(causal=True))
    params = list(model.parameters())
    found = measured(lambda: by_token(model), params, 64)
    program = next(iter(found.plan.nodes.known))
    whole = Plan(64, nodes=NodePlan(found.plan.nodes.weights, known={program: frozenset()}))
    blunt = measured(lambda: by_token(model), params, 64, plan=whole)
    assert error(found, lambda: by_token(model), params) < error(blunt, lambda: by_token(model), params)


def test_layers_before_batch_statistics_are_perturbed_in_their_weights_and_told():
    model = made(nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, CLASSES)))
    params, x = list(model.parameters()), noise(N, 8)

    def closure() -> Tensor:
        return F.cross_entropy(model(x), LABELS)

    with pytest.warns(
        UserWarning, match=r"parameter 0 of shape \(12, 8\), parameter 1.*reach the losses of others"
    ):
        found = measured(closure, params, 1024, sides=2)
    assert found.on_nodes == {4, 5}
    assert model[1].num_batches_tracked == 1
    assert error(found, closure, params) < 1e-4


def test_evaluation_mode_does_not_vouch_for_training_mode():
    model = made(nn.Sequential(nn.Linear(8, 12), nn.BatchNorm1d(12), nn.ReLU(), nn.Linear(12, CLASSES)))
    params, x = list(model.parameters()), noise(N, 8)

    def closure() -> Tensor:
        return F.cross_entropy(model(x), LABELS)

    found = measured(closure, params, plan=None) if model.eval() else None
    model.train()
    with pytest.warns(UserWarning, match="reach the losses of others"):
        again = measured(closure, params, plan=found.plan)
    assert again.on_nodes == {4, 5}


MIXING: dict[str, Callable[[nn.Module, Tensor], Tensor]] = {
    "batch statistics": lambda net, x: F.batch_norm(net(x), None, None, training=True).square().sum(1),
    "a neighbour's output": lambda net, x: (net(x) - net(x).roll(1, 0)).square().sum(1),
    "a contrast of all": lambda net, x: F.cross_entropy(net(x) @ net(x).T, torch.arange(N), reduction="none"),
}


@pytest.mark.parametrize("name", MIXING)
def test_what_mixes_samples_everywhere_is_refused(name):
    net, x, mix = made(nn.Linear(8, CLASSES)), noise(N, 8), MIXING[name]
    with pytest.raises(ValueError, match=r"no layer can be perturbed on its outputs \(parameter 0 of shape"):
        measured(lambda: mix(net, x), net.parameters(), 8)


def test_a_batch_that_is_not_the_first_axis_is_noticed():
    layer, x = made(nn.Linear(8, CLASSES)), noise(4, 2, 8)  # four tokens of two samples
    with pytest.raises(ValueError, match="Put the batch first"):
        measured(lambda: layer(x).square().sum((0, 2)), layer.parameters(), 8)


def test_a_mask_that_changes_with_the_data_is_noticed():
    model, x = made(nn.Linear(8, CLASSES)), noise(N, 8)
    mixing = torch.eye(N)

    def closure() -> Tensor:
        return (mixing @ model(x)).square().sum(1)

    found = measured(closure, model.parameters(), 8)
    mixing[:] = 1.0
    with (
        pytest.warns(RuntimeWarning, match="did not depend on each other do so now"),
        pytest.raises(ValueError, match="no layer can be perturbed"),
    ):
        measured(closure, model.parameters(), 8, plan=found.plan)
