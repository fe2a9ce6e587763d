"""What is often passed first by mistake is told what was meant; a repr shows what a step depends on."""

import pytest
import torch

import zo_triton as zo

WEIGHT = torch.ones(3)
MODEL = torch.nn.Linear(3, 1)
SEQUENTIAL = torch.nn.Sequential(MODEL)
DIRECTIONS = zo.Directions(0, 0, 2)
MISTAKES = [
    ("a model", lambda: zo.ZOSGD(MODEL, lr=0.1), r"params is a model, Linear; pass .*model\.parameters\(\)"),
    (
        "a sequence of layers",
        lambda: zo.ZOAdam(SEQUENTIAL),
        r"params is a model, Sequential; pass its parameters",
    ),
    (
        "one tensor",
        lambda: zo.ZOSGD(WEIGHT, lr=0.1),
        r"params is a tensor of shape \(3,\); pass a list, \[tensor\]",
    ),
    (
        "a state dict",
        lambda: zo.ZOSGD(MODEL.state_dict(), lr=0.1),
        r"params is a dictionary; pass its tensors",
    ),
    (
        "nothing",
        lambda: zo.ZOSGD(None, lr=0.1),
        r"params must be tensors, as model\.parameters\(\) gives, got None",
    ),
    (
        "sizes one by one",
        lambda: zo.ZOMLP(20, 32, 10),
        r"sizes must be one list.*write ZOMLP\(\[20, 32, 10\]\)",
    ),
    (
        "a loss to differences",
        lambda: zo.differences(WEIGHT.sum(), [WEIGHT], DIRECTIONS, 1e-3),
        r"the closure must be a function .*got a tensor of shape \(\).*lambda: loss_fn\(model\(x\), y\)",
    ),
    (
        "a loss to estimate_gradient",
        lambda: zo.estimate_gradient(WEIGHT.sum(), [WEIGHT]),
        r"the closure must be a function .*got a tensor of shape \(\)",
    ),
    (
        "a loss to step",
        lambda: zo.ZOSGD([WEIGHT], lr=0.1).step(WEIGHT.sum()),
        r"the closure must be a function .*got a tensor of shape \(\)",
    ),
    (
        "a model to estimate_gradient",
        lambda: zo.estimate_gradient(lambda: WEIGHT.sum(), SEQUENTIAL),
        r"params is a model, Sequential; pass its parameters",
    ),
    (
        "a number of directions",
        lambda: zo.differences(lambda: WEIGHT.sum(), [WEIGHT], 64, 1e-3),
        r"directions must be a zo\.Directions, got 64 .*zo\.Directions\(seed=0, step=0, num=64\)",
    ),
]


@pytest.mark.parametrize(("call", "message"), [pytest.param(*rest, id=name) for name, *rest in MISTAKES])
def test_a_mistaken_argument_names_the_remedy(call, message):
    with pytest.raises(TypeError, match=message):
        call()


@pytest.mark.parametrize("kind", ["ZOSGD", "ZOAdam", "FusedTrainer"])
def test_a_repr_shows_what_names_the_directions(kind):
    made = {
        "ZOSGD": lambda: zo.ZOSGD(MODEL.parameters(), lr=0.25, directions=16, eps=1e-3, seed=7),
        "ZOAdam": lambda: zo.ZOAdam(MODEL.parameters(), lr=0.25, directions=16, eps=1e-3, seed=7),
        "FusedTrainer": lambda: zo.FusedTrainer(
            MODEL, torch.optim.SGD(MODEL.parameters(), lr=0.25), directions=16, eps=1e-3, seed=7
        ),
    }[kind]()
    shown = repr(made).replace(": ", "=").replace("'", "")
    assert shown.startswith(kind)
    for setting in ("directions=16", "eps=0.001", "seed=7", "distribution=rademacher", "perturb=weights"):
        assert setting in shown
