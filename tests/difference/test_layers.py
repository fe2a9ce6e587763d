"""Stock layers whose forward pass is more than one function: attention, recurrence, dropout, statistics."""

import copy
import warnings

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, expected_of_module, relative_error
from torch import nn
from torch.nn.utils import parametrizations
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

import zo_triton as zo
from zo_triton.difference import differences
from zo_triton.difference import run as run_module

GENERATOR = torch.Generator().manual_seed(0)
SERIES = torch.randn(3, 5, 6, generator=GENERATOR)
MEMORY = torch.randn(3, 4, 6, generator=GENERATOR)
IMAGE = torch.randn(3, 2, 6, 5, generator=GENERATOR)
DIRECTIONS = zo.Directions(seed=5, step=1, num=4)
PADDED = torch.arange(5) >= torch.tensor([5, 3, 4])[:, None]


class Called(nn.Module):
    """A layer and what a test does with it."""

    def __init__(self, layer, use):
        super().__init__()
        self.layer, self.use = layer, use

    def forward(self):
        dtype = next(self.layer.parameters()).dtype
        return self.use(self.layer, SERIES.to(dtype), MEMORY.to(dtype), IMAGE.to(dtype))


def first(layer, x, *_):
    return layer(x)[0]


def packed(layer, x, *_):
    output, hidden = layer(pack_padded_sequence(x, torch.tensor([5, 3, 4]), True, enforce_sorted=False))
    output = pad_packed_sequence(output, batch_first=True)[0]
    return torch.cat([output.sum((0, 1)), (hidden[0] if isinstance(hidden, tuple) else hidden).sum((0, 1))])


def stepwise(layer, x, *_):
    states = None
    for time in range(3):
        states = layer(x[:, time], states)
    return states if isinstance(states, torch.Tensor) else states[0]


def attention(**settings):
    return nn.MultiheadAttention(6, 2, batch_first=True, **settings)


CASES = {
    "self_attention": (attention, lambda m, x, *_: m(x, x, x, need_weights=False)[0]),
    "self_attention_weights": (attention, lambda m, x, *_: torch.cat(m(x, x, x), -1)),
    "self_attention_evaluation": (lambda: attention().eval(), lambda m, x, *_: m(x, x, x)[0]),
    "cross_attention": (attention, lambda m, x, y, _: m(x, y, y)[0]),
    "attention_of_other_widths": (
        lambda: nn.MultiheadAttention(6, 2, kdim=3, vdim=4, batch_first=True, add_bias_kv=True),
        lambda m, x, y, _: m(x, y[..., :3], y[..., :4])[0],
    ),
    "attention_padded": (
        lambda: attention(bias=False),
        lambda m, x, *_: m(x, x, x, key_padding_mask=PADDED, need_weights=False)[0],
    ),
    "encoder_evaluation": (
        lambda: nn.TransformerEncoder(
            nn.TransformerEncoderLayer(6, 2, 7, batch_first=True), 1, enable_nested_tensor=False
        ).eval(),
        lambda m, x, *_: m(x, src_key_padding_mask=PADDED),
    ),
    "decoder": (
        lambda: nn.TransformerDecoderLayer(6, 2, 7, 0.0, batch_first=True),
        lambda m, x, y, _: m(x, y, tgt_is_causal=True, tgt_mask=nn.Transformer.generate_square_subsequent_mask(5)),
    ),
    "lstm_projected": (lambda: nn.LSTM(6, 4, proj_size=3, batch_first=True), first),
    "lstm_states": (lambda: nn.LSTM(6, 4, 2, bias=False), lambda m, x, *_: torch.cat(m(x)[1])),
    "lstm_packed": (lambda: nn.LSTM(6, 4, bidirectional=True, batch_first=True), packed),
    "gru_two_ways": (lambda: nn.GRU(6, 4, 2, bidirectional=True), first),
    "gru_packed": (lambda: nn.GRU(6, 4, batch_first=True, bidirectional=True), packed),
    "gru_one_sample": (lambda: nn.GRU(6, 4), lambda m, x, *_: m(x[0])[0]),
    "rnn": (lambda: nn.RNN(6, 4), first),
    "rnn_relu": (lambda: nn.RNN(6, 4, nonlinearity="relu"), first),
    "lstm_cell": (lambda: nn.LSTMCell(6, 4), stepwise),
    "gru_cell": (lambda: nn.GRUCell(6, 4), stepwise),
    "conv_reflect": (
        lambda: nn.Conv2d(2, 3, 3, padding=1, padding_mode="reflect"),
        lambda m, x, y, image: m(m(image)[:, :2]),
    ),
    "conv_circular": (
        lambda: nn.Conv1d(5, 3, 3, padding=2, padding_mode="circular"),
        lambda m, x, *_: m(x),
    ),
    "weight_norm": (lambda: parametrizations.weight_norm(nn.Linear(6, 3)), lambda m, x, *_: m(x)),
    "in_place_activations": (
        lambda: nn.Sequential(nn.Conv2d(2, 3, 3), nn.ELU(inplace=True), nn.Hardswish(inplace=True)),
        lambda m, x, y, image: m(image),
    ),
}  # fmt: skip


