"""The documentation stays true: its code and the docstrings run, what it names exists, its links lead somewhere."""

import doctest
import importlib
import json
import re
import sys
from types import SimpleNamespace

import griffe
import pytest
import torch
from documents import ROOT, broken_links, check_commands, check_targets, python_blocks, run

import zo_triton as zo
from benchmarks.nzk.settings import EXPERIMENTS
from zo_triton import nzk

PAGES = sorted((ROOT / "docs").rglob("*.md"))
ALONE = ("distributed.md",)
"""Needs a process group: tests/distributed runs it."""
WITH_CODE = [page for page in PAGES if python_blocks(page) and page.name not in ALONE]
REFERENCE = "\n".join(page.read_text(encoding="utf-8") for page in PAGES if page.parent.name == "api")
PACKAGES = [public for public in (getattr(zo, name) for name in zo.__all__) if hasattr(public, "__path__")]
WITH_EXAMPLES = sorted(
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    for path in (ROOT / "zo_triton").rglob("*.py")
    if ">>> " in path.read_text(encoding="utf-8")
)


@pytest.fixture(autouse=True)
def same_numbers(one_thread, monkeypatch):
    monkeypatch.chdir(ROOT)  # pages name files as from there
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def tools(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "docs" / "tools"))
    yield
    for name in ("generated", "docstrings", "hooks", "notebooks"):
        sys.modules.pop(name, None)


def page_id(page):
    return str(page.relative_to(ROOT / "docs"))


@pytest.mark.parametrize("page", WITH_CODE, ids=page_id)
def test_the_blocks_of_a_page_run_in_order(page):
    names: dict[str, object] = {"__name__": page.stem}
    for block in python_blocks(page):
        run(block, names)
    assert len(names) > 1, "the page's code has left nothing behind"


def test_every_block_of_code_is_found():
    assert sum(len(python_blocks(page)) for page in PAGES) == sum(
        page.read_text(encoding="utf-8").count("\n```python") for page in PAGES
    )


@pytest.mark.parametrize("name", WITH_EXAMPLES)
def test_the_examples_of_docstrings(name):
    found = doctest.testmod(importlib.import_module(name))
    assert found.attempted
    assert not found.failed


def test_every_public_name_is_in_the_reference():
    documented = set(re.findall(r"^::: zo_triton\.(.*)$", REFERENCE, re.MULTILINE))
    assert [name for name in zo.__all__ if name not in documented] == []
    entries = {path.rpartition(".")[2] for path in documented}
    entries.update(*(re.findall(r"\w+", members) for members in re.findall(r"members: \[(.*)\]", REFERENCE)))
    for package in PACKAGES:
        assert set(package.__all__) - entries == set(), package.__name__
    files_and_names = {f"nzk.{file}.{name}" for file, names in nzk._NAMES.items() for name in names}
    assert files_and_names - documented == set()


@pytest.mark.parametrize("page", PAGES, ids=page_id)
def test_links_commands_and_paths_exist(page):
    assert broken_links(page) == []
    check_commands(page)
    check_targets(page)
    named = re.findall(r"`((?:zo_triton|tests|benchmarks|docs)/[\w./-]+)`", page.read_text(encoding="utf-8"))
    assert [path for path in named if not (ROOT / path).exists()] == []


def test_every_page_is_in_the_navigation():
    navigation = (ROOT / "mkdocs.yml").read_text(encoding="utf-8")
    assert [page_id(page) for page in PAGES if page_id(page) not in navigation] == []


def test_the_table_of_rules_has_every_function(tools):
    from zo_triton.difference import RULE_FAMILIES
    from zo_triton.difference.registry import HANDLERS

    assert {handle.__module__ for handle in HANDLERS.values()} <= {each.__name__ for each in RULE_FAMILIES}
    table = importlib.import_module("generated").rule_table()
    for name in ("relu", "linear", "conv2d", "cross_entropy", "exp", "scaled_dot_product_attention", "T"):
        assert f"`{name}`" in table
    assert len(table.splitlines()) > len(RULE_FAMILIES)


