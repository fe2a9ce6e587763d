"""Chunks, random state, memory and what is refused before the closure runs."""

import gc
import weakref
from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import zo_triton as zo
from zo_triton.difference import Evaluation, NotATensorError, Plan, differences, propagate
from zo_triton.difference import run as run_module
from zo_triton.ops import engines

DIRECTIONS = zo.Directions(seed=2, step=0, num=7)
INPUTS = torch.randn(6, 4, generator=torch.Generator().manual_seed(0))
LABELS = torch.tensor([0, 1, 2, 0, 1, 2])


@pytest.fixture
def model():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(4, 8), nn.ReLU(), nn.Dropout(0.5), nn.Linear(8, 8), nn.Tanh(), nn.Linear(8, 3)
    )


@pytest.fixture(autouse=True)
def reference_engine():
    with zo.use_engine("reference"):
        yield


def loss(model):
    return F.cross_entropy(model(INPUTS), LABELS)


@pytest.fixture(params=[True, False], ids=["taped", "untaped"])
def taped(request):
    """Whether the base pass is recorded for the chunks after the first."""
    if not request.param:
        request.getfixturevalue("untaped")
    return request.param


@pytest.mark.parametrize("chunk", [1, 3, 7, 100])
@pytest.mark.parametrize("sides", [1, 2])
def test_chunks_change_no_value(model, chunk, sides, taped):
    torch.manual_seed(3)
    whole = differences(lambda: loss(model), model.parameters(), DIRECTIONS, 1e-3, sides)
    torch.manual_seed(3)
    parts = differences(lambda: loss(model), model.parameters(), DIRECTIONS, 1e-3, sides, chunk=chunk)
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)


def test_memory_budget_cuts_into_chunks_and_the_plan_remembers(model, monkeypatch, taped):
    torch.manual_seed(3)
    whole = differences(lambda: loss(model), model.parameters(), DIRECTIONS, 1e-3)
    monkeypatch.setattr(run_module, "BUDGET_CPU", 3 * 6 * 8 * 4)  # three directions of the widest layer
    runs = []

    def closure():
        runs.append(1)
        return loss(model)

    torch.manual_seed(3)
    first = propagate(closure, model.parameters(), DIRECTIONS, Evaluation(1e-3))
    assert first.plan.chunk == 3
    a_step = 1 if taped else 3
    assert len(runs) == 1 + a_step
    torch.manual_seed(3)
    second = propagate(closure, model.parameters(), DIRECTIONS, Evaluation(1e-3), plan=first.plan)
    assert len(runs) == 1 + 2 * a_step
    assert second.plan == first.plan
    torch.testing.assert_close(first[:2], whole, rtol=1e-5, atol=0)
    torch.testing.assert_close(second[:2], whole, rtol=1e-5, atol=0)


def test_differences_that_grow_little_by_little_start_again_a_few_times(monkeypatch):
    weight, start, begun = torch.eye(4), torch.randn(2, 4), []

    def closure():
        begun.append(1)
        written = start.new_zeros(2, 400)
        for _ in range(100):
            written = torch.cat([written, start @ weight], 1)
        return written.square().mean()

    directions = zo.Directions(seed=1, step=0, num=64)
    whole = differences(closure, [weight], directions, 1e-3)
    monkeypatch.setattr(run_module, "BUDGET_CPU", 64 * 2 * 404 * 4)  # all directions, at first
    begun.clear()
    parts = differences(closure, [weight], directions, 1e-3)
    assert len(begun) <= 1 + run_module.CUTS + 6
    torch.testing.assert_close(parts, whole, rtol=1e-5, atol=0)


def test_one_direction_over_the_budget_still_runs(model, monkeypatch):
    monkeypatch.setattr(run_module, "BUDGET_CPU", 1)
    model.eval()
    assert propagate(lambda: loss(model), model.parameters(), DIRECTIONS, Evaluation(1e-3)).plan.chunk == 1


def test_random_state_is_left_as_by_one_run(model, taped):
    torch.manual_seed(3)
    with torch.no_grad():
        expected = loss(model)
    state = torch.get_rng_state()
    for chunk in (None, 2):
        torch.manual_seed(3)
        value, _ = differences(lambda: loss(model), model.parameters(), DIRECTIONS, 1e-3, chunk=chunk)
        assert torch.equal(value, expected)
        assert torch.equal(torch.get_rng_state(), state)


def test_dropout_masks_the_differences_as_it_masks_the_base():
    weight = torch.randn(50, 4)
    torch.manual_seed(4)
    value, found = differences(
        lambda: F.dropout(F.linear(INPUTS, weight) + 10, 0.5), [weight], DIRECTIONS, 1e-3, strict=True
    )
    assert 0.3 < float((value == 0).float().mean()) < 0.7
    assert torch.equal(found == 0, (value == 0).expand_as(found))
    _, undropped = differences(lambda: F.linear(INPUTS, weight), [weight], DIRECTIONS, 1e-3)
    torch.testing.assert_close(found, undropped * 2 * (value != 0))


