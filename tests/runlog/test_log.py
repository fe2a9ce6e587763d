"""The writer: what it refuses, and how it goes on after a crash."""

import copy
import resource
from itertools import pairwise

import numpy as np
import pytest
import torch

import zo_triton as zo
from zo_triton import runlog
from zo_triton.runlog.format import OVERHEAD


def test_a_step_takes_four_bytes_a_coefficient_and_an_overhead(tmp_path, quadratic):
    run, path = quadratic(directions=6, chunk=6), tmp_path / "log.zo"
    with zo.ReplayLog.start(path, run.opt):
        run.steps(1)
        sizes = [path.stat().st_size]
        for _ in range(3):
            run.steps(1)
            sizes.append(path.stat().st_size)
    assert [b - a for a, b in pairwise(sizes)] == [4 * 6 + OVERHEAD] * 3
    contents = runlog.read(path)
    assert (contents.steps, contents.end.byte, contents.end.torn) == (4, sizes[-1], 0)
    assert [record.step for record, _ in contents.records()] == [0, 1, 2, 3]


@pytest.mark.parametrize("torn", [1, 15, 16, 17, 35])
def test_a_torn_record_is_cut_off_and_the_run_ends_the_same(torn, tmp_path, quadratic, same):
    straight, path = quadratic(momentum=0.9), tmp_path / "straight.zo"
    with zo.ReplayLog.start(path, straight.opt):
        straight.steps(6)
    ends = [record.end for record, _ in runlog.read(path).records()]
    crashed = tmp_path / "crashed.zo"
    crashed.write_bytes(path.read_bytes()[: ends[2] + torn])

    run = quadratic(momentum=0.9)
    with zo.ReplayLog.resume(crashed, run.opt) as log:
        assert (run.opt.steps_done, log.next_step) == (3, 3)
        run.steps(3)
    assert crashed.read_bytes() == path.read_bytes()
    assert same(run.weights, straight.weights)
    for ours, theirs in zip(run.opt.state.values(), straight.opt.state.values(), strict=True):
        assert same(ours, theirs)


def test_a_trainer_resumes_half_way(tmp_path, network, same):
    straight, run = network(), network()
    with zo.ReplayLog.start(tmp_path / "straight.zo", straight.trainer):
        straight.steps(5)
    with zo.ReplayLog.start(tmp_path / "log.zo", run.trainer):
        run.steps(2)
    again = network()
    with zo.ReplayLog.resume(tmp_path / "log.zo", again.trainer):
        again.steps(3)
    assert same(again.weights, straight.weights)
    assert (tmp_path / "log.zo").read_bytes() == (tmp_path / "straight.zo").read_bytes()


def test_damage_is_refused_unless_the_prefix_is_asked_for(tmp_path, quadratic, same):
    run, path = quadratic(), tmp_path / "log.zo"
    with zo.ReplayLog.start(path, run.opt):
        run.steps(4)
    records = [record for record, _ in runlog.read(path).records()]
    data = bytearray(path.read_bytes())
    data[records[2].end - 6] ^= 1
    path.write_bytes(data)
    message = f"damaged at step 2, byte {records[2].start}: the record does not match its checksum"
    for attempt in (lambda: runlog.read(path), lambda: zo.ReplayLog.resume(path, quadratic().opt)):
        with pytest.raises(ValueError, match=message):
            attempt()
    assert path.read_bytes() == data
    assert runlog.read(path, intact_prefix=True).steps == 2
    again = quadratic()
    with zo.ReplayLog.resume(path, again.opt, intact_prefix=True):
        again.steps(2)
    assert same(again.weights, run.weights)


def test_starting_is_refused(tmp_path, quadratic, network):
    path = tmp_path / "log.zo"
    run = quadratic()
    with zo.ReplayLog.start(path, run.opt):
        run.steps(1)
        with pytest.raises(ValueError, match=r"writes the log .*log\.zo already"):
            zo.ReplayLog.start(tmp_path / "new.zo", run.opt)
    with pytest.raises(ValueError, match="is there already; resume it"):
        zo.ReplayLog.start(path, quadratic().opt)
    with pytest.raises(ValueError, match="remembers the 1 steps it has done"):
        zo.ReplayLog.start(tmp_path / "new.zo", run.opt)
    with pytest.raises(
        TypeError, match=r"a log replays zo\.ZOSGD, zo\.ZOAdam, Adam, AdamW, SGD, got RMSprop"
    ):
        zo.ReplayLog.start(tmp_path / "new.zo", network(torch.optim.RMSprop).trainer)
    tensor_rate = network(lambda params: torch.optim.Adam(params, lr=torch.tensor(0.1)))
    with pytest.raises(TypeError, match=r"the optimizer's lr is tensor\(0\.1000\).*give float\(lr\) instead"):
        zo.ReplayLog.start(tmp_path / "new.zo", tensor_rate.trainer)
    with pytest.raises(FileNotFoundError):
        zo.ReplayLog.start(tmp_path / "nowhere" / "log.zo", quadratic().opt)
    assert not (tmp_path / "new.zo").exists()


