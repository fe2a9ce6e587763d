"""Noise on the outputs of ``nn.MultiheadAttention``'s own layers, wherever its batch lies."""

import pytest
import torch
import torch.nn.functional as F
from node_models import error, made, measured, noise
from torch import Tensor, nn

T, E = 3, 4
LABELS = torch.tensor([0, 2])


class Classifier(nn.Module):
    """A layer of a transformer, and the mean of its tokens: [N, T, E] → [N, 3]."""

    def __init__(self, mixer: nn.Module, mix) -> None:
        super().__init__()
        self.mixer, self.head = mixer, nn.Linear(E, 3)
        self.mix = mix

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.mix(self.mixer, x).mean(1))


def encoder(**settings):
    return nn.TransformerEncoderLayer(E, 2, 6, dropout=0.0, batch_first=True, **settings)


def attention(**settings):
    return nn.MultiheadAttention(E, 2, **settings)


PADDED = torch.tensor([[False, False, True], [False, False, False]])
AHEAD = torch.ones(T, T, dtype=torch.bool).triu(1)

MODELS = {
    "encoder layer": (encoder, lambda m, x: m(x)),
    "encoder layer, norm first, padding": (
        lambda: encoder(norm_first=True), lambda m, x: m(x, src_key_padding_mask=PADDED),
    ),
    "batch first": (lambda: attention(batch_first=True), lambda m, x: m(x, x, x, need_weights=False)[0]),
    "with its weights": (lambda: attention(batch_first=True), lambda m, x: m(x, x, x)[0]),
    "batch in the middle": (
        attention, lambda m, x: m(*[x.transpose(0, 1)] * 3, attn_mask=AHEAD)[0].transpose(0, 1)
    ),
    "no biases": (lambda: attention(bias=False, batch_first=True), lambda m, x: m(x, x, x)[0]),
}  # fmt: skip


def step(name, num, **settings):
    """A step of one of the models: what it measured, and its closure and parameters."""
    make, mix = MODELS[name]
    model = made(Classifier(make(), mix))
    x = noise(2, T, E)

    def closure() -> Tensor:
        return F.cross_entropy(model(x), LABELS, reduction="none")

    params = list(model.parameters())
    return measured(closure, params, num, **settings), closure, params


@pytest.mark.parametrize("name", MODELS)
def test_as_many_directions_as_columns_give_the_gradient(name):
    found, closure, params = step(name, 1024, sides=2)
    assert error(found, closure, params) < 5e-5


@pytest.mark.parametrize("name", MODELS)
def test_the_attentions_matrices_are_perturbed_on_their_outputs(name):
    found, _, params = step(name, 4)  # a warning would be an error
    on_weights = [tuple(p.shape) for i, p in enumerate(params) if i not in found.on_nodes]
    assert on_weights == ([(E,)] * 4 if "encoder" in name else [])  # the norms'


def test_slices_of_packed_weights_are_perturbed_themselves():
    """Of queries that are not the keys, torch projects each by a third of the matrix."""
    model, x, memory = made(nn.MultiheadAttention(E, 2, batch_first=True)), noise(2, T, E), noise(2, 5, E)

    def closure() -> Tensor:
        return model(x, memory, memory)[0].square().sum((1, 2))

    params = list(model.parameters())
    names = [name for name, _ in model.named_parameters()]
    found = measured(closure, params, sides=2)
    assert {names[i] for i in found.on_nodes} == {"out_proj.weight", "out_proj.bias"}
    assert error(found, closure, params) < 5e-5


def test_tokens_that_see_later_ones_past_a_hidden_block_do_so_from_the_first_step():
    """Differences of −∞ − (−∞) say nothing about which token's noise reaches which loss."""
    keys, values, x, target = made(nn.Linear(E, E)), made(nn.Linear(E, E)), noise(2, 4, E), noise(2, 4, E)
    hidden = torch.tensor([[False, False, True, True], [False] * 4])[:, None]

    def closure() -> Tensor:
        largest, total, mixed = x.new_full((2, 4, 1), -torch.inf), x.new_zeros(2, 4, 1), torch.zeros_like(x)
        for k, v, mask in zip(keys(x).split(2, 1), values(x).split(2, 1), hidden.split(2, 2), strict=True):
            scores = (x @ k.mT).masked_fill(mask, -torch.inf)
            now = torch.maximum(largest, scores.amax(2, keepdim=True))
            old, new = torch.exp(largest - now), torch.exp(scores - now)
            total, mixed, largest = total * old + new.sum(2, keepdim=True), mixed * old + new @ v, now
        return (mixed / total - target).square().mean(2)

    params = [*keys.parameters(), *values.parameters()]
    assert error(measured(closure, params, 256, sides=2), closure, params) < 5e-5