def test_the_command_lines_help_is_complete(tools):
    text = importlib.import_module("generated").command_line()
    for command in ("compile", "replay", "tune"):
        assert f"\n### zo-triton {command}\n" in text
    for command in ("train", "report", "race", "nzk", "field", "gpu", "render"):
        assert f"\n### python -m benchmarks {command}\n" in text
    assert "\x1b" not in text
    assert "--compare-fail" in text


def test_the_headline_is_the_latest_reports(tools, monkeypatch, tmp_path):
    generated = importlib.import_module("generated")
    report = generated.RECORD.with_name("report.md").read_text(encoding="utf-8")
    lines = generated.headline().splitlines()
    assert len(lines) > 3
    assert [line for line in lines if line not in report] == []
    monkeypatch.setattr(generated, "RECORD", tmp_path / "results.json")
    assert "make report" in generated.headline()


def test_the_accelerations_are_those_of_the_committed_reports():
    rows = re.findall(
        r"^\| \[`([\w-]+)`\]\(\S+\) \| (.+?) \| (\d+) \| ([\d.]+) \| ([\d.]+) ± ([\d.]+) \|$",
        (ROOT / "docs" / "reproducing-the-paper.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    told = []
    for name in EXPERIMENTS:
        record = json.loads((ROOT / "reports" / "nzk" / name / "results.json").read_text(encoding="utf-8"))
        for case in record["sections"]["nzk"]["cases"]:
            ratio = case["acceleration"]
            figures = (
                f"{ratio['ratio_predicted']:.4g}",
                f"{ratio['ratio']:.4g}",
                f"{ratio['ratio_error']:.1g}",
            )
            told.append((name, case["name"], str(case["size"]), *figures))
            assert abs(ratio["ratio"] - ratio["ratio_predicted"]) < 4 * ratio["ratio_error"]
    assert rows == told


def test_links_to_outside_lead_to_the_sites_copies(tools):
    hooks = importlib.import_module("hooks")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    text = "[a](../reports/latest/report.md#memory) [b](../CONTRIBUTING.md) [c](api/index.md)"
    assert (
        hooks.on_page_markdown(text, page)
        == "[a](reports/latest/report.md#memory) [b](CONTRIBUTING.md) [c](api/index.md)"
    )
    assert (
        hooks.on_page_markdown("[d](../examples/first_steps.ipynb#any-torch-model)", page)
        == "[d](examples/first_steps.md#any-torch-model)"
    )
    notebook = SimpleNamespace(file=SimpleNamespace(src_uri="examples/first_steps.md"))
    assert hooks.on_page_markdown("[e](../docs/theory.md)", notebook) == "[e](../theory.md)"
    copied = {path.name for pattern in hooks.OUTSIDE for path in ROOT.glob(pattern)}
    assert {"report.md", "race_time.svg", "CONTRIBUTING.md", "CHANGELOG.md"} <= copied


@pytest.mark.parametrize(
    "loading",
    [
        '<script async src="https://cdn.example/x.js">',
        "<img alt=a src=//cdn.example/x.png>",
        '<link rel="stylesheet" href="https://fonts.example/css">',
    ],
)
def test_a_page_that_would_load_from_the_network_is_told(tools, caplog, loading):
    hooks = importlib.import_module("hooks")
    page = SimpleNamespace(file=SimpleNamespace(src_uri="index.md"))
    hooks.on_post_page('<script src="assets/x.js"></script><a href="https://arxiv.org/">', page)
    assert not caplog.records
    hooks.on_post_page(f"<head>{loading}</head>", page)
    assert "index.md loads from the network" in caplog.text


def test_roles_of_docstrings_become_links_and_examples_a_section(tools):
    owner = griffe.visit(
        "package", filepath=ROOT / "package.py", code="def first(): ...\ndef second(): ...\n"
    )["second"]
    text = importlib.import_module("docstrings").markdown_of(
        "See :func:`first` and :class:`~other.Thing`.\n\nExample:\n    >>> 1\n", owner
    )
    assert text == (
        'See <autoref identifier="package.first" optional><code>first</code></autoref> and '
        '<autoref identifier="other.Thing" optional><code>Thing</code></autoref>.\n\nExamples:\n    >>> 1\n'
    )