def test_alternating_mask_draws_follow_the_generator(model):
    values = []
    for _ in range(2):
        values.append(differences(lambda: loss(model), model.parameters(), DIRECTIONS, 1e-3, chunk=3)[0])
    assert not torch.equal(*values)


def test_other_batch_on_the_next_chunk_is_refused(model, untaped):
    batches = iter(torch.randn(10, 6, 4))
    with pytest.raises(ValueError, match="draw the batch outside"):
        differences(lambda: model(next(batches)).sum(), model.parameters(), DIRECTIONS, 1e-3, chunk=2)


def test_entry_dies_with_its_tensor(model):
    """What a closure no longer holds costs no memory: a chain of layers has one entry at a time."""
    alive = []

    def closure():
        x = INPUTS
        for layer in model:
            x = layer(x)
            alive.append(len(mode_now().entries))
        return x.sum()

    differences(closure, model.parameters(), DIRECTIONS, 1e-3)
    assert max(alive) == 1


def mode_now():
    return torch.overrides._get_current_function_mode()


def test_nothing_outlives_the_call(model):
    gc.collect()
    gc.disable()
    try:
        modes = []

        def closure():
            modes.append(weakref.ref(mode_now()))
            kept.append(model(INPUTS))
            return kept[0].sum()

        kept = []
        differences(closure, model.parameters(), DIRECTIONS, 1e-3)
        assert modes[0]() is None
    finally:
        gc.enable()


@pytest.fixture
def storages(monkeypatch):
    """Addresses of the memory of every difference that perturbed_linear returned."""
    seen = []
    real = zo.ops.perturbed_linear

    def spy(*args, **kwargs):
        result = real(*args, **kwargs)
        seen.append((result.data_ptr(), kwargs["donate"]))
        return result

    monkeypatch.setattr(zo.ops, "perturbed_linear", spy)
    return seen


def test_layers_of_a_chain_share_one_piece_of_memory(storages):
    pytest.importorskip("zo_triton.cpu.perturbed_linear")
    model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 8), nn.ReLU(), nn.Linear(8, 3))
    with zo.use_engine("cpu"):
        plan = propagate(
            lambda: model(INPUTS).square().sum(), model.parameters(), DIRECTIONS, Evaluation(1e-3)
        ).plan
    assert [donate for _, donate in storages] == [False, True, True]
    assert len({address for address, _ in storages}) == 1
    assert plan == Plan(7)


def test_live_inputs_are_not_overwritten(storages):
    first, second = nn.Linear(4, 8), nn.Linear(8, 8)
    params = [*first.parameters(), *second.parameters()]

    def residual():
        h = F.relu(first(INPUTS))
        return (h + F.relu(second(h))).sum()

    def view_alive():
        h = F.relu(first(INPUTS))
        view = h.view(-1)
        h = second(h)
        return h.sum() + view.sum()

    def moved_on():
        h = F.relu(first(INPUTS)) + 1
        return second(h).sum() + second(h).tanh().sum()

    for closure in (residual, view_alive, moved_on):
        storages.clear()
        differences(closure, params, DIRECTIONS, 1e-3)
        assert not any(donate for _, donate in storages)


def test_second_reader_of_a_spent_layer_restarts_once(storages):
    pytest.importorskip("zo_triton.cpu.perturbed_linear")
    first, second = nn.Linear(4, 8), nn.Linear(8, 8)
    params = [*first.parameters(), *second.parameters()]

    def closure():
        z = nn.Sequential(first, nn.ReLU(), second)(INPUTS)
        return torch.sigmoid(z).sum() + z.sum()

    with zo.use_engine("cpu"):
        once = propagate(closure, params, DIRECTIONS, Evaluation(1e-3))
        calls = len(storages)
        again = propagate(closure, params, DIRECTIONS, Evaluation(1e-3), plan=once.plan)
    assert once.plan.keep == {1}
    assert len(storages) - calls == 2
    assert torch.equal(once.differences, again.differences)


def test_exceptions_pass_through_unchanged(model):
    class OwnError(Exception):
        pass

    error = OwnError("mine")

    def closure():
        model(INPUTS)
        raise error

    with pytest.raises(OwnError) as caught:
        differences(closure, model.parameters(), DIRECTIONS, 1e-3)
    assert caught.value is error
    assert mode_now() is None


def test_catching_everything_does_not_swallow_a_restart(model, monkeypatch):
    monkeypatch.setattr(run_module, "BUDGET_CPU", 3 * 6 * 8 * 4)
    model.eval()

    def closure():
        try:
            return loss(model)
        except Exception:
            return None

    assert differences(closure, model.parameters(), DIRECTIONS, 1e-3)[1].shape == (7,)


