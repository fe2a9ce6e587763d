"""What a layer can't take: torch's own error, before anything changes; and code that runs past the mode."""

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

import zo_triton as zo
from zo_triton.difference import Evaluation, differences, propagate

GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(5, 4, generator=GENERATOR)
IMAGE = torch.randn(2, 3, 6, 6, generator=GENERATOR)
DIRECTIONS = zo.Directions(seed=2, step=0, num=3)

BAD = {
    "channels": (lambda: nn.Conv2d(4, 2, 3), IMAGE),
    "kernel_larger_than_the_image": (lambda: nn.Conv2d(3, 2, 9), IMAGE),
    "integers": (lambda: nn.Conv2d(3, 2, 3), torch.ones(2, 3, 6, 6, dtype=torch.int64)),
    "complex": (lambda: nn.Conv2d(3, 2, 3), IMAGE * 1j),
    "reflection_wider_than_the_image": (lambda: nn.Conv2d(3, 2, 3, padding=6, padding_mode="reflect"), IMAGE),
    "one_value_a_channel": (lambda: nn.BatchNorm1d(4), torch.ones(1, 4)),
    "pool_larger_than_the_image": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.MaxPool2d(5)), IMAGE),
    "token_outside_the_table": (lambda: nn.Embedding(3, 2), torch.tensor([3])),
    "widths_of_a_recurrence": (lambda: nn.LSTM(3, 2), X),
    "empty_pooled": (lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.MaxPool2d(2)), IMAGE[:, :, :, :0]),
}


@pytest.mark.filterwarnings("ignore:.*complex")
@pytest.mark.parametrize("name", BAD)
def test_torch_refuses_in_its_own_words(name):
    build, inputs = BAD[name]
    torch.manual_seed(0)
    model = build()
    with pytest.raises((RuntimeError, ValueError, IndexError)) as own, torch.no_grad():
        model(inputs)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with pytest.raises(type(own.value)) as found:
        differences(lambda: model(inputs).sum(), model.parameters(), DIRECTIONS, 1e-3)
    assert str(found.value) == str(own.value)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())


def test_unknown_padding_is_refused_by_the_layer():
    with pytest.raises(ValueError, match="padding_mode must be one of"):
        nn.Conv2d(3, 2, 3, padding_mode="mirror")


EMPTY = {
    "conv": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2).eval(), nn.ReLU(), nn.AvgPool2d(2)),
    "max_pool": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.MaxPool2d(2)),
    "norm": lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.GroupNorm(1, 2), nn.ConvTranspose2d(2, 3, 2)),
    "linear": lambda: nn.Sequential(nn.Flatten(), nn.Linear(108, 6), nn.LayerNorm(6)),
}


@pytest.mark.parametrize("name", EMPTY)
def test_an_empty_batch_gives_an_empty_difference(name):
    model = EMPTY[name]()
    value, found = differences(lambda: model(IMAGE[:0]), model.parameters(), DIRECTIONS, 1e-3, strict=True)
    assert found.shape == (3, *value.shape)
    assert found.numel() == 0
    _, total = differences(lambda: model(IMAGE[:0]).sum(), model.parameters(), DIRECTIONS, 1e-3)
    assert total.tolist() == [0, 0, 0]


@pytest.mark.parametrize("kind", [nn.Embedding, nn.EmbeddingBag])
def test_a_table_that_would_renormalise_its_rows_is_refused(kind):
    table = kind(5, 3, max_norm=0.1)
    before = table.weight.detach().clone()
    with pytest.raises(ValueError, match="max_norm would change a trained parameter"):
        differences(lambda: table(torch.tensor([[1]])).sum(), table.parameters(), DIRECTIONS, 1e-3)
    assert torch.equal(table.weight, before)


def mlp():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.Tanh(), nn.Linear(6, 2))


def module_compiled_in_place(model):
    model.compile(backend="eager")
    return model


COMPILED = {
    "module": lambda model: torch.compile(model, backend="eager"),
    "in_place": module_compiled_in_place,
    "function": lambda model: torch.compile(lambda x: model(x), backend="eager"),
}