@pytest.mark.filterwarnings("ignore:LSTM with projections")  # torch's own remark on its speed
@pytest.mark.parametrize("name", CASES)
def test_layer(name):
    build, use = CASES[name]
    torch.manual_seed(0)
    model = Called(build(), use)
    expected = expected_of_module(model, lambda called: called(), DIRECTIONS, 1e-3, sides=2)
    value, found = differences(model, model.parameters(), DIRECTIONS, 1e-3, sides=2, strict=True)
    with torch.no_grad():
        torch.testing.assert_close(value, model())
    assert relative_error(found, expected) < 1e-5


@pytest.mark.parametrize("frozen", ["weight", "bias"])
def test_frozen_parameters_and_buffers_stay_where_they_are(frozen):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(2, 3, 3), nn.BatchNorm2d(3), nn.ReLU(), nn.Flatten(), nn.Linear(36, 4))
    getattr(model[0], frozen).requires_grad_(False)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]

    def function(*values):
        twin = copy.deepcopy(model).double()
        names = [name for name, parameter in model.named_parameters() if parameter.requires_grad]
        return torch.func.functional_call(twin, dict(zip(names, values, strict=True)), IMAGE.double())

    found = differences(lambda: model(IMAGE), trained, DIRECTIONS, 1e-3, strict=True)[1]
    assert relative_error(found, expected_differences(function, trained, DIRECTIONS, 1e-3)) < 1e-5


@pytest.mark.parametrize("budget", [None, 4 * 90 * 2])
@pytest.mark.parametrize("chunk", [None, 3])
def test_running_statistics_move_once_a_step(chunk, budget, monkeypatch):
    """By the base alone, whatever the number of chunks and however often memory makes the run start again."""
    if budget is not None:  # room for two directions
        monkeypatch.setattr(run_module, "BUDGET_CPU", budget)
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Linear(6, 6), nn.BatchNorm1d(5), nn.Tanh(), nn.InstanceNorm1d(5, track_running_stats=True)
    )
    twin = copy.deepcopy(model)
    whole = differences(
        lambda: model(SERIES).square().mean(), model.parameters(), DIRECTIONS, 1e-3, chunk=chunk
    )
    with torch.no_grad():
        twin(SERIES)
    for (name, buffer), expected in zip(model.named_buffers(), twin.buffers(), strict=True):
        assert torch.equal(buffer, expected), name
    again = differences(lambda: twin(SERIES).square().mean(), twin.parameters(), DIRECTIONS, 1e-3, chunk=1)
    torch.testing.assert_close(again, whole)