def test_resuming_is_refused(tmp_path, quadratic, network):
    path, run = tmp_path / "log.zo", quadratic()
    with zo.ReplayLog.start(path, run.opt):
        run.steps(2)
        with pytest.raises(ValueError, match="another process is writing"):
            zo.ReplayLog.resume(path, quadratic().opt)
    with pytest.raises(ValueError, match="the log's optimizer is ZOSGD, the optimizer's Adam"):
        zo.ReplayLog.resume(path, network().trainer)
    with pytest.raises(ValueError, match="the log's optimizer is ZOSGD, the optimizer's ZOAdam"):
        zo.ReplayLog.resume(path, quadratic(zo.ZOAdam).opt)
    other = quadratic()
    other.opt.add_param_group({"params": [("more", torch.ones(2))]})
    with pytest.raises(ValueError, match="the log's group_sizes is"):
        zo.ReplayLog.resume(path, other.opt)
    ahead = quadratic()
    ahead.steps(3)
    with pytest.raises(ValueError, match="holds steps 0 to 2, the optimizer is at step 3"):
        zo.ReplayLog.resume(path, ahead.opt)
    (tmp_path / "text").write_text("no log at all, but long enough to be one\n")
    with pytest.raises(ValueError, match="can't be read as a log: it begins with"):
        runlog.read(tmp_path / "text")


def test_a_step_set_back_is_refused_before_anything_moves(tmp_path, quadratic, same):
    run = quadratic()
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(2)
        run.opt.steps_done = 1
        before = {name: weight.clone() for name, weight in run.weights.items()}
        with pytest.raises(ValueError, match="goes on with step 2, the optimizer is at step 1"):
            run.steps(1)
    assert same(run.weights, before)


def test_parameters_added_later_are_refused(tmp_path, quadratic):
    run = quadratic()
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(1)
        run.opt.add_param_group({"params": [("more", torch.ones(2))]})
        with pytest.raises(ValueError, match="parameters were added after the log"):
            run.steps(1)
    assert runlog.read(tmp_path / "log.zo").steps == 1


def test_numbers_of_numpy_are_numbers(tmp_path, quadratic, same):
    run = quadratic()
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.opt.param_groups[0]["lr"] = np.float32(0.1)
        run.steps(2)
    assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)


def test_a_closed_log_lets_the_optimizer_go_on(tmp_path, quadratic):
    run, path = quadratic(), tmp_path / "log.zo"
    log = zo.ReplayLog.start(path, run.opt)
    log.close()
    size = path.stat().st_size
    run.steps(1)
    assert path.stat().st_size == size
    with pytest.raises(ValueError, match="is closed"):
        log.append(torch.zeros(4))


def test_copies_of_an_optimizer_do_not_write(tmp_path, quadratic):
    run = quadratic()
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        assert copy.deepcopy(run.opt).log is None


@pytest.mark.parametrize("room", [0, 10, 36])
def test_a_full_disk_stops_the_step_and_leaves_a_whole_log(room, tmp_path, quadratic, same):
    run, path = quadratic(), tmp_path / "log.zo"
    with zo.ReplayLog.start(path, run.opt):
        run.steps(2)
        size = path.stat().st_size
        before = {name: weight.clone() for name, weight in run.weights.items()}
        limits = resource.getrlimit(resource.RLIMIT_FSIZE)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size + min(room, 35), limits[1]))
        try:
            with pytest.raises(OSError, match="step 2 could not be written to the log"):
                run.steps(1)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        assert same(run.weights, before)
        assert (run.opt.steps_done, path.stat().st_size) == (2, size)
        run.steps(1)
    assert same(zo.replay(path, run.initial), run.weights)


@pytest.mark.parametrize("kind", [zo.ZOSGD, zo.ZOAdam])
@pytest.mark.parametrize("way", ["loaded", "copied"])
def test_an_optimizer_that_was_loaded_or_copied_starts_and_goes_on_with_a_log(
    kind, way, tmp_path, quadratic, same
):
    run = quadratic(kind)
    if way == "copied":
        memo = {id(weight): weight for weight in run.weights.values()}
        run.opt = copy.deepcopy(run.opt, memo)
    else:
        run.opt.load_state_dict(run.opt.state_dict())
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(2)
        run.opt.load_state_dict(run.opt.state_dict())
        run.steps(2)
    assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)


