import io
import re
import sys

import pytest

from benchmarks.commands.showing import show
from zo_triton._tables import lay_out

TEXT = "Two figures.\n\n" + lay_out(
    ["what", "ratio against rivals"], [["a step", "1.25×"], ["a race", "0.9×"]]
)


class Terminal(io.StringIO):
    encoding = "utf-8"

    def isatty(self):
        return True


@pytest.mark.parametrize("width", [40, 100])
def test_a_table_fits_the_terminal(width, monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setenv("COLUMNS", str(width))
    monkeypatch.setenv("NO_COLOR", "1")
    show(TEXT)
    lines = re.sub(r"\x1b\[[0-9;]*m", "", shown.getvalue()).splitlines()
    assert max(map(len, lines)) <= width
    assert any("a step" in line and "1.25×" in line for line in lines)
    assert "|--" not in shown.getvalue()


def test_elsewhere_it_is_markdown(capsys):
    show(TEXT)
    assert capsys.readouterr().out == TEXT + "\n"


def test_without_rich_too(monkeypatch):
    shown = Terminal()
    monkeypatch.setattr(sys, "stdout", shown)
    monkeypatch.setitem(sys.modules, "rich.console", None)
    show(TEXT)
    assert shown.getvalue() == TEXT + "\n"