def test_a_buffer_written_in_a_view_is_put_back_between_chunks(untaped):
    weight, seen = torch.ones(3), torch.zeros(4)

    def closure():
        seen[1:].add_(1)
        return (weight * seen[1:]).sum()

    value, _ = differences(closure, [weight], DIRECTIONS, 1e-3, chunk=1)
    assert seen.tolist() == [0, 1, 1, 1]
    assert float(value) == 3


def test_one_dropout_mask_for_all_evaluations():
    """With the random state put back by hand, a run on moved weights drops the same channels."""
    weight = torch.ones(6)

    def run(w, dtype=torch.float64):
        torch.manual_seed(3)
        return F.dropout2d((SERIES.to(dtype) * w)[None], 0.5)

    found = differences(lambda: run(weight, torch.float32), [weight], DIRECTIONS, 1e-3, strict=True)[1]
    moved = 1 + 1e-3 * zo.sample(DIRECTIONS, 0, weight.shape).double()
    expected = torch.stack([run(each) - run(weight.double()) for each in moved])
    assert 0 < int((expected == 0).sum()) < expected.numel()
    assert relative_error(found, expected) < 1e-5


def test_attention_drops_the_same_shares_in_base_and_differences():
    """V enters linearly: with Q and K fixed, the difference is what the base makes of V's own."""
    value = SERIES.clone()

    def run(v, fixed=SERIES):
        torch.manual_seed(3)
        return F.scaled_dot_product_attention(fixed, fixed, v, dropout_p=0.5)

    zero = zo.Directions(5, 1, 1)
    base, found = differences(lambda: run(value), [value], zero, 1e-3, strict=True)
    moved, _ = differences(
        lambda: run(value + 1e-3 * zo.sample(zero, 0, value.shape)[0]), [value], zero, 1e-3
    )
    assert relative_error(found[0], (moved - base).double()) < 1e-3
    assert not torch.allclose(base, F.scaled_dot_product_attention(SERIES, SERIES, value), rtol=0.1)


def test_recurrent_dropout_is_shared_too():
    torch.manual_seed(0)
    model = nn.LSTM(6, 4, 3, dropout=0.5)
    torch.manual_seed(1)
    whole = differences(lambda: model(SERIES)[0], model.parameters(), DIRECTIONS, 1e-3, strict=True)
    torch.manual_seed(1)
    parts = differences(lambda: model(SERIES)[0], model.parameters(), DIRECTIONS, 1e-3, chunk=1)
    torch.testing.assert_close(parts, whole, rtol=1e-4, atol=1e-8)


def test_dropout_in_evaluation_leaves_a_network_whole(monkeypatch):
    calls = []
    real = zo.ops.mlp_differences
    monkeypatch.setattr(zo.ops, "mlp_differences", lambda *args: calls.append(1) or real(*args))
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(6, 5), nn.ReLU(), nn.Dropout(0.5), nn.Linear(5, 4)).eval()
    labels = torch.tensor([0, 3, 1])
    differences(lambda: F.cross_entropy(model(SERIES[:, 0]), labels), model.parameters(), DIRECTIONS, 1e-3)
    assert calls == [1]


def test_an_input_that_is_the_end_of_its_memory():
    """The rows of a batch of one, picked from others: as slots of memory, the last would reach beyond its end."""
    first, second = (torch.randn(4, 4, generator=torch.Generator().manual_seed(i)) for i in range(2))
    x = torch.randn(5, 1, 4, generator=torch.Generator().manual_seed(3))
    directions = zo.Directions(seed=1, step=2, num=3)

    def closure():
        h = torch.lgamma((x @ first).square() + 1)
        return torch.stack([h[i] @ second for i in range(5)]).square().mean()

    found = []
    for engine in ("cpu", "reference"):
        with zo.use_engine(engine), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            found.append(zo.differences(closure, [first, second], directions, 1e-3)[1])
    torch.testing.assert_close(*found, rtol=1e-4, atol=1e-8)
