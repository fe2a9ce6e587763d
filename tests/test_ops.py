"""The custom ops: what torch demands of them, and how an engine is picked."""

import subprocess
import sys

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode
from torch.library import opcheck

import zo_triton as zo
from zo_triton import ops
from zo_triton.kernels.launch import recording
from zo_triton.ops import engines

D = zo.Directions(1, 2, 4).encode()
NODES = zo.Directions(1, 2, 4, "hadamard").encode()
EPS = torch.full((4,), 1e-3)
CALLS = {
    "sample": lambda: (torch.empty(4, 5, 3), D, 0, torch.float32),
    "accumulate": lambda: ([torch.zeros(5, 3), torch.zeros(7)], [0, 1], torch.ones(4), D, torch.float32),
    "gram": lambda: (torch.empty(4, 4, dtype=torch.float64), [torch.zeros(5, 3)], [0], D, torch.float32),
    "stochastic_add": lambda: (torch.ones(5, 3, dtype=torch.bfloat16), torch.full((5, 3), 1e-3), D, 0),
    "perturbed_linear": lambda: (
        torch.empty(4, 6, 3), torch.randn(6, 5), torch.randn(4, 6, 5), torch.randn(3, 5), torch.randn(6, 3),
        D, 0, 1, EPS, "relu",
    ),
    "mlp_differences": lambda: (
        torch.empty(4, 6),
        [torch.randn(6, 5), torch.rand(6, 3)],
        [torch.randn(6, 3), torch.randn(6, 2)],
        [torch.randn(3, 5), torch.randn(2, 3)],
        [0, 2],
        [1, 3],
        ["relu", "none"],
        torch.zeros(6, dtype=torch.int64),
        D,
        EPS,
        0.0,
    ),
    "perturbed_conv2d": lambda: (
        torch.empty(4, 2, 6, 3, 4), torch.randn(2, 4, 5, 7), torch.randn(4, 2, 4, 5, 7), torch.randn(6, 2, 3, 2),
        torch.randn(2, 6, 3, 4), D, 0, 1, EPS, [2, 1], [1, 0], [1, 3], 2, "relu",
    ),
    "node_sample": lambda: (torch.empty(4, 6, 3), NODES, 1, 5),
    "node_epilogue": lambda: (torch.randn(4, 6, 3), torch.randn(6, 3), NODES, 1, 5, EPS, "relu"),
    "node_linear": lambda: (
        torch.empty(4, 6, 3), torch.randn(4, 6, 5), torch.randn(3, 5), torch.randn(6, 3), NODES, 1, 5, 2, EPS,
        "relu",
    ),
    "node_conv2d": lambda: (
        torch.empty(4, 2, 6, 3, 4), torch.randn(4, 2, 4, 5, 7), torch.randn(6, 2, 3, 2), torch.randn(2, 6, 3, 4),
        NODES, 1, 5, EPS, [2, 1], [1, 0], [1, 3], 2, "relu",
    ),
    "node_gradient": lambda: (torch.empty(6, 9), torch.randn(4, 6), NODES, 1, 5, 2),
    "node_mlp_differences": lambda: (
        torch.empty(4, 6), [torch.randn(6, 3), torch.randn(6, 2)], [torch.randn(2, 3)], ["relu", "none"],
        torch.zeros(6, dtype=torch.int64), NODES, [1, 2], [5, 8], EPS, 0.0,
    ),
    "activation_difference": lambda: (torch.empty(4, 6, 3), torch.randn(6, 3), torch.randn(4, 6, 3), "tanh"),
    "largest_difference": lambda: (
        torch.empty(4, 3, 2), torch.randn(4, 3, 5), -torch.rand(3, 2, 2), torch.tensor([[0, 2], [1, 4]]),
    ),
    "cross_entropy_difference": lambda: (
        torch.empty(4, 6), torch.randn(6, 3), torch.randn(4, 6, 3), torch.zeros(6, dtype=torch.int64), 0.1,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CALLS)
def test_opcheck(name):
    opcheck(getattr(torch.ops.zo_triton, name).default, CALLS[name]())


@pytest.mark.parametrize("engine", ops.ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("distribution", "rank"), [("rademacher", None), ("gaussian", None), ("rademacher", 3), ("gaussian", 3)]
)
def test_a_weight_stored_by_inputs_moves_along_its_own_directions(distribution, rank, dtype, engine):
    """With a = I, no difference and ε = 1 the result is z as it is stored, [in_features, out_features]."""
    directions = zo.Directions(3, 1, 2, distribution, rank=rank)
    with zo.use_engine(engine):
        z = ops.perturbed_linear(
            torch.eye(37), None, torch.zeros(37, 70), directions, torch.ones(2), weight_id=4, dtype=dtype,
            transposed=True,
        )  # fmt: skip
        wanted = ops.sample(directions, 4, (37, 70), dtype)
    torch.testing.assert_close(
        z.float(), wanted.float(), rtol=1e-2 if dtype.itemsize == 2 else 1e-6, atol=1e-6
    )


def test_a_weight_of_the_other_orientation_is_named():
    with pytest.raises(
        ValueError, match=r"\[in_features, out_features\] for a base of 5 features, got .*\(3, 5\)"
    ):
        ops.perturbed_linear(
            torch.ones(2, 5), None, torch.ones(3, 5), zo.Directions(0, 0, 2), torch.ones(2), transposed=True
        )


def test_every_op_is_checked():
    assert set(CALLS) == set(ops.SCHEMAS)


def test_engines_are_picked_by_device_and_overridden_in_a_block():
    cpu = torch.device("cpu")
    assert ops.engine_for(cpu) == "cpu"
    assert ops.engine_for(torch.device("cuda")) == "triton"
    with zo.use_engine("reference"):
        assert ops.engine_for(cpu) == "reference"
        with zo.use_engine("cpu"):
            assert ops.engine_for(cpu) == "cpu"
        assert ops.engine_for(cpu) == "reference"
        with zo.use_engine(None):
            assert ops.engine_for(cpu) == "reference"
    with zo.use_engine(None):
        assert ops.engine_for(cpu) == "cpu"
        assert ops.engine_for(torch.device("cuda")) == "triton"
    assert ops.engine_for(cpu) == "cpu"


def test_an_unknown_engine_is_named():
    with pytest.raises(ValueError, match="unknown engine 'cuda'; choose one of"), zo.use_engine("cuda"):
        pass


def _run(code, **environment):
    import os

    clean = {k: v for k, v in os.environ.items() if k != "TRITON_INTERPRET"}
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, env=clean | environment, check=False
    )