def test_a_checkpoint_with_its_state_resumes_and_goes_on(tmp_path, quadratic, same):
    run = quadratic(zo.ZOAdam)
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(2)
        checkpoint = {name: weight.clone() for name, weight in run.weights.items()}, run.opt.state_dict()
        run.steps(3)
    again = quadratic(zo.ZOAdam)
    for name, weight in again.weights.items():
        weight.copy_(checkpoint[0][name])
    again.opt.load_state_dict(checkpoint[1])
    with zo.ReplayLog.resume(tmp_path / "log.zo", again.opt):
        again.steps(2), run.steps(2)
    assert same(again.weights, run.weights)


@pytest.mark.parametrize("kind", [zo.ZOSGD, zo.ZOAdam])
def test_a_run_cut_after_its_first_step_writes_the_same_bytes(kind, tmp_path, quadratic):
    straight, cut = quadratic(kind), quadratic(kind)
    with zo.ReplayLog.start(tmp_path / "straight.zo", straight.opt):
        straight.steps(4)
    with zo.ReplayLog.start(tmp_path / "cut.zo", cut.opt):
        cut.steps(1)
    again = quadratic(kind)
    with zo.ReplayLog.resume(tmp_path / "cut.zo", again.opt):
        assert again.opt.plan == cut.opt.plan
        again.steps(3)
    assert (tmp_path / "cut.zo").read_bytes() == (tmp_path / "straight.zo").read_bytes()


def test_a_resumed_run_has_the_weights_and_the_state_of_its_step(tmp_path, quadratic, same):
    run, path = quadratic(zo.ZOAdam), tmp_path / "log.zo"
    with zo.ReplayLog.start(path, run.opt):
        run.steps(2)
        after_two = {name: weight.clone() for name, weight in run.weights.items()}
        run.steps(1)
    other = quadratic(zo.ZOAdam)
    other.weights["vector"] += 1
    before = {name: weight.clone() for name, weight in other.weights.items()}
    with pytest.raises(ValueError, match=r"the run began with sha256:.*give the weights of its first step"):
        zo.ReplayLog.resume(path, other.opt)
    assert same(other.weights, before)
    stateless = quadratic(zo.ZOAdam)
    for name, weight in stateless.weights.items():
        weight.copy_(after_two[name])
    stateless.opt.steps_done = 2
    with pytest.raises(ValueError, match="state of 'matrix' has counted 0 steps, and 2 lead to its step 2"):
        zo.ReplayLog.resume(path, stateless.opt)
    assert same(stateless.weights, after_two)


NUMBERS = [torch.tensor(0.1), np.float32(0.1), np.float64(0.1), 1]


@pytest.mark.parametrize("number", NUMBERS, ids=lambda number: type(number).__name__)
@pytest.mark.parametrize("kind", [zo.ZOSGD, zo.ZOAdam])
def test_numbers_of_other_kinds_are_replayed_as_they_were_used(kind, number, tmp_path, quadratic, same):
    run = quadratic(kind)
    with zo.ReplayLog.start(tmp_path / "log.zo", run.opt):
        run.steps(1)
        run.opt.param_groups[0].update(lr=number, weight_decay=number)
        if kind is zo.ZOAdam:
            run.opt.param_groups[1].update(betas=(np.float32(0.8), torch.tensor(0.9)), eps=np.float32(1e-6))
        run.steps(20)
    assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)


def test_a_trainer_s_number_of_another_kind_is_refused_before_anything_moves(tmp_path, network, same):
    run = network(lambda params: torch.optim.AdamW(params, lr=0.02))
    with zo.ReplayLog.start(tmp_path / "log.zo", run.trainer):
        run.steps(1)
        before = {name: weight.clone() for name, weight in run.weights.items()}
        for number in (torch.tensor(0.1), np.float32(0.1)):
            run.optimizer.param_groups[0]["lr"] = number
            with pytest.raises(TypeError, match=r"the optimizer's lr is .*give float\(lr\) instead"):
                run.steps(1)
        assert same(run.weights, before)
        run.optimizer.param_groups[0]["lr"] = np.float64(0.01)
        run.steps(2)
    assert same(zo.replay(tmp_path / "log.zo", run.initial), run.weights)
