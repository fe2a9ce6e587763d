"""Functions that write to arguments of theirs, and tensors that get other memory: what buffers hold afterwards."""

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, relative_error

import zo_triton as zo
from zo_triton.difference import fallback

DIRECTIONS = zo.Directions(seed=1, step=0, num=4, distribution="gaussian")
EPS = 1e-2
GENERATOR = torch.Generator().manual_seed(0)
X = torch.randn(6, 4, generator=GENERATOR)
W = torch.randn(5, 4, generator=GENERATOR)
ROW = torch.randn(4, generator=GENERATOR)


@torch.library.custom_op("zo_triton_tests::gather", mutates_args={"total"})
def gather(x: torch.Tensor, total: torch.Tensor) -> None:
    total.add_(x)


@torch.library.custom_op("zo_triton_tests::counted", mutates_args={"count"})
def counted(x: torch.Tensor, count: torch.Tensor) -> torch.Tensor:
    count.add_(1)
    return x * count.to(x.dtype)


@torch.library.custom_op("zo_triton_tests::observed", mutates_args={"mean"})
def observed(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    mean.mul_(0.995).add_(x.mean(), alpha=0.005)
    return x * mean


def packet(w, x, total):
    torch.ops.zo_triton_tests.gather(x, total=total)
    return F.linear(x, w).square().sum()


def batch_norm(w, x, mean, variance):
    h = torch.batch_norm(F.linear(x, w), None, None, mean, variance, True, 0.1, 1e-5, False)
    return h.pow(3).sum()


def instance_norm(w, x, mean, variance):
    h = F.linear(x, w).view(2, 5, 3)
    return torch.instance_norm(h, None, None, mean, variance, True, 0.1, 1e-5, False).pow(3).sum()


def statistics_read_before(w, x, mean, variance):
    waiting = F.linear(mean, w)  # reads what the norm is about to change
    return (F.linear(F.batch_norm(x, mean, variance, training=True), w) * waiting).square().sum()


def total_read_before(w, x, total):
    waiting = F.linear(total, w)
    gather(x, total)
    return (waiting * waiting).sum() + F.linear(total, w).sum()


def other_data(w, x, held):
    held.data = held.data * 0.5 + 1
    return (F.linear(x, w) * held.sum()).square().sum()


def other_memory(w, x, held):
    held.set_(held * 0.5 + 1)
    return (F.linear(x, w) * held.sum()).square().sum()


def turned(w, x, held):
    held.t_()
    held[0] += 1
    return (F.linear(x, w) * held[0, 1]).square().sum()


def grown(w, x, held):
    held.resize_(8)[4:] = 2.0
    return (F.linear(x, w) * held.sum()).square().sum()


def momentum_read_before(w, x, momentum):
    waiting = F.linear(momentum, w)
    other = torch.nn.Parameter(x.clone())
    other.grad = x.clone()
    optimizer = torch.optim.SGD([other], lr=0.1, momentum=0.9, fused=True)
    optimizer.state[other]["momentum_buffer"] = momentum
    optimizer.step()
    return (waiting * waiting).sum() + F.linear(other, w).sum()


def assigned_real_part(w, x, held):
    waiting = F.linear(held, w)
    held.real = held * 0.5 + 1
    return (waiting * waiting).sum() + F.linear(x, w).sum()


CASES = {
    "a user's operator on constants": (packet, [torch.zeros(6, 4)]),
    "a user's operator that counts": (lambda w, x, n: counted(F.linear(x, w), n).sum(), [torch.tensor(3)]),
    "one that observes": (lambda w, x, m: observed(F.linear(x, w), m).square().sum(), [torch.tensor(3.0)]),
    "torch.batch_norm": (batch_norm, [torch.zeros(5), torch.ones(5)]),
    "torch.instance_norm": (instance_norm, [torch.zeros(5), torch.ones(5)]),
    "a layer of running statistics": (statistics_read_before, [ROW, torch.ones(4)]),
    "a layer of what is written to": (total_read_before, [X * X]),
    "momentum of a fused optimizer": (momentum_read_before, [X * X]),
    "an assigned real part": (assigned_real_part, [X * X]),
    "other data": (other_data, [ROW]),
    "other memory": (other_memory, [ROW]),
    "turned": (turned, [X[:4]]),
    "grown": (grown, [ROW]),
}


@pytest.mark.parametrize("taped", [True, False])
@pytest.mark.parametrize("chunk", [None, 1])
@pytest.mark.parametrize("case", CASES)
@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule")
def test_differences_and_what_is_left_are_those_of_one_run(case, chunk, taped):
    function, held = CASES[case]

    def copies(dtype):
        return [each.to(dtype, copy=True) if each.is_floating_point() else each.clone() for each in held]

    def afresh(w):
        value = function(w, X.to(w.dtype), *copies(w.dtype))
        return value if taped else value + _written_in_part(w)

    def run():
        value = function(W, X, *buffers)
        return value if taped else value + _written_in_part(W)

    buffers, others = copies(torch.float32), copies(torch.float32)
    value, found = zo.differences(run, [W], DIRECTIONS, EPS, chunk=chunk)
    torch.testing.assert_close(value, afresh(W))
    assert relative_error(found, expected_differences(afresh, [W], DIRECTIONS, EPS)) < 1e-5
    with torch.no_grad():
        function(W, X, *others)
    for buffer, other in zip(buffers, others, strict=True):
        torch.testing.assert_close(buffer, other)


def test_a_generator_of_the_users_own_draws_the_same_in_each_chunk():
    generator = torch.Generator().manual_seed(5)

    def losses(fails=False):
        noise = torch.rand(6, 5, generator=generator)
        if fails:
            raise RuntimeError("a failure")
        return (F.linear(X, W) * noise).square().sum() + _written_in_part(W)

    _, whole = zo.differences(losses, [W], DIRECTIONS, EPS)
    after = generator.get_state()
    generator.manual_seed(5)
    _, found = zo.differences(losses, [W], DIRECTIONS, EPS, chunk=1)
    torch.testing.assert_close(found, whole)
    assert torch.equal(generator.get_state(), after)
    with pytest.raises(RuntimeError, match="a failure"):
        zo.differences(lambda: losses(fails=True), [W], DIRECTIONS, EPS)
    assert torch.equal(generator.get_state(), after)


def _written_in_part(w):
    """What keeps a run from being recorded, so that each chunk runs the closure."""
    out = w.new_zeros(3)
    out[1:] += w[0, :2]
    return out.sum()


@pytest.mark.parametrize(
    "case", ["other data", "other memory", "turned", "grown", "a user's operator that counts"]
)
@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule")
def test_a_failure_leaves_nothing(case):
    function, held = CASES[case]
    buffers = [each.clone() for each in held]

    def fails():
        function(W, X, *buffers)
        raise RuntimeError("a failure")

    with pytest.raises(RuntimeError, match="a failure"):
        zo.differences(fails, [W], DIRECTIONS, EPS)
    assert all(map(torch.equal, buffers, held))


@pytest.mark.parametrize("moving", [True, False])
def test_running_statistics_that_were_updated_count_as_the_bases_and_are_announced(moving):
    fallback._warned.clear()
    norm = torch.nn.BatchNorm1d(5)

    def loss():
        h = F.linear(X, W)
        norm.train()(h if moving else X @ ROW.expand(5, 4).T)
        return norm.eval()(h).square().sum()

    def measure():
        return zo.differences(loss, [W], DIRECTIONS, EPS)

    if moving:
        with pytest.warns(
            UserWarning, match="running statistics that the same closure has updated in training"
        ):
            measure()
    else:
        measure()


@pytest.mark.parametrize("target", ["buffer", "parameter"])
def test_a_users_operator_that_would_change_what_depends_on_the_weights_is_undone(target):
    total, weight = torch.zeros(6, 5), W.clone()

    def loss():
        if target == "buffer":
            gather(F.linear(X, weight), total)
        else:
            gather(W, weight)
        return F.linear(X, weight).sum() + total.sum()

    with pytest.raises(ValueError, match="changes a tensor in place that depends on the trained"):
        zo.differences(loss, [weight], DIRECTIONS, EPS)
    assert torch.equal(total, torch.zeros(6, 5))
    assert torch.equal(weight, W)


def test_a_layers_input_that_a_users_operator_overwrites_later_was_kept():
    layer = torch.nn.Linear(4, 3)
    directions = zo.Directions(seed=0, step=0, num=4, distribution="hadamard")

    def gradient(overwrites):
        def losses():
            held = X.clone()
            out = layer(held)
            if overwrites:
                gather(X, held)
            return out.square().sum(-1)

        zo.estimate_gradient(losses, layer.parameters(), directions, perturb="activations")
        return layer.weight.grad.clone()

    torch.testing.assert_close(gradient(True), gradient(False))
