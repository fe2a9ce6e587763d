"""The page on distributed training stays true: its program, its command, its figures."""

import re
import shlex
from pathlib import Path

import torch
import torch.distributed as dist
from rank_launch import environment, free_port

import zo_triton as zo
from benchmarks import __main__ as cli

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "distributed.md").read_text(encoding="utf-8")


def test_the_program_runs(monkeypatch, capsys):
    for name, value in environment(1, free_port(), 0).items():
        monkeypatch.setenv(name, value)
    (block,) = re.findall(r"^```python\n(.*?)^```$", PAGE, re.DOTALL | re.MULTILINE)
    state = torch.get_rng_state()
    exec(compile(block, "distributed.md", "exec"), {"__name__": "page"})
    torch.set_rng_state(state)
    assert capsys.readouterr().out.startswith("loss ")
    assert not dist.is_initialized()


def test_the_command_is_the_command_line():
    (command,) = re.findall(r"^    torchrun .*? -m benchmarks (.*?)$", PAGE, re.MULTILINE)
    assert cli._parser().parse_args(shlex.split(command)).distributed


def test_bytes_and_defaults(alone):
    ranks = zo.Ranks()
    assert f"{ranks.shards} is the default" in PAGE
    assert f"{1.25 * ranks.timeout:g} s by default" in PAGE
    assert f"every `check_every` steps ({ranks.check_every})" in PAGE
    sent = []
    gather = ranks._gather
    ranks._gather = lambda mine: sent.append(mine.numel() * mine.element_size()) or gather(mine)
    ranks.share(lambda first, stop, take: (0.0, torch.zeros(stop - first)), 64)
    assert sent == [4 * 8 + 64 * 4]  # a loss a shard, a difference a direction
    assert f"a rank sends {8 + 32 * 4} bytes" in PAGE  # two shards, of which it has one
