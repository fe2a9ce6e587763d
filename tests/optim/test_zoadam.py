"""ZOAdam does what torch.optim.Adam does with the estimate, bit for bit, and keeps what Adam keeps."""

import copy

import pytest
import torch

import zo_triton as zo

OPTIONS = [
    pytest.param({}, id="plain"),
    pytest.param({"betas": (0.5, 0.9), "adam_eps": 1e-3}, id="betas and eps"),
    pytest.param({"weight_decay": 0.1, "amsgrad": True}, id="amsgrad and weight decay"),
    pytest.param({"maximize": True}, id="maximize"),
]
MEASURED = [
    pytest.param({}, id="rademacher"),
    pytest.param({"distribution": "sphere", "sides": 2, "aggregator": "align"}, id="sphere, aligned"),
    pytest.param({"perturb": "activations"}, id="activations"),
]


def torchs(options):
    """The options under torch's names."""
    return {"eps" if name == "adam_eps" else name: value for name, value in options.items()}


def estimate(closure, params, step, measured):
    """The gradient that a ZOAdam measures at a step, by the other entry."""
    known = dict(measured)
    default = "hadamard" if "perturb" in known else "rademacher"
    directions = zo.Directions(0, step, 8, known.pop("distribution", default))
    return zo.estimate_gradient(closure, params, directions, 1e-3, **known)


@pytest.mark.parametrize("options", OPTIONS)
@pytest.mark.parametrize("measured", MEASURED)
def test_same_bits_as_adam_on_the_estimate(options, measured, model, loss_of, bits):
    twin = copy.deepcopy(model)
    ours = zo.ZOAdam(model.parameters(), lr=0.05, directions=8, eps=1e-3, **options, **measured)
    theirs = torch.optim.Adam(twin.parameters(), lr=0.05, **torchs(options))
    for step in range(3):
        loss = ours.step(lambda: loss_of(model))
        assert loss == estimate(lambda: loss_of(twin), twin.parameters(), step, measured)
        theirs.step()
        assert bits(list(model.parameters())) == bits(list(twin.parameters()))
    state, known = ours.state_dict(), theirs.state_dict()
    (group,), (torchs_group,) = state["param_groups"], known["param_groups"]
    assert group == {name: torchs_group[name] for name in group}
    for index, own in known["state"].items():
        assert own.keys() == state["state"][index].keys()
        assert bits(list(own.values())) == bits(list(state["state"][index].values()))
    assert all(param.grad is None for param in model.parameters())


def test_groups_have_options_of_their_own(model, loss_of, bits):
    twin = copy.deepcopy(model)

    def groups(net):
        return [
            {"params": net[0].parameters(), "lr": 0.1, "eps": 1e-2},
            {"params": net[2].parameters(), "maximize": True, "betas": (0.1, 0.2)},
        ]

    ours, theirs = zo.ZOAdam(groups(model), directions=4), torch.optim.Adam(groups(twin))
    for _ in range(2):
        ours.step(lambda: loss_of(model))
        zo.estimate_gradient(lambda: loss_of(twin), twin.parameters(), directions=4)
        theirs.step()
    assert bits(list(model.parameters())) == bits(list(twin.parameters()))


def test_resumed_run_goes_on_bit_for_bit(model, loss_of, bits):
    twin = copy.deepcopy(model)
    whole = zo.ZOAdam(model.parameters(), lr=0.05, directions=4, amsgrad=True)
    first = zo.ZOAdam(twin.parameters(), lr=0.05, directions=4, amsgrad=True)
    for _ in range(2):
        whole.step(lambda: loss_of(model))
        first.step(lambda: loss_of(twin))
    second = zo.ZOAdam(twin.parameters())
    second.load_state_dict(first.state_dict())
    for _ in range(2):
        whole.step(lambda: loss_of(model))
        second.step(lambda: loss_of(twin))
    assert second.steps_done == 4
    assert bits(list(model.parameters())) == bits(list(twin.parameters()))
    assert second.state[next(twin.parameters())]["step"].dtype == torch.float32


def test_low_precision_weights_are_the_rounding_of_a_full_copy():
    """Updates of 1e-6 are far below bfloat16's spacing at 1, and add up all the same."""
    weight = torch.ones(64, dtype=torch.bfloat16)
    opt = zo.ZOAdam([weight], lr=1e-6, aggregator="align")
    for _ in range(5):
        opt.step(lambda: weight.float().sum())
    master = opt.state[weight]["master"]
    assert torch.equal(weight, torch.ones_like(weight))
    assert master.dtype == opt.state[weight]["exp_avg"].dtype == torch.float32
    torch.testing.assert_close(1 - master, torch.full((64,), 5e-6), rtol=0.05, atol=0)


def test_stochastic_rounding_set_later_is_refused():
    weight = torch.ones(64, dtype=torch.bfloat16)
    opt = zo.ZOAdam([weight], lr=1e-6)
    opt.low_precision = "stochastic"
    with pytest.raises(ValueError, match=r"ZOAdam keeps a float32 copy.*low_precision='stochastic'"):
        opt.step(lambda: weight.float().sum())
    assert opt.steps_done == 0
    assert torch.equal(weight, torch.ones_like(weight))


def test_a_failed_step_has_not_happened(model, loss_of, bits):
    opt = zo.ZOAdam(model.parameters(), lr=0.05, directions=4)
    opt.step(lambda: loss_of(model))
    before = bits([*model.parameters(), *(value for own in opt.state.values() for value in own.values())])
    with pytest.raises(zo.NonFiniteLossError, match="the loss is nan"):
        opt.step(lambda: loss_of(model) * torch.nan)
    assert opt.steps_done == 1
    assert before == bits(
        [*model.parameters(), *(value for own in opt.state.values() for value in own.values())]
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"lr": -1.0}, "lr must be finite and not negative, got -1.0"),
        ({"betas": (0.9, 1.0)}, r"betas must be two numbers in \[0, 1\), got \(0.9, 1.0\)"),
        ({"betas": (0.9,)}, r"betas must be two numbers in \[0, 1\), got \(0.9,\)"),
        ({"betas": 0.9}, r"betas must be two numbers in \[0, 1\), got 0.9"),
        ({"adam_eps": -1e-8}, "adam_eps must be finite and not negative, got -1e-08"),
        ({"weight_decay": -0.1}, "weight_decay must be finite and not negative, got -0.1"),
        ({"eps": 0.0}, "eps must be positive and finite, got 0.0"),
    ],
)
def test_bad_options_are_refused(options, message):
    with pytest.raises(ValueError, match=message):
        zo.ZOAdam([torch.ones(3)], **options)


def test_another_kinds_state_is_refused():
    weight = torch.ones(3)
    adam, sgd = zo.ZOAdam([weight]), zo.ZOSGD([weight], lr=0.1)
    with pytest.raises(ValueError, match=r"groups have no betas, eps, amsgrad.*another kind of optimizer"):
        adam.load_state_dict(sgd.state_dict())
    with pytest.raises(ValueError, match="groups have no momentum"):
        sgd.load_state_dict(adam.state_dict())


def test_a_trainer_takes_torchs_optimizers():
    model = torch.nn.Linear(3, 2)
    with pytest.raises(TypeError, match=r"pass torch.optim.Adam, or call ZOAdam.step\(closure\)"):
        zo.FusedTrainer(model, zo.ZOAdam(model.parameters()))