BAD_SETTINGS = [
    ({"eps": 0.0}, ValueError, "eps must be positive and finite, got 0.0"),
    ({"eps": -1e-3}, ValueError, "eps must be positive and finite, got -0.001"),
    ({"eps": float("nan")}, ValueError, "eps must be positive and finite, got nan"),
    ({"eps": float("inf")}, ValueError, "eps must be positive and finite, got inf"),
    ({"eps": "1e-3"}, TypeError, "eps must be a number"),
    ({"eps": 1e-60}, ValueError, "eps 1e-60 is too small"),
    ({"sides": 3}, ValueError, "sides must be 1 .* or 2 .*, got 3"),
    ({"compute_dtype": torch.float16}, ValueError, "compute_dtype must be .*, got torch.float16"),
    ({"chunk": 0}, ValueError, "chunk must be at least 1.*got 0"),
    ({"chunk": 1.5}, ValueError, "chunk must be at least 1.*got 1.5"),
    ({"scales": torch.ones(3)}, ValueError, r"scales must have shape \(7,\).*got \(3,\)"),
    ({"directions": 7}, TypeError, "directions must be a zo.Directions, got 7"),
    ({"params": []}, ValueError, "params is empty"),
    ({"params": [torch.ones(2, dtype=torch.int32)]}, TypeError, "parameter 0 has dtype torch.int32"),
    ({"params": [torch.ones(2), torch.ones(2) * 1j]}, TypeError, "parameter 1 has dtype torch.complex64"),
    ({"params": [[1.0]]}, TypeError, "parameter 0 is no tensor"),
    ({"params": [INPUTS] * 2}, ValueError, "parameter 1 is the same tensor as parameter 0"),
    ({"params": [torch.ones(2), torch.ones(2, device="meta")]}, ValueError, "parameter 1 lies on meta"),
    (
        {"directions": zo.Directions(0, 0, 2, rank=3), "params": [torch.ones(2, 9)]},
        ValueError,
        "rank 3 exceeds.*parameter 0",
    ),
]


@pytest.mark.parametrize(
    ("bad", "error", "message"), BAD_SETTINGS, ids=[str(case[0])[:40] for case in BAD_SETTINGS]
)
def test_bad_settings_are_refused_before_the_closure_runs(bad, error, message):
    def closure():
        raise AssertionError("the closure ran")

    settings = {"params": [torch.ones(3)], "directions": DIRECTIONS, "eps": 1e-3, **bad}
    with pytest.raises(error, match=message):
        differences(closure, **settings)


def test_a_closure_that_uses_no_trained_parameter_is_refused(model):
    with pytest.raises(ValueError, match="used none of the 6 trained parameters"):
        differences(lambda: INPUTS.sum(), model.parameters(), DIRECTIONS, 1e-3)


def test_a_value_that_lost_its_difference_is_refused(model):
    with pytest.raises(ValueError, match=r"carries no difference.*zo\.BlackBox"):
        differences(
            lambda: (model(INPUTS).argmax(1) == LABELS).float().mean(), model.parameters(), DIRECTIONS, 1e-3
        )


def test_a_number_is_handed_back_after_one_run(model):
    runs = []

    def closure():
        runs.append(1)
        return loss(model).item()

    with pytest.raises(NotATensorError, match=r"zo\.BlackBox") as caught:
        differences(closure, model.parameters(), DIRECTIONS, 1e-3, chunk=1)
    assert isinstance(caught.value, TypeError)
    assert isinstance(caught.value.value, float)
    assert len(runs) == 1


def test_the_mean_of_no_elements_has_a_rule():
    weight = torch.randn(3, 4)
    value, found = differences(
        lambda: F.linear(INPUTS[:0], weight).mean(1).sum() + weight.sum(),
        [weight],
        DIRECTIONS,
        1e-3,
        strict=True,
    )
    torch.testing.assert_close(value, weight.sum())
    assert found.isfinite().all()


def test_a_gpus_budget_is_a_share_of_its_memory(monkeypatch):
    """Of all of it: what is free changes from run to run, and would change a run's rounding."""
    facts = SimpleNamespace(total_memory=80 * 2**30)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: facts)
    run_module._memory_of.cache_clear()
    assert run_module._memory_of(torch.device("cuda", 0)) // run_module.SHARE_GPU == 2.5 * 2**30
    run_module._memory_of.cache_clear()


@pytest.fixture
def wide_calls(monkeypatch):
    """The functions that run on all of torch's threads, elements from which one does being 1 000."""
    calls = []

    def run(function, /, *args, **kwargs):
        calls.append(function)
        return function(*args, **kwargs)

    monkeypatch.setattr(engines, "LARGE", 1000)
    monkeypatch.setattr("zo_triton.difference.mode.wider", lambda device: run)
    return calls


def test_large_functions_of_the_base_have_all_of_torch_s_threads_once(wide_calls):
    generator = torch.Generator().manual_seed(0)
    x, frozen, weight = (torch.randn(40, 40, generator=generator) for _ in range(3))
    few = x[0, :9]

    def closure():
        return torch.tanh(few).sum() + (torch.relu(x @ frozen) @ weight).square().mean()

    directions = zo.Directions(seed=0, step=0, num=6)
    value, found = zo.differences(closure, [weight], directions, 1e-3, chunk=2)
    # Those without a difference, those with one, and none of them again for the second chunk.
    assert len(wide_calls) == 5
    expected = zo.differences(closure, [weight], directions, 1e-3)
    assert len(wide_calls) == 10
    assert value == expected[0]
    assert torch.equal(found, expected[1])