def test_triton_on_the_cpu_needs_the_interpreter():
    result = _run(
        "import zo_triton as zo\nwith zo.use_engine('triton'): zo.sample(zo.Directions(0, 0, 1), 0, (3,))"
    )
    assert "set TRITON_INTERPRET=1" in result.stderr


BLOCK = """
import sys
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name.partition(".")[0])
sys.meta_path.insert(0, Blocked())
import torch, zo_triton as zo
with zo.use_engine("reference"):
    assert zo.sample(zo.Directions(0, 0, 2), 0, (3,)).shape == (2, 3)
zo.sample(zo.Directions(0, 0, 2), 0, (3,))
"""


def test_the_package_imports_without_its_compilers_and_says_what_is_missing():
    result = _run(BLOCK.format(blocked=("numba", "triton")))
    assert "the 'cpu' engine needs numba, which is not installed: `pip install numba`" in result.stderr


def test_import_touches_no_compiler():
    heavy = "{'torch', 'numpy', 'numba', 'triton', 'matplotlib', 'sklearn'}"
    show = f"; print(sorted({heavy} & set(sys.modules)))"
    assert _run("import sys, zo_triton" + show).stdout.strip() == "[]"
    # What trains needs torch, and neither a compiler nor what only the experiments use.
    assert _run("import sys, zo_triton; zo_triton.ZOSGD" + show).stdout.strip() == "['numpy', 'torch']"


@pytest.mark.parametrize("shape", [(1,), (5, 33), (8, 2, 16), (13, 70)])
def test_staged_signs_are_those_that_sample_gives(shape):
    directions = zo.Directions(2**40 + 1, 3, 5)[2:]
    packed = ops.stage(directions, 4, shape)
    z = ops.sample(directions, 4, shape).reshape(3, shape[0] if len(shape) > 1 else 1, -1)
    bits = (
        packed.unsqueeze(-1)
        .bitwise_right_shift(torch.arange(32, dtype=torch.int32))
        .bitwise_and(1)
        .flatten(2)
    )
    assert torch.equal(bits[:, : z.shape[1], : z.shape[2]] * 2 - 1, z.int())
    for engine in ("triton", "reference"):
        with zo.use_engine(engine):
            assert torch.equal(ops.stage(directions, 4, shape), packed)


