"""Memory that runs out: fewer directions at once, one warning, and at the end an error that has changed nothing."""

import errno
import subprocess
import sys

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton.difference.exhaustion import is_out_of_memory
from zo_triton.optim import ZOSGD, BlackBox

ERRORS = [
    MemoryError("numpy.core._exceptions._ArrayMemoryError"),
    torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB."),
    RuntimeError(
        "[enforce fail at alloc_cpu.cpp:117] . DefaultCPUAllocator: can't allocate memory: you tried"
    ),
    RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 9 bytes."),
    RuntimeError("[enforce fail a"),  # there was no memory for the rest
    RuntimeError("std::bad_alloc"),
    RuntimeError("could not create a primitive"),
    OSError(errno.ENOMEM, "Cannot allocate memory"),
]
INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])

pytestmark = pytest.mark.usefixtures("untaped")


class Case:
    """A network with batch statistics and dropout under momentum; its closure fails beyond so many directions."""

    def __init__(self, fits, error=ERRORS[0], **settings):
        torch.manual_seed(0)
        self.model = nn.Sequential(
            nn.Linear(4, 8), nn.BatchNorm1d(8), nn.ReLU(), nn.Dropout(0.3), nn.Linear(8, 3)
        )
        self.opt = ZOSGD(
            self.model.parameters(), **{"lr": 0.1, "directions": 12, "momentum": 0.9, **settings}
        )
        self.fits, self.error, self.tried = fits, error, []

    def loss(self):
        mode = torch.overrides._get_current_function_mode()
        self.tried.append(mode.directions.num)
        output = self.model(INPUTS)
        if mode.directions.num > self.fits:
            raise self.error
        return F.cross_entropy(output, LABELS)

    def everything(self, bits):
        state = [value for entry in self.opt.state.values() for value in entry.values()]
        tensors = [*self.model.state_dict().values(), *state, torch.get_rng_state()]
        return bits([tensor.reshape(-1) for tensor in tensors]), self.opt.steps_done, self.opt.plan


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__}-{str(error)[:20]}")
def test_the_chunk_halves_until_it_fits_and_the_step_is_the_same(error):
    case, roomy = Case(fits=3, error=error), Case(fits=99)
    torch.manual_seed(1)
    with pytest.warns(
        RuntimeWarning, match="12 directions at once did not fit.* went on with 3 at once"
    ) as seen:
        loss = case.opt.step(case.loss)
    after = torch.get_rng_state()
    assert len(seen) == 1
    assert case.tried == [12, 6, 3, 3, 3, 3]
    torch.manual_seed(1)
    assert loss == roomy.opt.step(roomy.loss)
    assert torch.equal(torch.get_rng_state(), after)
    for mine, other in zip(case.model.state_dict().values(), roomy.model.state_dict().values(), strict=True):
        torch.testing.assert_close(mine, other, rtol=1e-4, atol=1e-6)


def test_the_next_step_starts_with_what_fitted():
    case = Case(fits=3)
    with pytest.warns(RuntimeWarning, match="3 at once"):
        case.opt.step(case.loss)
    case.tried.clear()
    case.opt.step(case.loss)  # without a warning, which would be an error here
    assert case.tried == [3, 3, 3, 3]
    assert case.opt.last.plan.chunk == 3


