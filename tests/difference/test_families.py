"""The rules are found, whichever file they stand in, and what is wrong with a file of rules shows."""

import sys
from types import ModuleType

import pytest
import torch

from zo_triton.difference import RULE_FAMILIES, registry, rules

PLANTED = '''
"""Inverses: of the error function."""

from zo_triton.difference.registry import rule


@rule("erfinv")
def erfinv(mode, base, input):
    return NotImplemented
'''


def flaws(family):
    """What a family of rules lacks."""
    found = []
    if not (family.__doc__ or "").strip():
        found.append("has no docstring, whose first line is its row in the table of rules")
    if all(handle.__module__ != family.__name__ for handle in registry.HANDLERS.values()):
        found.append("registers no function")
    return found


@pytest.mark.parametrize("family", RULE_FAMILIES, ids=lambda family: family.__name__.rpartition(".")[2])
def test_a_family_is_finished(family):
    assert flaws(family) == []


def test_an_unfinished_family_is_noticed():
    assert len(flaws(ModuleType("zo_triton.difference.rules.unfinished"))) == 2


def test_a_new_file_is_found(monkeypatch, tmp_path):
    (tmp_path / "inverses.py").write_text(PLANTED)
    monkeypatch.setattr(rules, "__path__", [*rules.__path__, str(tmp_path)])
    monkeypatch.setattr(registry, "HANDLERS", dict(registry.HANDLERS))
    try:
        families = rules.collect()
        assert {family.__name__ for family in families} - {family.__name__ for family in RULE_FAMILIES} == {
            "zo_triton.difference.rules.inverses"
        }
        assert flaws(rules.inverses) == []
        assert torch.erfinv in registry.HANDLERS
    finally:
        del sys.modules["zo_triton.difference.rules.inverses"], rules.inverses


def test_two_rules_for_one_function_are_an_error():
    def handle(mode, function, args, kwargs):
        raise AssertionError

    with pytest.raises(ValueError, match=r"relu.* has a rule in .*rules\.activations already; .*keep one"):
        registry.register(registry.named("relu"), handle)
