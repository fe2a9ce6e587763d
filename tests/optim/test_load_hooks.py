"""Hooks on saving and loading: what they return is what is saved and loaded, and they find all of it there."""

import copy

import pytest
import torch

from zo_triton.optim import ZOSGD, ZOAdam

KINDS = {
    "sgd": lambda params: ZOSGD(params, 0.05, 6, momentum=0.9),
    "adam": lambda params: ZOAdam(params, 0.05, 6),
}


@pytest.fixture(params=KINDS)
def kind(request):
    return KINDS[request.param]


def weights():
    return {"half": torch.linspace(-1, 1, 4).bfloat16(), "full": torch.linspace(1, 2, 4)}


def stepped(optimizer, params, count=2):
    for _ in range(count):
        optimizer.step(lambda: sum((param.float() - 3).square().mean() for param in params))
    return optimizer


def by_name(optimizer, saved):
    """A hook that sorts a saved state by the names of the loading optimizer's parameters."""
    own = optimizer.state_dict()["param_groups"]
    theirs = saved["param_groups"][0]["param_names"]
    state = {index: saved["state"][theirs.index(name)] for index, name in enumerate(own[0]["param_names"])}
    return {**saved, "state": state, "param_groups": own}


def test_a_pre_hook_sorts_what_is_loaded(kind):
    """The two parameters have one shape: taken over in the saved order, their moments would be exchanged."""
    params = weights()
    saved = stepped(kind(params.items()), list(params.values())).state_dict()
    loading = weights()
    optimizer = kind(reversed(loading.items()))
    optimizer.register_load_state_dict_pre_hook(by_name)
    optimizer.load_state_dict(saved)
    for index, name in enumerate(params):
        assert saved["state"][index]
        for key, value in saved["state"][index].items():
            found = optimizer.state[loading[name]][key]
            assert torch.equal(found, value)
            assert found.dtype == value.dtype
            assert found.data_ptr() != value.data_ptr()


def test_a_pre_hook_mends_the_settings(kind):
    params = list(weights().values())
    saved = stepped(kind(params), params).state_dict()
    del saved["zo"]["rounds"]
    optimizer = kind(list(weights().values()))
    with pytest.raises(ValueError, match="entry 'zo' must hold"):
        optimizer.load_state_dict(saved)
    hook = optimizer.register_load_state_dict_pre_hook(
        lambda _, state: {**state, "zo": {**state["zo"], "rounds": 7}}
    )
    optimizer.load_state_dict(saved)
    assert (optimizer.rounds, optimizer.steps_done) == (7, 2)
    hook.remove()
    with pytest.raises(ValueError, match="entry 'zo' must hold"):
        optimizer.load_state_dict(saved)


def test_post_hooks_find_everything(kind):
    params = list(weights().values())
    optimizer = stepped(kind(params), params)
    optimizer.register_state_dict_post_hook(lambda _, state: {**state, "count": state["zo"]["steps_done"]})
    saved = optimizer.state_dict()
    assert saved["count"] == 2
    seen = []

    def note(loaded):
        seen.append((loaded.steps_done, {name: each.dtype for name, each in loaded.state[other[0]].items()}))

    other = list(weights().values())
    loading = kind(other)
    loading.register_load_state_dict_post_hook(note)
    loading.load_state_dict(saved)
    assert seen == [(2, {name: each.dtype for name, each in optimizer.state[params[0]].items()})]


def test_a_state_that_is_no_tensor_changes_nothing(kind):
    params = list(weights().values())
    optimizer = stepped(kind(params), params)
    before = copy.deepcopy(optimizer.state_dict())
    damaged = copy.deepcopy(before)
    damaged["param_groups"][0]["lr"], damaged["state"][1]["master"] = 1.0, None
    with pytest.raises(ValueError, match="master of parameter 1 is no tensor but a NoneType"):
        optimizer.load_state_dict(damaged)
    assert str(optimizer.state_dict()) == str(before)
