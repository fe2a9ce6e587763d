"""A step that fails while it moves the weights, or after the closure has run, has not happened."""

import errno

import pytest
import step_programs
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton.optim import gradient_step

pytestmark = pytest.mark.usefixtures("one_thread")


def squares(tensors):
    return lambda: sum(tensor.square().sum() for tensor in tensors)


def test_a_parameter_whose_elements_share_memory_is_refused_before_another_moves():
    first, second = torch.ones(3), torch.ones(1).expand(3)
    opt = zo.ZOSGD([first, second], lr=0.1, directions=4)
    with pytest.raises(ValueError, match="share memory"):
        opt.step(squares([first, second]))
    assert first.tolist() == [1.0] * 3
    assert opt.steps_done == 0


def test_a_parameter_of_inference_mode_is_refused_before_another_moves():
    first = torch.ones(3)
    with torch.inference_mode():
        second = torch.ones(3)
    opt = zo.ZOSGD([first, second], lr=0.1, directions=4, momentum=0.9)
    with pytest.raises(ValueError, match="inference_mode"):
        opt.step(squares([first, second]))
    assert first.tolist() == [1.0] * 3
    assert not any(opt.state.values())
    with torch.inference_mode():
        opt.step(squares([first, second]))
    assert opt.steps_done == 1


def test_a_remembered_tensor_of_another_shape_is_refused_before_anything_moves():
    weights = [torch.ones(3), torch.ones(4)]
    opt = zo.ZOSGD(weights, lr=0.1, directions=4, momentum=0.9)
    opt.step(squares(weights))
    opt.state[weights[1]]["momentum_buffer"] = torch.zeros(5)
    before = [weight.clone() for weight in weights]
    with pytest.raises(ValueError, match=r"momentum_buffer of shape \(5,\)"):
        opt.step(squares(weights))
    assert all(torch.equal(old, new) for old, new in zip(before, weights, strict=True))
    assert opt.steps_done == 1


def test_the_compiled_step_refuses_a_remembered_tensor_of_another_shape():
    model, (x, y) = step_programs.network(), step_programs.batch()
    adam = torch.optim.Adam(model.parameters(), lr=0.05)
    trainer = zo.FusedTrainer(model, adam, directions=8)
    trainer.step(x, y)
    adam.state[model[2].weight]["exp_avg_sq"] = torch.zeros(3, 9)
    before = step_programs.Program(lambda: None, (model, trainer)).state()
    with pytest.raises(ValueError, match="exp_avg_sq"):
        trainer.step(x, y)
    assert step_programs.Program(lambda: None, (model, trainer)).state() == before


@pytest.mark.parametrize("name", ["trainer-logged", "trainer-momentum", "trainer-activations"])
def test_memory_that_runs_out_for_the_optimizer_s_state(name, tmp_path, monkeypatch):
    program = step_programs.PROGRAMS[name](tmp_path)
    before, allocate, calls = program.state(), torch.zeros_like, []

    def scarce(*arguments, **options):
        calls.append(arguments)
        if len(calls) == 3:
            raise MemoryError("there is none left")
        return allocate(*arguments, **options)

    with monkeypatch.context() as patched:
        patched.setattr(gradient_step.torch, "zeros_like", scarce)
        with pytest.raises(MemoryError):
            program.step()
    assert program.state() == before
    program.step()
    program.close()


@pytest.mark.parametrize("optimizer", ["zosgd", "trainer"])
def test_a_full_disk_takes_back_all_that_the_closure_did(optimizer, tmp_path):
    model = step_programs.network(between=[lambda: nn.BatchNorm1d(8), nn.Dropout])
    x, y = step_programs.batch()
    if optimizer == "zosgd":
        target = zo.ZOSGD(model.named_parameters(), lr=0.1, directions=4, momentum=0.9)
    else:
        sgd = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
        target = zo.FusedTrainer(model, sgd, directions=4)

    def step():
        return (
            target.step(lambda: F.cross_entropy(model(x), y)) if optimizer == "zosgd" else target.step(x, y)
        )

    log = zo.ReplayLog.start(tmp_path / "log.zo", target)
    program = step_programs.Program(step, (model, target, log), log.path)
    before = program.state()

    class Full:
        """A file on a disk without room."""

        def __init__(self, file):
            self._file = file

        def __getattr__(self, name):
            return getattr(self._file, name)

        def write(self, data):
            self._file.write(data[:7])
            raise OSError(errno.ENOSPC, "No space left on device")

    file = log._file
    log._file = Full(file)
    with pytest.raises(OSError, match="No space left"):
        step()
    log._file = file
    assert program.state() == before
    step()
    assert log.next_step == 1
    log.close()


def test_a_step_that_can_t_be_taken_is_not_in_the_log(tmp_path, monkeypatch):
    program = step_programs.logged(tmp_path)
    program.step()
    before = program.state()
    with monkeypatch.context() as patched:
        patched.setattr(
            "zo_triton.optim.sgd.descend", lambda *a: (_ for _ in ()).throw(MemoryError("none left"))
        )
        with pytest.raises(MemoryError):
            program.step()
    assert program.state() == before
    program.step()
    program.close()


def test_an_estimate_that_fails_leaves_gradients_as_they_were():
    first, second = torch.ones(3, requires_grad=True), torch.ones(3, requires_grad=True)
    first.grad, second.grad = torch.full((3,), 0.5), torch.ones(1).expand(3)
    with pytest.raises(ValueError, match="share memory"):
        zo.estimate_gradient(squares([first, second]), [first, second], zo.Directions(0, 0, 4), eps=1e-3)
    assert first.grad.tolist() == [0.5] * 3


WHOLE = torch.arange(12.0)


@pytest.mark.parametrize(
    "views",
    [(WHOLE, WHOLE.detach()), (WHOLE[:8], WHOLE[4:]), (WHOLE.view(3, 4), WHOLE[2:3])],
    ids=["detached", "overlapping", "one element"],
)
def test_parameters_that_share_memory_are_refused_by_name(views):
    with pytest.raises(ValueError, match="parameter 'b' shares memory with parameter 'a'"):
        zo.ZOSGD(zip("ab", views, strict=True), lr=0.1, directions=4)
    with pytest.raises(ValueError, match="parameter 1 shares memory with parameter 0"):
        zo.differences(squares(views), views, zo.Directions(0, 0, 4), 1e-3)


@pytest.mark.parametrize(
    "views",
    [(WHOLE[:6], WHOLE[6:]), (WHOLE.view(4, 3)[:, 0], WHOLE.view(4, 3)[:, 1]), (WHOLE[:0], WHOLE)],
    ids=["neighbours", "columns", "empty"],
)
def test_parameters_apart_in_one_memory_are_trained(views):
    zo.ZOSGD(list(views), lr=0.1, directions=4)
