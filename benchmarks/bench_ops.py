"""Each fused op against plain torch on operands of the same shape that already lie in memory."""

import pytest
import torch
import torch.nn.functional as F

from zo_triton import Directions, ops
from zo_triton.experiments.fused import hardware_dtype
from zo_triton.experiments.gates import GateError

DTYPE = hardware_dtype()
# A few roundings of the compute dtype, relative to the largest value.
TOLERANCE = 2e-2 if torch.bfloat16 == DTYPE else 1e-4


@pytest.fixture
def shape(tiny):
    """(K, samples, inputs, outputs): a hidden layer of the step benchmark's network."""
    return (2, 32, 40, 24) if tiny else (32, 128, 256, 256)


def normal(*size, seed=0):
    return torch.randn(size, generator=torch.Generator().manual_seed(seed))


def gate(name, fast, exact):
    error = ((fast.double() - exact.double()).abs().max() / exact.double().abs().max()).item()
    if not error <= TOLERANCE:
        raise GateError(f"{name} differs from the reference by {error:.2g} of the largest value.")


def both_engines(call):
    """What the device's engine and the float64 reference return for the first two directions."""
    fast = call()
    with ops.use_engine("reference"):
        return fast, call()


def linear_arguments(K, N, I, O):  # noqa: E741
    return normal(N, I), 1e-2 * normal(K, N, I, seed=1).to(DTYPE), normal(O, I, seed=2) / I**0.5


def bench_perturbed_linear(measure, shape):
    K, N, I, O = shape  # noqa: E741
    base, difference, weight = linear_arguments(*shape)
    output = base @ weight.T

    def call(count=K):
        return ops.perturbed_linear(
            base, difference[:count], weight, Directions(0, 0, count), torch.full((count,), 1e-3),
            weight_id=0, bias_id=1, base_output=output, activation="relu", dtype=DTYPE,
        )  # fmt: skip

    gate("perturbed_linear", *both_engines(lambda: call(2)))
    measure("op: hidden layer", call, K=K, batch=N, inputs=I, outputs=O, gflop=4e-9 * K * N * I * O)


def bench_two_matmuls(measure, shape):
    K, N, I, O = shape  # noqa: E741
    _, difference, weight = linear_arguments(*shape)
    rows, moved = difference.reshape(K * N, I), normal(K, O, I, seed=3).to(DTYPE)
    plain = weight.to(DTYPE)

    def call():
        return F.linear(rows, plain), torch.bmm(difference, moved.transpose(1, 2))

    measure("op: hidden layer", call, K=K, batch=N, inputs=I, outputs=O, gflop=4e-9 * K * N * I * O)


def bench_accumulate(measure, shape):
    K, _, I, O = shape  # noqa: E741
    tensor, coefficients = torch.zeros(O, I), normal(K, seed=4)

    def call():
        ops.accumulate([tensor], [0], coefficients, Directions(0, 0, K), DTYPE)
        return tensor

    fast = call().clone()
    tensor.zero_()
    with ops.use_engine("reference"):
        gate("accumulate", fast, call())
    measure("op: update", call, K=K, values=O * I)


def bench_coefficients_times_matrix(measure, shape):
    K, _, I, O = shape  # noqa: E741
    noise, coefficients = normal(K, O * I), normal(K, seed=4)
    measure("op: update", lambda: coefficients @ noise, K=K, values=O * I)


def bench_gram(measure, shape):
    K, _, I, O = shape  # noqa: E741
    tensor = torch.zeros(O, I)

    def call():
        return ops.gram([tensor], [0], Directions(0, 0, K), DTYPE)

    gate("gram", *both_engines(call))
    measure("op: gram", call, K=K, values=O * I)


def bench_gram_matmul(measure, shape):
    K, _, I, O = shape  # noqa: E741
    noise = normal(K, O * I)
    measure("op: gram", lambda: noise @ noise.T, K=K, values=O * I)


def bench_cross_entropy_difference(measure, shape):
    K, N, _, _ = shape
    logits, difference = normal(N, 10), 1e-2 * normal(K, N, 10, seed=1).to(DTYPE)
    target = torch.arange(N) % 10
    fast, exact = both_engines(lambda: ops.cross_entropy_difference(logits, difference, target))
    gate("cross_entropy_difference", fast, exact)
    measure("op: loss", lambda: ops.cross_entropy_difference(logits, difference, target), K=K, batch=N)


def bench_cross_entropy(measure, shape):
    K, N, _, _ = shape
    logits, target = normal(K * N, 10), torch.arange(K * N) % 10
    measure("op: loss", lambda: F.cross_entropy(logits, target, reduction="none"), K=K, batch=N)
