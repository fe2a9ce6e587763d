"""A loss over a vocabulary for whose differences the budget has no room: made in pieces, never there whole."""

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import ENGINES, expected_differences, relative_error

import zo_triton as zo
from zo_triton.difference import heads, run

WORDS, WIDTH, BATCH, LENGTH = 67, 6, 3, 50
GENERATOR = torch.Generator().manual_seed(2)
IDS = torch.randint(WORDS, (BATCH, LENGTH), generator=GENERATOR)
LABELS = IDS.masked_fill(torch.rand(IDS.shape, generator=GENERATOR) < 0.6, -100)
INPUT = torch.randn(BATCH, LENGTH, WIDTH, generator=GENERATOR)
PARAMS = tuple(torch.randn(*shape, generator=GENERATOR) * 0.5 for shape in ((WORDS, WIDTH), (WIDTH, WIDTH)))
DIRECTIONS = zo.Directions(seed=1, step=2, num=5)
NEXT = F.pad(LABELS, (0, 1), value=-100)[:, 1:]


def logits_of(words, inner, **options):
    return F.linear(torch.tanh(INPUT.to(inner) @ inner), words, **options)


def whole(words, inner):
    return F.cross_entropy(logits_of(words, inner).view(-1, WORDS), IDS.view(-1))


def first_layer(words):
    return F.cross_entropy(F.linear(INPUT.to(words), words).view(-1, WORDS), IDS.view(-1))


def shifted(words, inner):
    """As old code has it."""
    logits = logits_of(words, inner)
    return F.cross_entropy(logits[:, :-1].reshape(-1, WORDS), IDS[:, 1:].reshape(-1))


def contiguous(words, inner):
    logits = logits_of(words, inner)[..., :-1, :].contiguous().to(words.dtype)
    return F.cross_entropy(
        logits.view(-1, WORDS), LABELS[..., 1:].flatten(), reduction="sum", label_smoothing=0.1
    )


def padded(words, inner):
    """As transformers has it."""
    logits = logits_of(words, inner).to(words.dtype)
    return F.cross_entropy(logits.view(-1, WORDS), NEXT.flatten(), ignore_index=-100, reduction="mean")


def weighted(words, inner):
    weight = torch.linspace(0, 1, WORDS).to(words)
    return F.cross_entropy(logits_of(words, inner).flatten(0, 1), NEXT.flatten(), weight, reduction="none")


def one_place(words, inner):
    return F.cross_entropy(logits_of(words, inner)[:, -1], IDS[:, 0])


def read_twice(words, inner):
    """The second reader wants them all."""
    logits = logits_of(words, inner)
    return F.cross_entropy(logits.view(-1, WORDS), IDS.view(-1)) + 1e-3 * logits[:, 3:].square().mean()


def nothing_wanted(words, inner):
    nothing = torch.full((BATCH * LENGTH,), -100)
    return F.cross_entropy(logits_of(words, inner).view(-1, WORDS), nothing, reduction="sum") + words.sum()


FUNCTIONS = (whole, shifted, contiguous, padded, weighted, one_place, read_twice, nothing_wanted)


@pytest.fixture(autouse=True)
def no_room(monkeypatch):
    monkeypatch.setattr(run, "BUDGET_CPU", BATCH * LENGTH * WORDS)


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("function", FUNCTIONS, ids=lambda function: function.__name__)
def test_loss_of_a_large_head(function, sides, engine):
    with zo.use_engine(engine):
        _, found = zo.differences(lambda: function(*PARAMS), PARAMS, DIRECTIONS, 1e-3, sides, strict=True)
    expected = expected_differences(function, PARAMS, DIRECTIONS, 1e-3, sides)
    assert relative_error(found, expected) < 5e-6


def test_no_layer_before_it():
    _, found = zo.differences(lambda: first_layer(PARAMS[0]), PARAMS[:1], DIRECTIONS, 1e-3, strict=True)
    assert relative_error(found, expected_differences(first_layer, PARAMS[:1], DIRECTIONS, 1e-3)) < 5e-6


def test_in_bfloat16():
    dtype = torch.bfloat16
    _, found = zo.differences(lambda: padded(*PARAMS), PARAMS, DIRECTIONS, 1e-3, compute_dtype=dtype)
    assert relative_error(found, expected_differences(padded, PARAMS, DIRECTIONS, 1e-3, dtype=dtype)) < 2e-2


@pytest.mark.parametrize("distribution", ["rademacher", "gaussian"])
def test_a_word_that_stands_in_both_places(distribution):
    """An embedding whose weight is the head's too."""

    def tied(words, inner):
        logits = F.linear(torch.tanh(F.embedding(IDS, words) @ inner), words)
        return F.cross_entropy(logits[:, :-1].reshape(-1, WORDS), IDS[:, 1:].reshape(-1))

    directions = zo.Directions(seed=1, step=2, num=5, distribution=distribution)
    _, found = zo.differences(lambda: tied(*PARAMS), PARAMS, directions, 1e-3, strict=True)
    assert relative_error(found, expected_differences(tied, PARAMS, directions, 1e-3)) < 5e-6


@pytest.mark.parametrize(
    "function", [whole, shifted, contiguous, padded, one_place], ids=lambda f: f.__name__
)
def test_no_more_than_a_piece_is_ever_there(function, monkeypatch):
    made = []

    def recorded(base, given, weight, *args, **options):
        result = plain(base, given, weight, *args, **options)
        if len(weight) == WORDS:
            made.append(result[..., 0].numel())
        return result

    plain = heads.ops.perturbed_linear
    monkeypatch.setattr(heads.ops, "perturbed_linear", recorded)
    zo.differences(lambda: function(*PARAMS), PARAMS, DIRECTIONS, 1e-3, strict=True)
    assert 0 < max(made) <= heads.SAMPLES
