"""Tuned tile sizes: how they are named, kept and found again, and when they are left alone."""

import json

import pytest
import torch

import zo_triton as zo
from zo_triton import ops
from zo_triton.kernels import choices, node_conv2d, node_linear, node_mlp_differences
from zo_triton.kernels.accumulate import accumulate
from zo_triton.kernels.conv2d import launch_perturbed_conv2d
from zo_triton.kernels.gram import gram
from zo_triton.kernels.launch import recording
from zo_triton.kernels.layer import tiles
from zo_triton.kernels.mlp import launch_mlp_differences
from zo_triton.kernels.perturbed_linear import launch_perturbed_linear

HALF, SINGLE = torch.bfloat16, torch.float32
NODES = zo.Directions(0, 0, 2, "hadamard")
KEY = choices.situation("perturbed_linear", HALF, sides=1, distribution="rademacher")
FOUND = choices.CANDIDATES["perturbed_linear", "bfloat16"][1]
GPU = torch.device("cuda", 0)


@pytest.fixture
def device(monkeypatch, tmp_path):
    """A device whose choices lie in a folder of this test's own."""
    monkeypatch.setenv("ZO_TRITON_CACHE", str(tmp_path / "cache"))
    monkeypatch.delenv("ZO_TRITON_TUNING", raising=False)
    monkeypatch.setattr(choices, "device_name", lambda index: "a-device")
    choices.kept.cache_clear()
    yield "a-device"
    choices.kept.cache_clear()


def linear(dtype=HALF, distribution="rademacher", sides=1, samples=8, config=None):
    x = torch.randn(samples, 32)
    directions = zo.Directions(0, 0, 2, distribution)
    launch_perturbed_linear(
        torch.empty(2 * sides, samples, 16, dtype=dtype), x, torch.zeros(2 * sides, samples, 32, dtype=dtype),
        torch.randn(16, 32), torch.empty(samples, 16), directions, 0, 1, torch.ones(2 * sides), "relu",
        config=config,
    )  # fmt: skip


def convolution(channels):
    x, out = torch.randn(2, 4, 6, 6), torch.empty(2, 2, channels, 6, 6)
    launch_perturbed_conv2d(
        out, x, None, torch.randn(channels, 4, 3, 3), None, zo.Directions(0, 0, 2), 0, -1, torch.ones(2),
        [1, 1], [1, 1], [1, 1], 1, "none",
    )  # fmt: skip


def network():
    target = torch.zeros(4, dtype=torch.int64)
    launch_mlp_differences(
        torch.empty(2, 4), [torch.randn(4, 8)], [torch.randn(4, 5)], [torch.randn(5, 8)], [0], [1], ["none"],
        target, zo.Directions(0, 0, 2), torch.ones(2), 0.0,
    )  # fmt: skip


CALLS = {
    "perturbed_linear": linear,
    "perturbed_conv2d": lambda: convolution(8),
    "mlp_differences": network,
    "node_linear": lambda: node_linear(
        torch.empty(2, 8, 16), torch.zeros(2, 8, 32), torch.randn(16, 32), None, NODES, 0, 0, 8, torch.ones(2),
        "none",
    ),
    "node_conv2d": lambda: node_conv2d(
        torch.empty(2, 2, 8, 6, 6), torch.zeros(2, 2, 4, 6, 6), torch.randn(8, 4, 3, 3), None, NODES, 0, 0,
        torch.ones(2), [1, 1], [1, 1], [1, 1], 1, "none",
    ),
    "node_mlp_differences": lambda: node_mlp_differences(
        torch.empty(2, 4), [torch.randn(4, 5)], [], ["none"], torch.zeros(4, dtype=torch.int64), NODES, [0], [0],
        torch.ones(2), 0.0,
    ),
    "accumulate": lambda: accumulate(
        [torch.zeros(8, 8)], [0], torch.ones(2), zo.Directions(0, 0, 2, "gaussian"), SINGLE
    ),
    "gram": lambda: gram(
        torch.empty(2, 2).double(), [torch.empty(8, 8)], [0], zo.Directions(0, 0, 2), SINGLE
    ),
}  # fmt: skip


@pytest.mark.parametrize("op", CALLS)
def test_every_tuned_op_names_its_situation(op):
    with choices.asking() as asked, recording():
        CALLS[op]()
    (key,) = (key for key in asked if key.startswith(op))
    assert "dtype=" in key
    assert "distribution=" in key
    assert choices.candidates(key)


