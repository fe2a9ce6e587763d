"""Real architectures, unchanged, in float32 against finite differences in float64 at ε = 1e-4."""

import pytest
import torch
import torch.nn.functional as F
from architectures import GPT, Recurrent, ResNet20, VisionTransformer, le_net
from difference_oracle import expected_of_module, median_relative_error
from torch import nn

import zo_triton as zo
from zo_triton.difference import differences

GENERATOR = torch.Generator().manual_seed(0)
GREY = torch.randn(5, 1, 16, 16, generator=GENERATOR)
COLOUR = torch.randn(4, 3, 16, 16, generator=GENERATOR)
SERIES = torch.randn(5, 6, 5, generator=GENERATOR)
TOKENS = torch.randint(0, 19, (3, 11), generator=GENERATOR)
LABELS = torch.randint(0, 10, (5,), generator=GENERATOR)
DIRECTIONS = zo.Directions(seed=5, step=1, num=16)


def classifies(inputs):
    def loss(model):
        inputs_of_dtype = inputs.to(next(model.parameters()).dtype)
        return F.cross_entropy(model(inputs_of_dtype), LABELS[: inputs.shape[0]])

    return loss


CASES = {
    "LeNet": (le_net, classifies(GREY)),
    "ResNet-20": (ResNet20, classifies(COLOUR)),
    "ResNet-20 in evaluation": (lambda: ResNet20().eval(), classifies(COLOUR)),
    "ViT": (VisionTransformer, classifies(COLOUR)),
    "ViT in evaluation": (lambda: VisionTransformer().eval(), classifies(COLOUR)),
    "GPT": (GPT, lambda model: model(TOKENS, TOKENS).loss),
    "LSTM": (lambda: Recurrent(nn.LSTM), classifies(SERIES)),
    "GRU": (lambda: Recurrent(nn.GRU), classifies(SERIES)),
    "bidirectional two-layer LSTM": (
        lambda: Recurrent(nn.LSTM, num_layers=2, bidirectional=True),
        classifies(SERIES),
    ),
}


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
@pytest.mark.parametrize("name", CASES)
def test_loss_differences(name, distribution):
    """Strict: none of them meets the generic fallback, and no warning is given (they are errors here)."""
    build, loss = CASES[name]
    torch.manual_seed(0)
    model = build()
    directions = zo.Directions(5, 1, 8, distribution)
    found = differences(lambda: loss(model), model.parameters(), directions, 1e-4, strict=True)[1]
    expected = expected_of_module(model, loss, directions, 1e-4)
    assert median_relative_error(found, expected) <= 1e-4


@pytest.mark.parametrize("name", ["LeNet", "ResNet-20", "ViT", "GPT"])
def test_loss_differences_in_bfloat16(name):
    build, loss = CASES[name]
    torch.manual_seed(0)
    model, settings = build(), {"sides": 2, "compute_dtype": torch.bfloat16, "strict": True}
    found = differences(lambda: loss(model), model.parameters(), DIRECTIONS, 1e-4, **settings)[1]
    expected = expected_of_module(model, loss, DIRECTIONS, 1e-4, 2, torch.bfloat16)
    assert median_relative_error(found, expected) <= 2e-2


def test_a_language_model_takes_a_step():
    """Called as a Hugging Face model is: ``model(input_ids=…, labels=…).loss``; the embedding is the head."""
    torch.manual_seed(0)
    model = GPT(dropout=0.1)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    optimizer = zo.ZOSGD(model.parameters(), lr=0.1, directions=32, eps=1e-3, seed=0, strict=True)
    losses = [optimizer.step(lambda: model(input_ids=TOKENS, labels=TOKENS).loss) for _ in range(40)]
    assert losses[-1] < losses[0] - 0.3
    assert not any(torch.equal(a, b) for a, b in zip(before, model.parameters(), strict=True))
    assert model.lm_head.weight is model.wte.weight
