"""What tests of Markdown files need: their Python blocks, run under their own line numbers, commands and links."""

import doctest
import re
import shlex
import subprocess
from pathlib import Path
from typing import NamedTuple

from benchmarks import __main__ as suite
from zo_triton import cli

ROOT = Path(__file__).resolve().parents[1]
_FENCE = re.compile(r"^```(\w+)[^\n]*\n(.*?)^```$", re.DOTALL | re.MULTILINE)
_INDENTED = re.compile(r"^ {4}(\S.*)$", re.MULTILINE)
_LINK = re.compile(r"(?<!`)\]\((?!https?:)([^)#]*)(?:#[^)]*)?\)")


def committed(path):
    """A file as it was committed: `make report` writes another in its place."""
    command = ["git", "show", f"HEAD:{path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, encoding="utf-8", check=False)
    return done.stdout if done.returncode == 0 else (ROOT / path).read_text(encoding="utf-8")


class Block(NamedTuple):
    """A fenced block of a file; ``line`` counts from 1 and is that of its first line of code."""

    path: Path
    line: int
    code: str


def python_blocks(path: Path) -> list[Block]:
    """The ``python`` blocks of a Markdown file."""
    text = path.read_text(encoding="utf-8")
    return [
        Block(path, text.count("\n", 0, match.start(2)) + 1, match[2])
        for match in _FENCE.finditer(text)
        if match[1] == "python"
    ]


def run(block: Block, names: dict[str, object]) -> None:
    """Runs a block in a namespace: as a doctest where it has prompts, else as it stands."""
    if not block.code.startswith(">>> "):
        code = "\n" * (block.line - 1) + block.code
        exec(compile(code, str(block.path), "exec"), names)
        return
    example = doctest.DocTestParser().get_doctest(
        block.code, names, block.path.name, str(block.path), block.line - 1
    )
    told: list[str] = []
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.ELLIPSIS)
    runner.run(example, out=told.append, clear_globs=False)
    names.update(example.globs)
    assert not told, "".join(told)


def _shell_lines(text: str) -> list[str]:
    """What a reader would type: indented lines, and those of ``bash`` blocks, without their comments."""
    fenced = [line for match in _FENCE.finditer(text) if match[1] == "bash" for line in match[2].splitlines()]
    return [line.partition(" #")[0].strip() for line in [*_INDENTED.findall(text), *fenced]]


PROGRAMS = {"zo-triton ": cli, "python -m benchmarks ": suite}


def check_commands(path: Path) -> list[str]:
    """The command lines of a file, each of which its program accepts."""
    found = []
    for line in _shell_lines(path.read_text(encoding="utf-8")):
        command = line.partition(" | ")[0]
        for program, module in PROGRAMS.items():
            if command.startswith(program):
                assert module._parser().parse_args(shlex.split(command.removeprefix(program))).run, command
                found.append(command)
    return found


def check_targets(path: Path) -> set[str]:
    """The targets of ``make`` that a file names, each of which exists."""
    text = path.read_text(encoding="utf-8")
    named = set(re.findall(r"`make ([a-z-]+)", text))
    named |= {line.split()[1] for line in _shell_lines(text) if line.startswith("make ")}
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    assert named <= set(re.findall(r"^([a-z-]+):", makefile, re.MULTILINE))
    return named


def broken_links(path: Path) -> list[str]:
    """The links of a file, and images, that lead to no file beside it."""
    links = [link for link in _LINK.findall(path.read_text(encoding="utf-8")) if link]
    return [link for link in links if not (path.parent / link).exists()]
