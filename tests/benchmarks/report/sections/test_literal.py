"""No field of a record makes anything of a report but its own words, wherever the report shows it."""

from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path

import pytest

from benchmarks.report import compiled, figures, history, new_record
from benchmarks.report.html import page
from benchmarks.report.literal import code, literal, prose, quoted, spoken
from benchmarks.report.markdown import render
from benchmarks.report.registry import SECTIONS

REPORTS = Path(__file__).resolve().parents[4] / "reports"
NAMES = [section.name for section in SECTIONS]

LINKS = (
    "[a](http://evil.example) ![b](http://evil.example/b.png) ![c](../c.svg) <http://evil.example> "
    "<e@evil.example> [d][e] <script>alert(1)</script> <img src=x> &lt;b&gt; &#60; | f | ~~g~~ $h$ \\ \\[i](http://evil.example)\n\n"
    "[e]: http://evil.example\n\n# j\n\n- k\n\n> l\n\n1. m\n\n| n |\n|---|\n| o |\n\n---\n\n    p"
)
STYLE = " *q* **r** __s__ _t_ `u` ``v`` `w ***"
MILD = "x"


class Page(HTMLParser):
    """A page's tags in order, where it leads, and its words."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.leads, self.words = [], set(), ""
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        self.leads |= {value for key, value in attributes if key in ("href", "src")}

    def handle_data(self, text):
        self.words += text


def texts_of(tree, path=()):
    """The path of every text in a tree."""
    if isinstance(tree, str):
        yield path
    elif isinstance(tree, (dict, list)):
        for key, each in tree.items() if isinstance(tree, dict) else enumerate(tree):
            yield from texts_of(each, (*path, key))


def changed(tree, path, change):
    """A copy with one text changed."""
    copy = deepcopy(tree)
    *above, last = path
    inner = copy
    for key in above:
        inner = inner[key]
    inner[last] = change(inner[last])
    return copy


def poison(path, before):
    """Adds all of Markdown to a text; a note's style is its own."""
    evil = LINKS if "note" in path else LINKS + STYLE
    return (lambda text: f"{evil} {text}") if before else (lambda text: f"{text} {evil}")


def both(show, tree, before):
    """The page with every text poisoned that it may be, the one with a mild word in its place, and how many."""
    hostile, mild, count = tree, tree, 0
    for path in texts_of(tree):
        try:
            changed_both = (
                changed(hostile, path, poison(path, before)),
                changed(mild, path, lambda text: f"{MILD} {text}" if before else f"{text} {MILD}"),
            )
            for each in changed_both:
                show(each)
        except (ValueError, LookupError, AssertionError):
            continue  # a text by which something is looked up
        hostile, mild = changed_both
        count += 1
    return show(hostile), show(mild), count


def check(hostile, mild, tmp_path):
    found, expected = Page(page(hostile, tmp_path)), Page(page(mild, tmp_path))
    assert found.tags == expected.tags
    assert all(link.startswith("#") for link in found.leads)
    assert " ".join(LINKS.split()) in found.words


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
@pytest.mark.parametrize("name", NAMES)
def test_every_text_of_every_section_is_shown_and_not_obeyed(name, before, record, samples, tmp_path):
    short = {"environment": record["environment"], "data": samples[name]}

    def show(tree):
        return render(new_record(tree["environment"], {name: tree["data"]}), [])

    hostile, mild, count = both(show, short, before)
    assert count > 5
    check(hostile, mild, tmp_path)


ENTRY = {"commit": "0123456789ab", "dirty": False, "date": "2026-01-02", "device": "a CPU", "threads": 2}


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_a_history_is_shown_and_not_obeyed(before, tmp_path):
    entries = [{**ENTRY, "figures": {"ms": 1.0}}, {**ENTRY, "figures": {LINKS + STYLE: 2.0}}]

    def show(tree):
        return "# Report\n\n" + "\n\n".join(history.render(tree))

    hostile, mild, count = both(show, entries, before)
    assert count == 2 * 3
    check(hostile, mild.replace(literal(LINKS + STYLE), MILD), tmp_path)


def test_a_formula_in_a_record_is_drawn_as_its_letters(record, tmp_path):
    """One that matplotlib can't read; it would be an error."""
    formula = r" $\nothing{$"
    for method in record["sections"]["race"]["methods"]:
        method["label"] += formula
    assert "race_time.svg" in figures.draw_all(record, tmp_path)


@pytest.mark.parametrize("before", [False, True], ids=["after", "before"])
def test_a_compile_record_is_shown_and_not_obeyed(before, tmp_path):
    whole = compiled.read(REPORTS / "compile-triton-3.6" / "compile.json")
    rows = [row for row in whole["rows"] if row["default"] and row["target"] == compiled.TARGET][:2]

    def show(tree):
        return "# Report\n\n" + "\n\n".join(compiled.section(tree))

    hostile, mild, count = both(show, {**whole, "rows": rows}, before)
    assert count > 5
    check(hostile, mild, tmp_path)


def test_what_means_nothing_to_markdown_stays_as_it_is():
    plain = (
        "fused ZO + Adam, K = 1 (−0.5 < x > y & z), a_b_c, 3.5 ± 0.1, #1 of 2 - really, 1.5e-3: 100 % – ×!"
    )
    assert literal(plain) == prose(plain) == plain
    assert quoted({"a": [1, None, True, 2.5, plain]}) == {"a": [1, None, True, 2.5, plain]}


@pytest.mark.parametrize("text", [LINKS, STYLE.strip(), "#", "12. twelve", "- a", "+", "&amp;lt; &x;"])
def test_literal_text_is_told_again(text):
    assert spoken(literal(text)) == " ".join(text.split())
    assert code(literal("a[0] `b`")) == "`a[0] 'b'`"


def test_a_note_may_emphasise_and_quote():
    found = quoted({"note": "*of peak* by `zo-triton` [x](y)", "why": "*x*"})
    assert found == {"note": r"*of peak* by `zo-triton` \[x\](y)", "why": r"\*x\*"}