@pytest.mark.parametrize("name", COMPILED)
def test_what_torch_compile_made_runs_as_it_was_written(name):
    model = mlp()
    expected = differences(lambda: model(X).square().mean(), model.parameters(), DIRECTIONS, 1e-3)
    compiled = COMPILED[name](model)
    found = propagate(lambda: compiled(X).square().mean(), model.parameters(), DIRECTIONS, Evaluation(1e-3))
    again = propagate(
        lambda: compiled(X).square().mean(), model.parameters(), DIRECTIONS, Evaluation(1e-3), plan=found.plan
    )
    torch.testing.assert_close(found[:2], expected, rtol=0, atol=0)
    torch.testing.assert_close(again[:2], expected, rtol=0, atol=0)


def doubled(x: torch.Tensor) -> torch.Tensor:
    return x * 2


SCRIPTED = {
    "scripted": torch.jit.script,
    "traced": lambda model: torch.jit.trace(model, X),
    "function": lambda model: lambda x: torch.jit.script(doubled)(model(x)),
}


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("name", SCRIPTED)
def test_scripted_code_is_refused_even_where_python_code_would_carry_on(name):
    model = mlp()
    scripted = SCRIPTED[name](model)
    params = list(model.parameters())
    with pytest.raises(TypeError, match=r"past torch's Python functions.*Pass the original nn.Module"):
        differences(lambda: scripted(X).sum() + F.linear(X, params[0]).sum(), params, DIRECTIONS, 1e-3)


@pytest.mark.filterwarnings("ignore:.*torch.jit")
@pytest.mark.parametrize("name", SCRIPTED)
def test_scripted_code_that_comes_in_later_is_refused_and_moves_nothing(name):
    model = mlp()
    scripted, params = SCRIPTED[name](model), list(model.parameters())
    opt = zo.ZOSGD(params, lr=0.1, directions=4)
    late = [torch.zeros(())]
    for _ in range(2):
        opt.step(lambda: F.linear(X, params[0]).sum() + late[0])
    fresh = zo.ZOSGD(params, lr=0.1, directions=4)
    fresh.load_state_dict(opt.state_dict())
    before = [param.detach().clone() for param in params]
    for optimizer in (opt, fresh):
        with pytest.raises(TypeError, match="past torch's Python functions"):
            optimizer.step(lambda: F.linear(X, params[0]).sum() + scripted(X).sum())
    assert all(map(torch.equal, before, params))


def test_what_torch_compile_made_may_come_in_later():
    model = mlp()
    compiled = torch.compile(model, backend="eager")
    params = list(model.parameters())
    plan = propagate(lambda: model(X).square().mean(), params, DIRECTIONS, Evaluation(1e-3)).plan
    expected = differences(lambda: model(X).square().mean(), params, DIRECTIONS, 1e-3)
    found = propagate(lambda: compiled(X).square().mean(), params, DIRECTIONS, Evaluation(1e-3), plan=plan)
    torch.testing.assert_close(found[:2], expected, rtol=0, atol=0)


class CountedOperations(TorchDispatchMode):
    def __init__(self):
        super().__init__()
        self.seen = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.seen += 1
        return func(*args, **(kwargs or {}))


def test_a_mode_of_the_closures_own_works_under_the_watch():
    model, counted = mlp(), CountedOperations()

    def closure():
        with counted:
            return model(X).square().mean()

    expected = differences(lambda: model(X).square().mean(), model.parameters(), DIRECTIONS, 1e-3)
    found = differences(closure, model.parameters(), DIRECTIONS, 1e-3)
    torch.testing.assert_close(found, expected, rtol=0, atol=0)
    assert counted.seen > 0


class Doubling(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, times):
        return x * 2 if times else x

    @staticmethod
    def backward(ctx, gradient):
        return gradient * 2, None


@pytest.mark.parametrize("times", [True, False])
def test_an_autograd_function_is_followed_through_its_forward(times):
    model = mlp()
    found = differences(lambda: Doubling.apply(model(X), times), model.parameters(), DIRECTIONS, 1e-3)
    expected = differences(lambda: model(X) * (2 if times else 1), model.parameters(), DIRECTIONS, 1e-3)
    torch.testing.assert_close(found, expected)