ROWS = torch.tensor([12, 0, 5, 5, 6, 9])
"""Out of order, one twice, two of one block, the first and the last."""


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("engine", ops.ENGINES)
@pytest.mark.parametrize(
    ("distribution", "rank"),
    [("rademacher", None), ("gaussian", None), ("sphere", None), ("rademacher", 3), ("gaussian", 3)],
)
def test_listed_rows_are_those_of_the_whole_bit_for_bit(distribution, rank, engine, dtype):
    directions = zo.Directions(2**63 + 5, 3, 4, distribution, rank=rank)[1:]
    with zo.use_engine(engine):
        for shape in ((13, 33), (13, 3, 2)):
            whole = ops.sample(directions, 4, shape, dtype)
            assert torch.equal(ops.sample(directions, 4, shape, dtype, rows=ROWS), whole[:, ROWS])
            assert ops.sample(directions, 4, shape, dtype, rows=ROWS[:0]).shape == (3, 0, *shape[1:])


def test_a_low_rank_row_does_not_depend_on_how_many_are_drawn():
    """BLAS rounds products of few rows, or of narrow ones, by other routes."""
    directions = zo.Directions(7, 0, 2, "gaussian", rank=17)
    for shape in ((2001, 31), (257, 129)):
        whole = ops.sample(directions, 0, shape)
        for count in (1, 3, 100):
            rows = torch.arange(count) * 2
            assert torch.equal(ops.sample(directions, 0, shape, rows=rows), whole[:, rows])


@pytest.mark.parametrize(
    ("rows", "shape", "error", "message"),
    [
        ([0, 1], (4, 4), TypeError, r"rows must be an int64 tensor, got \[0, 1\]"),
        (
            torch.tensor([0.0]),
            (4, 4),
            TypeError,
            r"rows must be an int64 tensor, got torch.float32; call .long",
        ),
        (
            torch.tensor([0]),
            (4,),
            ValueError,
            r"of at least two; got rows of shape \(1,\) for .* shape \(4,\)",
        ),
        (torch.tensor([[0]]), (4, 4), ValueError, r"got rows of shape \(1, 1\)"),
        (torch.tensor([0, 4]), (4, 4), ValueError, r"rows must lie in \[0, 4\), got 0 to 4"),
        (torch.tensor([-1]), (4, 4), ValueError, r"got -1 to -1; count from the start"),
    ],
    ids=["list", "float", "vector", "matrix of rows", "beyond", "negative"],
)
def test_rows_that_are_none_are_refused(rows, shape, error, message):
    with pytest.raises(error, match=message):
        ops.sample(zo.Directions(0, 0, 1), 0, shape, rows=rows)


def test_what_cannot_be_drawn_is_refused():
    directions = zo.Directions(0, 0, 2)
    with pytest.raises(TypeError, match=r"dtype must be a floating-point type, got torch.int64"):
        zo.sample(directions, 0, (3,), torch.int64)
    with pytest.raises(ValueError, match=r"has the shape \(2, -3\); no size may be negative"):
        zo.sample(directions, 0, (2, -3))


def test_stage_refuses_what_has_no_packed_signs():
    with pytest.raises(ValueError, match="full-rank 'rademacher'"):
        ops.stage(zo.Directions(0, 0, 2, "gaussian"), 0, (4, 4))


def test_a_profiler_sees_the_ops():
    out = torch.zeros(3, 3)
    with torch.profiler.profile() as profile:
        zo.accumulate([out], [0], torch.ones(2), zo.Directions(0, 0, 2))
    assert "zo_triton::accumulate" in {event.key for event in profile.key_averages()}


def test_lengths_of_many_directions_are_taken_together():
    """On the Triton engine: one launch a tensor for sixteen directions."""
    directions, shapes = zo.Directions(5, 2, 18, "sphere"), [(13, 7), (5,)]
    tensors = [torch.empty(shape) for shape in shapes]
    with zo.use_engine("reference"):
        wanted = ops.direction_scales(tensors, [0, 1], directions)
    with zo.use_engine("triton"):
        found = ops.direction_scales(tensors, [0, 1], directions)
        with recording() as launches:
            ops.direction_scales(tensors, [0, 1], directions)
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=0)
    assert len(launches) == 4


def test_what_a_fake_tensor_mode_makes_is_never_kept():
    @engines.remembered(maxsize=2)
    def numbers(count):
        made.append(count)
        return torch.arange(count)

    made = []
    with FakeTensorMode():
        assert isinstance(numbers(3), FakeTensor)
    assert not isinstance(numbers(3), FakeTensor)
    with FakeTensorMode():
        assert isinstance(numbers(3), FakeTensor)
    assert numbers(3) is numbers(3)
    assert made == [3, 3, 3]
