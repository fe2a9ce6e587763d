"""Each warning points at a line of the user's: the call, or the place in the closure that it is about."""

import ast
import math
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import zo_triton as zo

LIBRARY = Path(zo.__file__).parent
X, Y = torch.randn(6, 4, generator=torch.Generator().manual_seed(0)), torch.tensor([0, 1, 2, 0, 1, 2])
CASES: dict[str, Callable[[], object]] = {}


def case(function):
    """A program that warns, the last of its lines marked by ``HERE`` the one to be pointed at."""
    CASES[function.__name__] = function
    return function


def sgd(params, **settings):
    return zo.ZOSGD(params, **{"lr": 0.1, "directions": 4, **settings})


@case
def some_are_frozen():
    model = torch.nn.Sequential(torch.nn.Linear(3, 3), torch.nn.Linear(3, 1).requires_grad_(False))
    zo.ZOAdam(model.parameters())  # HERE


@case
def some_of_an_estimates_are_frozen():
    frozen, free = torch.ones(2), torch.ones(2, requires_grad=True)
    zo.estimate_gradient(lambda: (frozen * free).sum(), [frozen, free])  # HERE


@case
def a_trainer_of_low_precision():
    model = torch.nn.Linear(4, 3).bfloat16()
    zo.FusedTrainer(model, torch.optim.Adam(model.parameters()))  # HERE


@case
def a_closure_returns_a_number():
    weight = torch.ones(3)
    sgd([weight]).step(lambda: float(weight.sum()))  # HERE


@case
def a_black_box_does_not_move():
    weight = torch.ones(8, dtype=torch.bfloat16)
    sgd([weight]).step(zo.BlackBox(lambda: float(weight.sum())))  # HERE


@case
def a_direction_is_not_finite():
    weight, calls = torch.zeros(3), iter(range(100))
    closure = zo.BlackBox(lambda: math.inf if next(calls) == 1 else float(weight.sum()))
    sgd([weight]).step(closure)  # HERE


@case
def a_sample_is_not_finite():
    model, x = torch.nn.Linear(4, 3), X.clone()
    x[2] = torch.inf
    opt = sgd(model.parameters(), perturb="activations")
    opt.step(lambda: F.cross_entropy(model(x), Y, reduction="none"))  # HERE


@case
def a_trainers_sample_is_not_finite():
    model, y = torch.nn.Linear(4, 3), torch.zeros(6, 3)
    y[2] = 3e18  # whose square is a number yet, but the slope is beyond 2**60
    trainer = zo.FusedTrainer(
        model, torch.optim.SGD(model.parameters()), loss=F.mse_loss, perturb="activations"
    )
    trainer.step(X, y)  # HERE


@case
def a_function_has_no_rule():
    weight = torch.rand(3, 3)

    def loss():
        return torch.linalg.cond(weight).sum()  # HERE

    sgd([weight]).step(loss)


@case
def a_modules_function_has_no_rule():
    class Conditioned(torch.nn.Linear):
        def forward(self, x):
            return torch.linalg.matrix_norm(self.weight, 2) * super().forward(x)  # HERE

    model = Conditioned(4, 3)
    sgd(model.parameters()).step(lambda: F.cross_entropy(model(X), Y))


@case
def memory_runs_out():
    weight, calls = torch.ones(3), iter(range(100))

    def loss():
        if next(calls) == 0:
            raise torch.OutOfMemoryError("no more")
        return weight.sum()

    sgd([weight]).step(loss)  # HERE


@case
def samples_mix():
    model = torch.nn.Sequential(torch.nn.Linear(4, 5), torch.nn.BatchNorm1d(5), torch.nn.Linear(5, 3))
    opt = sgd(model.parameters(), perturb="activations")
    opt.step(lambda: F.cross_entropy(model(X), Y))  # HERE


@case
def a_learning_rate_is_beyond_the_limit():
    model = torch.nn.Linear(4, 3)
    zo.nzk.check_lr_of(sgd(model.parameters(), lr=1e3), model, X)  # HERE


@pytest.mark.parametrize("name", CASES)
def test_the_users_line_is_pointed_at(name):
    source = Path(__file__).read_text(encoding="utf-8").splitlines()
    first = next(number for number, line in enumerate(source, 1) if line == f"def {name}():")
    marked = next(number for number in range(first, len(source)) if source[number - 1].endswith("# HERE"))
    with pytest.warns((UserWarning, RuntimeWarning)) as told:
        CASES[name]()
    assert [(each.filename, each.lineno) for each in told] == [(__file__, marked)]


@pytest.mark.parametrize(
    "path", sorted(LIBRARY.rglob("*.py")), ids=lambda path: str(path.relative_to(LIBRARY))
)
def test_every_warning_looks_for_that_line(path):
    """A fixed ``stacklevel`` is right until somebody calls through one function more."""
    calls = [node for node in ast.walk(ast.parse(path.read_bytes())) if isinstance(node, ast.Call)]
    names = {ast.unparse(call.func) for call in calls}
    assert "warnings.warn" not in names or path.name == "_warn.py"