def test_memory_that_runs_out_later_loses_no_direction():
    """The first chunks fit; then something else takes the memory."""
    case, roomy = Case(fits=99, chunk=4), Case(fits=99)

    def closure():
        case.fits = 99 if len(case.tried) != 1 else 3
        return case.loss()

    torch.manual_seed(1)
    with pytest.warns(RuntimeWarning, match="4 directions at once did not fit.* went on with 2 at once"):
        case.opt.step(closure)
    assert case.tried == [4, 4, 2, 2, 2, 2]
    torch.manual_seed(1)
    roomy.opt.step(roomy.loss)
    torch.testing.assert_close(case.opt.last.projected, roomy.opt.last.projected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("chunk", [None, 5])
def test_not_even_one_direction(bits, chunk):
    case = Case(fits=99, chunk=chunk)
    case.opt.step(case.loss)
    case.fits = 0
    before = case.everything(bits)
    with pytest.raises(
        MemoryError, match=r"not even one direction at a time fits in memory \(numpy.*smaller"
    ) as e:
        case.opt.step(case.loss)
    assert e.value.__cause__ is case.error
    assert case.tried[-1] == 1
    assert case.everything(bits) == before


@pytest.mark.parametrize(
    "failure",
    [
        lambda value: (_ for _ in ()).throw(RuntimeError("mat1 and mat2 shapes cannot be multiplied")),
        lambda value: (_ for _ in ()).throw(KeyboardInterrupt()),
        lambda value: value * float("nan"),
        lambda value: value + float("inf"),
        lambda value: value.expand(2),
        lambda value: "no loss",
    ],
    ids=["error", "interrupt", "nan", "inf", "shape", "kind"],
)
def test_no_failure_leaves_a_trace(bits, failure):
    """Not in the weights, the momentum, the batch statistics, the random state or the step's number."""
    case = Case(fits=99, chunk=5)
    case.opt.step(case.loss)
    before = case.everything(bits)
    with pytest.raises((RuntimeError, KeyboardInterrupt, ValueError, TypeError)):
        case.opt.step(lambda: failure(case.loss()))
    assert case.everything(bits) == before
    assert len(case.tried) <= 3 + 3


def test_a_closure_that_changes_its_batch_leaves_no_trace(bits):
    case, batches = Case(fits=99, chunk=6), iter(torch.randn(4, 6, 4))
    before = case.everything(bits)
    with pytest.raises(ValueError, match="draw the batch outside"):
        case.opt.step(lambda: F.cross_entropy(case.model(next(batches)), LABELS))
    assert case.everything(bits) == before


def test_no_room_for_the_optimizer_s_own_state(bits, monkeypatch):
    """Master copies and momentum are made before the first weight moves."""
    weights = [torch.ones(3), torch.ones(4, dtype=torch.bfloat16)]
    opt = ZOSGD([{"params": [weight]} for weight in weights], lr=0.1, directions=2, momentum=0.9, eps=1e-2)
    before = bits(weights)
    real, calls = torch.zeros_like, []

    def failing(*args, **kwargs):
        calls.append(1)
        if len(calls) == 2:
            raise MemoryError("no room")
        return real(*args, **kwargs)

    def closure():
        monkeypatch.setattr(torch, "zeros_like", failing)
        return weights[0].sum() + weights[1].float().sum()

    with pytest.raises(MemoryError, match="no room"):
        opt.step(closure)
    assert bits(weights) == before
    assert not opt.state
    assert opt.steps_done == 0


def test_a_black_box_passes_the_error_on(bits):
    weight, calls = torch.ones(3), iter(range(9))
    opt = ZOSGD([weight], lr=0.1, directions=4)
    with pytest.raises(MemoryError, match="in the simulator"):
        opt.step(
            BlackBox(
                lambda: 1.0 if next(calls) < 3 else (_ for _ in ()).throw(MemoryError("in the simulator"))
            )
        )
    assert torch.equal(weight, torch.ones(3))
    assert opt.steps_done == 0


def test_gradients_are_as_they_were():
    weight = torch.ones(3, requires_grad=True)
    weight.grad = torch.full((3,), 7.0)

    def closure():
        weight.sum()
        raise MemoryError

    with pytest.raises(MemoryError, match="not even one direction"):
        zo.estimate_gradient(closure, [weight], zo.Directions(0, 0, 4), 1e-3)
    assert weight.grad.tolist() == [7.0] * 3


@pytest.mark.parametrize(
    "error",
    [RuntimeError("shapes"), ValueError("out of memory"), OSError(errno.ENOSPC, "disk"), KeyboardInterrupt()],
)
def test_other_errors_are_no_lack_of_memory(error):
    assert not is_out_of_memory(error)


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: f"{type(error).__name__}-{str(error)[:20]}")
def test_memory_that_runs_out_after_the_closure_is_a_memory_error_with_a_remedy(error, bits):
    def aggregate(slopes, gram):
        raise error

    case = Case(fits=99, aggregator=aggregate)
    before = case.everything(bits)
    with pytest.raises(MemoryError, match=r"memory ran out, and the step has failed: .*Use a smaller batch"):
        case.opt.step(case.loss)
    assert case.everything(bits) == before


LIMITED = """
import resource, warnings
import torch, zo_triton as zo
import torch.nn.functional as F
torch.set_num_threads(1)
model = torch.nn.Sequential(torch.nn.Linear(64, 512), torch.nn.Tanh(), torch.nn.Linear(512, 10))
x, y = torch.rand(2048, 64), torch.randint(10, (2048,))
opt = zo.ZOSGD(model.parameters(), lr=1e-3, directions=64, chunk=1)
loss = lambda: F.cross_entropy(model[2](model[1](model[0](x)).square()), y)  # no kernel for it in one go
opt.directions, warm = 2, opt.step(loss)  # the kernels are compiled before memory gets short
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + {room} * 2**20, resource.RLIM_INFINITY))
opt.directions = opt.chunk = 64  # 4 MB an activation and direction
with warnings.catch_warnings(record=True) as seen:
    warnings.simplefilter("always")
    try:
        print("loss", opt.step(loss))
    except MemoryError as error:
        print("refused", error)
print(len(seen), *(str(one.message) for one in seen))
print("steps", opt.steps_done)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="limits a process as Linux does")
def test_a_process_short_of_memory_goes_on():
    result = subprocess.run(
        [sys.executable, "-c", LIMITED.format(room=200)], capture_output=True, text=True, check=False
    )
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0].startswith("loss 2.")
    assert lines[1].startswith("1 64 directions at once did not fit in memory: this step went on with ")
    assert lines[2] == "steps 2"
