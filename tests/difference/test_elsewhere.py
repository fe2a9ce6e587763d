"""What was made of trained parameters before the closure, or in another thread, is told to count as constant."""

import threading
import warnings

import pytest
import torch
import torch.nn.functional as F

import zo_triton as zo
from zo_triton.difference import fallback

X = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))


@pytest.fixture
def body_and_head():
    fallback._warned.clear()
    yield torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.Tanh()), torch.nn.Linear(4, 2)
    fallback._warned.clear()


def told(closure, modules):
    """How often it is told."""
    params = [param for module in modules for param in module.parameters()]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        zo.differences(closure, params, zo.Directions(0, 0, 2), 1e-3)
    return sum("made of trained parameters" in str(each.message) for each in caught)


@pytest.mark.parametrize("how", ["an argument", "a keyword", "in a list"])
def test_before_the_closure(how, body_and_head):
    body, head = body_and_head
    features = body(X)
    closures = {
        "an argument": lambda: head(features).sum(),
        "a keyword": lambda: F.linear(input=features, weight=head.weight).sum() + features.sum(),
        "in a list": lambda: head(torch.cat([body(X), features])).sum(),
    }
    assert told(closures[how], body_and_head) == 1


def test_in_another_thread(body_and_head):
    body, head = body_and_head

    def closure():
        made = []
        thread = threading.Thread(target=lambda: made.append(body(X)))
        thread.start()
        thread.join()
        return head(made[0]).sum()

    assert told(closure, body_and_head) == 1


def test_what_is_meant_or_no_fault_is_not_told(body_and_head):
    body, head = body_and_head
    features, others = body(X), torch.nn.Linear(4, 4)(X)

    def with_autograd():
        with torch.enable_grad():
            return head(body(X)).sum()

    for closure in (lambda: head(features.detach()).sum(), lambda: head(others).sum(), with_autograd):
        assert told(closure, body_and_head) == 0
    assert told(lambda: head(features).sum(), [head]) == 0
