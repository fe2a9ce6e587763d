"""Contenders: found by file, told apart by name, honest about what is not installed."""

from dataclasses import replace
from importlib import import_module
from inspect import isclass
from pkgutil import iter_modules
from types import ModuleType

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from benchmarks import contenders as baselines
from benchmarks.contenders import registry as methods
from benchmarks.contenders.contender import Contender, Method, Setting
from benchmarks.contenders.jax_network import relu_layers
from benchmarks.contenders.rank_one import RankOne
from benchmarks.contenders.registry import METHODS, find_methods
from benchmarks.race.networks import make_mlp


def test_a_new_file_is_a_new_contender(tmp_path, monkeypatch):
    (tmp_path / "another.py").write_text(
        "from benchmarks.contenders.contender import Method\nMETHODS = (Method('another', 'x', 'zeroth', None),)\n"
    )
    monkeypatch.setattr(baselines, "__path__", [*baselines.__path__, str(tmp_path)])
    assert "another" in methods._collect()
    (tmp_path / "twice.py").write_text((tmp_path / "another.py").read_text())
    with pytest.raises(ValueError, match="two contenders have one name"):
        methods._collect()


def unlisted(modules):
    """Modules of contenders that list none; what only defines their base or parts of them is no such module."""
    return [
        name
        for name, module in modules.items()
        if not hasattr(module, "METHODS")
        and any(
            isclass(each) and each.__module__ == module.__name__ and Contender in each.__mro__[1:]
            for each in vars(module).values()
        )
    ]


def test_every_file_of_contenders_lists_them():
    names = [module.name for module in iter_modules(baselines.__path__)]
    modules = {name: import_module(f"{baselines.__name__}.{name}") for name in names}
    assert unlisted(modules) == []
    unfinished = ModuleType("unfinished")
    unfinished.Slow = type("Slow", (Contender,), {"__module__": "unfinished"})
    assert unlisted({"unfinished": unfinished}) == ["unfinished"]


def test_what_is_not_installed_is_left_out(monkeypatch):
    absent = Method("absent", "absent", "zeroth", lambda model, setting: None, needs=("no_such_package",))
    monkeypatch.setitem(METHODS, "absent", absent)
    assert absent.missing == ("no_such_package",)
    assert [method.name for method in find_methods(("absent", "zo"))] == ["zo"]
    assert METHODS["absent"] is absent


@pytest.mark.parametrize("name", METHODS)
def test_every_installed_contender_trains_a_small_network(name):
    method = METHODS[name]
    if method.missing:
        pytest.skip(f"needs {method.missing}")
    model = make_mlp((6, 5, 3), 0)
    contender = method.build(model, Setting(0.1, 0, 8))
    # An adapter's parameters are there only now.
    before = [param.detach().clone() for param in model.parameters()]
    x, y = torch.randn(16, 6), torch.arange(16) % 3
    contender.prepare(x, y)
    contender.write_weights()
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    for _ in range(2):
        loss = contender.step(x, y)
    contender.write_weights()
    assert 0.5 < loss < 3
    moved = any(not torch.equal(old, new) for old, new in zip(before, model.parameters(), strict=True))
    assert moved == (method.family != "inference")


def test_rank_one_noise_equals_materialised_noise():
    model = nn.Sequential(
        nn.Unflatten(1, (1, 4, 4)), nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3)
    )
    model = model.double()
    contender = RankOne(model, Setting(0.1, 0, 1))
    noise = {name: contender._draw(weight) for name, weight in contender.weights.items()}
    noise = {name: tuple(part[0].double() for part in parts) for name, parts in noise.items()}
    x = torch.randn(5, 16).double()
    found = contender._forward(noise, torch.tensor(0.3).double(), x)
    moved = {
        name: weight + 0.3 * (part[0] if len(part) == 1 else torch.outer(*part).view_as(weight))
        for (name, weight), part in zip(contender.weights.items(), noise.values(), strict=True)
    }
    torch.testing.assert_close(found, torch.func.functional_call(model, moved, (x,)))
    assert not model[4]._forward_hooks


@pytest.mark.parametrize(
    "model", [nn.Linear(3, 2), nn.Sequential(nn.Linear(3, 2), nn.Tanh(), nn.Linear(2, 2))]
)
def test_jax_contenders_refuse_other_networks(model):
    with pytest.raises(ValueError, match="written for ReLU networks"):
        relu_layers(model, F.cross_entropy)
    with pytest.raises(ValueError, match="written for cross-entropy"):
        relu_layers(make_mlp((3, 2), 0), F.mse_loss)


def test_another_loss_is_minimised_too():
    def loss(output, target):
        return F.mse_loss(output[:, 0], target.float())

    for name in ("zo", "zo-adam", "mezo", "vmap", "forward", "rank-one", "adam"):
        model = nn.Sequential(nn.Linear(4, 1))
        x, y = torch.randn(32, 4), torch.arange(32) % 2
        before = loss(model(x), y).item()
        contender = METHODS[name].build(model, Setting(0.05, 0, 16, loss=loss))
        for _ in range(20):
            contender.step(x, y)
        assert loss(model(x), y).item() < before


GUEST = """
from helper import LR
from benchmarks.contenders.contender import Contender, Method

class Still(Contender):
    evaluations_per_step = 1

    def __init__(self, model, setting):
        self.model, self.setting = model, setting

    def step(self, x, y):
        return self.setting.loss(self.model(x), y).item()

METHOD = Method("still", "stands still", "zeroth", Still)
TAKEN = Method("adam", "x", "first", Still)
NUMBER = 3
"""


@pytest.fixture
def guests(tmp_path):
    (tmp_path / "mine.py").write_text(GUEST)
    (tmp_path / "helper.py").write_text("LR = 1.0\n")
    return tmp_path / "mine.py"


def test_a_guest_is_a_method_or_what_builds_one(guests):
    assert methods.guest(f"{guests}:METHOD").label == "stands still"
    found = methods.guest(f"{guests}:Still")
    assert (found.name, found.family) == ("Still", "zeroth")
    x, y = torch.ones(2, 3), torch.tensor([0, 1])
    assert found.build(make_mlp((3, 4, 2), 0), Setting(lr=0.1)).step(x, y) > 0


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("mine.py", r"a contender is named FILE\.py:NAME, got 'mine\.py'"),
        ("other.py:METHOD", r"there is no file .*other\.py"),
        ("mine.py:Nobody", r"has no contender 'Nobody': it must be a Method"),
        ("mine.py:NUMBER", r"has no contender 'NUMBER'"),
        ("mine.py:TAKEN", r"has a contender 'adam' of its own; give .* another name"),
        ("broken.py:METHOD", r"broken\.py can't be loaded: ZeroDivisionError"),
    ],
)
def test_who_is_no_guest_is_told_why(guests, name, message):
    (guests.parent / "broken.py").write_text("1 / 0\n")
    address = name if ":" not in name else f"{guests.parent}/{name}"
    with pytest.raises(ValueError, match=message):
        methods.guest(address)


def test_a_guest_races(guests, tmp_path, monkeypatch):
    from benchmarks import __main__ as suite
    from benchmarks.race.races import RACES
    from benchmarks.report import read

    monkeypatch.setitem(RACES, "nzk-linear", replace(RACES["nzk-linear"], methods=("sgd",)))
    out = tmp_path / "race"
    arguments = ["race", "nzk-linear", "--tiny", "--out", str(out), "--contender", f"{guests}:METHOD"]
    assert suite.main(arguments) == 0
    rows = read(out / "results.json")["sections"]["race"]["methods"]
    assert {row["name"] for row in rows} == {"still", "sgd"}
