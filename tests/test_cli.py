import os
import subprocess
import sys

import pytest

from benchmarks import __main__ as suite
from zo_triton import cli
from zo_triton.commands import shared
from zo_triton.commands.shared import Parser


def test_help_lists_the_commands(capsys):
    with pytest.raises(SystemExit) as stop:
        cli.main(["--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert all(command in text for command in ("compile", "replay", "tune"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "required: COMMAND"),
        (["relpay"], "invalid choice: 'relpay'"),
        (["compile", "--target", "sm_91"], "unknown target 'sm_91'; choose among ('sm_80', 'sm_90'"),
        (
            ["compile", "--kernel", "attention"],
            "no kernel's name has 'attention' in it; known are ('linear bf16",
        ),
        (["compile", "--figure", "clocks.pdf"], "a figure is a .png or a .svg, got 'clocks.pdf'"),
        (["report"], "python -m benchmarks report"),
    ],
)
def test_mistakes_get_one_line_and_code_2(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        code = cli.main(arguments)
    except SystemExit as stop:
        code = stop.code
    captured = capsys.readouterr()
    assert code == 2
    assert captured.err.count("\n") == 1
    assert message in captured.err
    assert list(tmp_path.iterdir()) == []


def test_compiling_without_triton_gets_one_line_and_code_2(capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "triton", None)
    assert cli.main(["compile"]) == 2
    message = capsys.readouterr().err
    assert "compile needs Triton" in message
    assert message.count("\n") == 1


def commands_of(parser):
    (commands,) = (action for action in parser._actions if hasattr(action, "choices") and action.choices)
    return set(commands.choices)


def test_every_command_of_the_suite_is_known_by_name_and_only_those():
    assert set(cli.SUITE) == commands_of(suite._parser())
    assert not set(cli.SUITE) & commands_of(cli._parser())


def test_memory_that_runs_out_is_told_in_one_line(capsys):
    def run(options):
        raise MemoryError("Unable to allocate 1.00 TiB")

    parser = Parser(prog="zo-triton")
    parser.set_defaults(run=run)
    assert shared.run(parser, []) == 2
    assert capsys.readouterr().err == (
        "zo-triton: error: memory ran out: Unable to allocate 1.00 TiB; take fewer directions or a smaller batch\n"
    )


def test_a_locale_without_a_character_gets_another_one():
    program = (
        "from zo_triton.commands.shared import Parser, run\n"
        "parser = Parser()\n"
        "parser.set_defaults(run=lambda options: print('1.2×') or 0)\n"
        "raise SystemExit(run(parser, []))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], env={**os.environ, "PYTHONIOENCODING": "ascii"}, capture_output=True
    )
    assert (done.returncode, done.stdout) == (0, b"1.2?\n")
