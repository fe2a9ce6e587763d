"""Jacobians against one backward pass an output; the linearised model against the model."""

import numpy as np
import pytest
import torch
from torch import nn

from zo_triton.nzk import jacobian, linearize, ntk

pytestmark = pytest.mark.usefixtures("one_thread")


def network(outputs=1):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 5), nn.ReLU(), nn.Linear(5, outputs)), torch.randn(7, 4)


def backward(model, x):
    """Rows of the Jacobian by autograd, output after output, in float32."""
    parameters = [p for p in model.parameters() if p.requires_grad]
    rows = [
        torch.cat([g.flatten() for g in torch.autograd.grad(value, parameters, retain_graph=True)])
        for sample in x
        for value in model(sample[None]).flatten()
    ]
    return torch.stack(rows).numpy()


@pytest.mark.parametrize("outputs", [1, 3])
def test_rows_are_outputs_and_columns_parameters(outputs):
    model, x = network(outputs)
    found = jacobian(model, x)
    assert (found.shape, found.dtype) == ((7 * outputs, 25 + 6 * outputs), np.float64)
    np.testing.assert_allclose(found, backward(model, x), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(ntk(model, x), found @ found.T, rtol=1e-12)


def test_a_linear_model_has_the_features_it_is_given():
    x = torch.randn(5, 3, generator=torch.Generator().manual_seed(0))
    line = linearize(nn.Linear(3, 1, bias=False), x)
    np.testing.assert_array_equal(line.features, x.double().numpy())
    assert line.shapes == ((1, 3),)


def test_convolutions_tied_and_frozen_parameters():
    torch.manual_seed(0)
    shared = nn.Conv2d(2, 2, 3, padding=1)
    head = nn.Linear(18, 1)
    head.bias.requires_grad_(False)
    model = nn.Sequential(shared, nn.BatchNorm2d(2), nn.Tanh(), shared, nn.Flatten(), head).eval()
    x = torch.randn(3, 2, 3, 3)
    line = linearize(model, x)
    # The shared layer once, the batch norm, and the head without its bias.
    assert line.shapes == ((2, 2, 3, 3), (2,), (2,), (2,), (1, 18))
    np.testing.assert_allclose(line.features, backward(model, x), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(line.outputs, model(x).detach().squeeze(1).numpy(), rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("kind", [nn.RNN, nn.LSTM, nn.GRU])
def test_recurrent_layers(kind):
    class LastOutput(nn.Module):
        def __init__(self):
            super().__init__()
            self.layers = kind(3, 4, num_layers=2, batch_first=True, bidirectional=True)
            self.unused, self.head = nn.Parameter(torch.ones(2)), nn.Linear(8, 2)

        def forward(self, x):
            return self.head(self.layers(x)[0][:, -1])

    torch.manual_seed(0)
    model, x = LastOutput(), torch.randn(3, 5, 3)
    before = model(x)
    line = linearize(model, x)
    assert line.shapes[0] == (2,)
    assert not line.features[:, :2].any()
    assert torch.equal(model(x), before)
    model.unused.requires_grad_(False)
    np.testing.assert_allclose(line.features[:, 2:], backward(model, x), rtol=1e-3, atol=1e-5)
    np.testing.assert_allclose(line.outputs, before.detach().flatten().numpy(), rtol=1e-4, atol=1e-6)


def test_the_expansion_is_of_second_order():
    torch.manual_seed(0)
    model, x = nn.Sequential(nn.Linear(4, 5), nn.Tanh(), nn.Linear(5, 2)).double(), torch.randn(7, 4).double()
    line = linearize(model, x)
    move = np.random.default_rng(0).standard_normal(line.features.shape[1])
    start = torch.cat([p.detach().flatten() for p in model.parameters()])

    def gap(step):
        torch.nn.utils.vector_to_parameters(start + step * torch.from_numpy(move), model.parameters())
        return np.abs(model(x).detach().flatten().numpy() - line(step * move)).max()

    assert gap(0.0) < 1e-14
    assert gap(1e-3) == pytest.approx(100 * gap(1e-4), rel=0.05)


def test_the_model_is_left_alone():
    model, x = network()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    linearize(model, x)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert all(p.grad is None and p.dtype == torch.float32 for p in model.parameters())
    with torch.no_grad():
        assert np.abs(ntk(model, x)).max() > 0


@pytest.mark.parametrize(
    ("model", "x", "error", "message"),
    [
        (lambda x: x, torch.ones(2, 3), TypeError, "model must be a torch.nn.Module, got"),
        (nn.Linear(3, 1), np.ones(2), TypeError, "x must be a floating-point tensor, got .*of type ndarray"),
        (
            nn.Linear(3, 1),
            torch.ones(2, 3).long(),
            TypeError,
            "x must be a floating-point tensor, got dtype torch.int64",
        ),
        (nn.Linear(3, 1), torch.ones(0, 3), ValueError, r"at least one sample, got shape \(0, 3\)"),
        (nn.Linear(3, 1).requires_grad_(False), torch.ones(2, 3), ValueError, "nothing to train"),
        (
            nn.Sequential(nn.Linear(3, 1), nn.Dropout()),
            torch.ones(2, 3),
            ValueError,
            r"Dropout '1' is in training mode.*model.eval\(\)",
        ),
        (nn.BatchNorm1d(3), torch.ones(2, 3), ValueError, "BatchNorm1d '' is in training mode"),
        (
            nn.BatchNorm1d(3, track_running_stats=False).eval(),
            torch.ones(2, 3),
            ValueError,
            "BatchNorm1d '' has no running statistics.*track_running_stats=True",
        ),
        (nn.GRU(3, 2, 2, dropout=0.5), torch.ones(2, 4, 3), ValueError, "GRU '' is in training mode"),
    ],
)
def test_bad_input(model, x, error, message):
    with pytest.raises(error, match=message):
        linearize(model, x)


def test_a_displacement_of_another_length():
    model, x = network()
    with pytest.raises(ValueError, match="displacement must have 31 elements, got 2"):
        linearize(model, x)([0.0, 0.0])
