"""What a shell gets that asks, by argcomplete, what may follow in a line."""

import os
import subprocess
import sys
from types import SimpleNamespace

import pytest

from benchmarks import __main__ as suite
from zo_triton import cli


@pytest.mark.parametrize(
    ("program", "command"), [(cli, "replay"), (suite, "train")], ids=["library", "suite"]
)
def test_argcomplete_gets_the_parser_only_when_a_shell_asks(program, command, monkeypatch, capsys):
    asked = []

    def answer(parser):
        asked.append(parser.format_help())
        raise SystemExit(0)

    monkeypatch.setitem(sys.modules, "argcomplete", SimpleNamespace(autocomplete=answer))
    with pytest.raises(SystemExit):
        program.main(["--version"])
    assert asked == []
    monkeypatch.setenv("_ARGCOMPLETE", "1")
    with pytest.raises(SystemExit):
        program.main([])
    assert command in asked[0]


@pytest.mark.parametrize(
    ("line", "answers"),
    [("zo-triton re", {"replay"}), ("zo-triton replay --in", {"--inspect", "--intact-prefix"})],
)
def test_the_answers(line, answers, tmp_path):
    pytest.importorskip("argcomplete")
    told = tmp_path / "answers"
    environment = {
        **os.environ, "_ARGCOMPLETE": "1", "_ARGCOMPLETE_IFS": " ", "COMP_LINE": line, "COMP_POINT": str(len(line)),
        "_ARGCOMPLETE_STDOUT_FILENAME": str(told), "_ARGCOMPLETE_SUPPRESS_SPACE": "1",
    }  # fmt: skip
    code = "import sys; from zo_triton.cli import main; main(); assert 'torch' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)
    assert set(told.read_text().split()) == answers
