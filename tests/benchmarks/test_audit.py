"""The table of torch's functions: nothing is unknown, each way out is as told, and the page is the present one."""

import pytest
import torch

from benchmarks.audit import names, page
from benchmarks.audit.ways import WAYS, outcome


def test_every_name_of_torch_has_its_place():
    holes = [
        f"{space}.{name}"
        for space, found in names.words().items()
        for name, word in found.items()
        if word is None
    ]
    assert holes == [], "say in benchmarks/audit/names.py what becomes of a difference there"


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("way", WAYS)
def test_each_way_out_does_what_the_page_says(way):
    word, example = WAYS[way]
    assert outcome(example) == word


def test_a_name_that_torch_gets_anew_is_a_hole(monkeypatch):
    monkeypatch.setattr(torch, "quieten", lambda x: x, raising=False)
    assert names.words()["torch"]["quieten"] is None


def test_the_page_is_the_present_one():
    current = page.is_current(page.PAGE.read_text(encoding="utf-8"))
    if current is None:
        pytest.skip("the page was made with another torch")
    assert current, "run python -m benchmarks audit"