def test_situations_differ_where_code_does():
    with choices.asking() as asked, recording():
        for dtype in (HALF, SINGLE):
            for distribution in ("rademacher", "gaussian"):
                for sides in (1, 2):
                    linear(dtype, distribution, sides)
        linear(samples=200)
    assert len(asked) == 9


def test_what_is_tried_is_launched_and_nothing_else_changes():
    with choices.asking() as asked, recording():
        linear()
    (key,) = asked
    config = tiles(64, 32, 64, warps=4, stages=1)
    with recording() as launches, choices.trying({key: config, "gram of another world": {}}):
        linear()
        linear(config=tiles(32, 64, 64, warps=4, stages=1))
    assert [(launch.arguments["BLOCK_N"], launch.arguments["BLOCK_F"]) for launch in launches] == [
        (64, 32),
        (32, 64),
    ]


def test_a_convolution_takes_no_more_channels_than_it_has():
    with recording() as launches:
        convolution(8)
    assert launches[-1].arguments["BLOCK_F"] == 16


def test_a_tuned_layer_is_the_layer():
    x, w = torch.randn(9, 32), torch.randn(16, 32)
    directions, out = zo.Directions(3, 0, 2), torch.empty(2, 9, 16)
    arguments = (x, None, w, None, directions, 0, -1, torch.ones(2), "none")
    launch_perturbed_linear(out, *arguments)
    with choices.asking() as asked, recording():
        launch_perturbed_linear(out, *arguments)
    other = torch.empty_like(out)
    with choices.trying(dict.fromkeys(asked, tiles(32, 32, 32, warps=4, stages=1))):
        launch_perturbed_linear(other, *arguments)
    torch.testing.assert_close(out, other)


def test_choices_are_kept_for_the_device(device):
    assert choices.pick(GPU, KEY, {}) == {}
    path = choices.keep(device, {KEY: FOUND})
    assert path.parent.name == "cache"
    assert choices.pick(GPU, KEY, {}) == FOUND
    assert choices.pick(GPU, "another", {"own": 1}) == {"own": 1}
    assert choices.pick(torch.device("cpu"), KEY, {}) == {}
    choices.keep(device, {KEY.replace("sides=1", "sides=2"): FOUND})
    assert len(choices.kept(device)) == 2
    choices.keep(device, {KEY: None})
    assert choices.pick(GPU, KEY, {}) == {}
    assert len(choices.kept(device)) == 1


@pytest.mark.parametrize("how", ["deterministic", "variable"])
def test_whoever_asks_for_the_same_bits_gets_the_launchers_own(how, device, monkeypatch):
    choices.keep(device, {KEY: FOUND})
    if how == "variable":
        monkeypatch.setenv("ZO_TRITON_TUNING", "0")
        assert choices.pick(GPU, KEY, {}) == {}
        return
    torch.use_deterministic_algorithms(True)
    try:
        assert choices.pick(GPU, KEY, {}) == {}
    finally:
        torch.use_deterministic_algorithms(False)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        '{"format": "another", "schema": 1, "configs": {}}',
        json.dumps({"format": choices.FORMAT, "schema": 1, "configs": {KEY: {"BLOCK_N": 3}}}),
        json.dumps({"format": choices.FORMAT, "schema": 1, "configs": [KEY]}),
    ],
)
def test_a_damaged_file_is_named_and_ignored(text, device):
    path = choices.keep(device, {KEY: FOUND})
    path.write_text(text)
    choices.kept.cache_clear()
    with pytest.warns(UserWarning, match="is no file of tuned choices .* run `zo-triton tune` again"):
        assert choices.pick(GPU, KEY, {}) == {}


def test_a_file_that_can_not_be_written_leaves_the_old_one(device, monkeypatch):
    path = choices.keep(device, {KEY: FOUND})
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("zo_triton._files.os.fsync", full)
    with pytest.raises(OSError, match="No space left"):
        choices.keep(device, {})
    assert path.read_bytes() == before


def test_every_candidate_is_complete_and_none_stands_twice():
    for (op, dtype), configs in choices.CANDIDATES.items():
        assert op in {*ops.SCHEMAS}, dtype
        assert len({tuple(config.items()) for config in configs}) == len(configs)
        assert len({tuple(config) for config in configs}) == 1
