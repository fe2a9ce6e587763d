"""An aggregator of one's own is a function: used as the named ones are, checked, and saved by its name."""

import copy

import pytest
import torch

import zo_triton as zo


def mean(projected, gram):
    return projected / projected.numel()


def least_squares(projected, gram):
    return torch.linalg.lstsq(gram(), projected.double()).solution.float()


def test_a_function_is_what_its_name_is(model, loss_of, bits):
    twin = copy.deepcopy(model)
    own = zo.ZOSGD(model.parameters(), lr=0.05, directions=8, aggregator=mean)
    named = zo.ZOSGD(twin.parameters(), lr=0.05, directions=8, aggregator="average")
    own.step(lambda: loss_of(model))
    named.step(lambda: loss_of(twin))
    assert bits(list(model.parameters())) == bits(list(twin.parameters()))


def test_a_function_may_ask_for_the_gram_matrix(model, loss_of):
    closure, params = lambda: loss_of(model), list(model.parameters())
    zo.estimate_gradient(closure, params, zo.Directions(0, 0, 8), aggregator=least_squares)
    found = [param.grad.clone() for param in params]
    zo.estimate_gradient(closure, params, zo.Directions(0, 0, 8), aggregator="align")
    for mine, param in zip(found, params, strict=True):
        torch.testing.assert_close(mine, param.grad, rtol=1e-4, atol=1e-6)


def test_adam_takes_one(model, loss_of):
    opt = zo.ZOAdam(model.parameters(), lr=0.05, directions=8, aggregator=mean)
    first = opt.step(lambda: loss_of(model))
    for _ in range(30):
        last = opt.step(lambda: loss_of(model))
    assert last < first / 2


@pytest.mark.parametrize(
    ("function", "error", "message"),
    [
        (lambda c, gram: None, TypeError, "returned NoneType; it must return the coefficients"),
        (lambda c, gram: c.long(), TypeError, "returned torch.int64"),
        (
            lambda c, gram: c[:2],
            ValueError,
            r"returned shape \(2,\).*one coefficient a direction, here \(4,\)",
        ),
        (lambda c, gram: c / 0.0, ValueError, "returned a NaN or an infinity for the slopes"),
    ],
)
def test_what_are_no_coefficients_is_refused(function, error, message):
    weight = torch.ones(3)
    opt = zo.ZOSGD([weight], lr=0.1, directions=4, aggregator=function)
    with pytest.raises(error, match=rf"the aggregator test_own_aggregator\.<lambda>.*{message}|{message}"):
        opt.step(lambda: weight.sum())
    assert opt.steps_done == 0
    assert torch.equal(weight, torch.ones(3))


def test_a_state_holds_the_name_and_is_loaded_with_the_function(tmp_path):
    weight = torch.ones(3)
    opt = zo.ZOSGD([weight], lr=0.1, aggregator=mean)
    torch.save(opt.state_dict(), tmp_path / "state.pt")
    state = torch.load(tmp_path / "state.pt", weights_only=True)
    assert state["zo"]["aggregator"].endswith("test_own_aggregator.mean")
    with pytest.raises(
        ValueError, match=r"saved with the aggregator '.*test_own_aggregator.mean', a function"
    ):
        zo.ZOSGD([weight], lr=0.1).load_state_dict(state)
    other = zo.ZOSGD([weight], lr=0.1, aggregator=mean)
    other.load_state_dict(state)
    assert other.aggregator is mean


def test_an_unknown_name_says_that_functions_are_taken():
    with pytest.raises(
        ValueError, match=r"unknown aggregator 'mean'.*or pass a function of \(projected, gram\)"
    ):
        zo.ZOSGD([torch.ones(2)], lr=0.1, aggregator="mean")


def test_a_log_names_it_and_is_replayed_without_it(tmp_path):
    weight = torch.ones(3)
    opt = zo.ZOSGD([("weight", weight)], lr=0.1, directions=4, aggregator=mean)
    with zo.ReplayLog.start(tmp_path / "log.zo", opt):
        opt.step(lambda: weight.square().sum())
    header = zo.runlog.read(tmp_path / "log.zo").header
    assert header["measured"]["aggregator"].endswith("test_own_aggregator.mean")
    again = zo.replay(tmp_path / "log.zo", {"weight": torch.ones(3)})
    assert torch.equal(again["weight"], weight)
