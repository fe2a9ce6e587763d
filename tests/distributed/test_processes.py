"""Two and four processes: the same bits as one, and an error that names who differs or is gone."""

import re

import pytest
import rank_program
import torch
from rank_launch import finish, start


@pytest.fixture(scope="module")
def results(tmp_path_factory):
    """What each rank found, by the number of ranks; both groups end with one that is gone."""
    folder = tmp_path_factory.mktemp("ranks")
    groups = {4: start(4, folder, "runs", "kill")}
    codes, errors = finish(groups[4])
    assert codes == [0, 0, 0, -9], errors
    groups[2] = start(2, folder, "runs", "differ", "hang")
    codes, errors = finish(groups[2])
    assert codes == [0, -9], errors
    return {size: [torch.load(folder / f"{size}-{rank}.pt") for rank in range(size)] for size in groups}


@pytest.fixture(scope="module")
def one_process(tmp_path_factory):
    """The same runs on one rank, this process."""
    store = tmp_path_factory.mktemp("one") / "store"
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    torch.distributed.init_process_group("gloo", init_method=f"file://{store}", rank=0, world_size=1)
    yield rank_program.every_run()
    torch.distributed.destroy_process_group()
    torch.set_num_threads(threads)


@pytest.mark.parametrize("name", [*rank_program.RUNS, *rank_program.BATCH_RUNS])
def test_same_bits_on_one_two_and_four_ranks(results, one_process, name):
    tensors, losses = one_process[name]
    assert losses[0] != losses[-1]
    for group in results.values():
        for found in group:
            others, other_losses = found["runs"][name]
            assert other_losses == losses
            assert all(map(torch.equal, tensors, others))


@pytest.mark.parametrize(
    ("what", "message"),
    [
        ("version", r"at the start: rank 1 differs in versions \(zo_triton: '0.0.1' is not '.*'\)"),
        ("arguments", r"rank 1 differs in arguments of Ranks \(check_every: 5 is not 3\)"),
        ("weights", "before step 1 of this run: rank 1 differs in weights. All ranks need the same: start"),
        ("settings", r"before step 1 .* rank 1 differs in settings \(eps: 0.001 is not 0.0001\)"),
        ("lr", r"before step 7 .* rank 1 differs in weights, settings \(group 0.lr: 0.0200001 is not 0.02\)"),
        ("memory", "before step 7 .* rank 1 differs in weights, optimizer state"),
        ("batches", "at step 5 of this run.* rank 1 differs in batches"),
        ("random", "rank 1 differs in torch's random state"),
        ("random loss", "rank 1 measured another loss than the others .* give each rank the same batch"),
    ],
)
def test_a_rank_in_another_state_is_named_on_all(results, what, message):
    for found in results[2]:
        ranks, text, _ = found["differ"][what]
        assert ranks == (1,)
        assert re.search(message, text), text


def test_a_killed_rank_is_named_on_all_others(results):
    for rank, found in enumerate(results[4][:3]):
        ranks, text, seconds = found["kill"]
        assert ranks == (3,)
        assert f"rank 3 of 4 is gone: its process has ended; rank {rank} stops after 3 steps" in text
        assert seconds < 30


def test_a_rank_that_hangs_is_named(results):
    ranks, text, seconds = results[2][0]["hang"]
    assert ranks == (1,)
    assert "rank 1 of 2 is silent: no answer within 2.5 s (raise Ranks(timeout=" in text
    assert seconds < 30
