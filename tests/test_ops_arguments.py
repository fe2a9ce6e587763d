"""Arguments that do not fit are refused before an engine goes through memory by them."""

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F

import zo_triton as zo
from zo_triton import ops

K, N, INNER, OUT = 4, 5, 7, 3
DIRECTIONS = zo.Directions(1, 2, K)
HADAMARD = zo.Directions(1, 2, K, "hadamard").over([(64,)])
EPS, NODE = torch.full((K,), 1e-3), ops.Node(0, 0, N)
LABELS = torch.tensor([0, 1, 2, 0, 1])
ARRAYS = [np.ones((6, INNER), "f"), np.ones((1, 6), "f"), np.ones((OUT, 6), "f"), np.ones((1, OUT), "f")]
RULE = (0.1, 0.5, -1.0, 1.0, 0.0, 0.0)


def linear(
    difference: tuple[int, ...] = (K, N, INNER), eps: torch.Tensor = EPS, dtype: Any = None, **options: Any
) -> None:
    """A layer of three outputs."""
    ops.perturbed_linear(
        torch.ones(N, INNER), torch.ones(difference), torch.ones(OUT, INNER), DIRECTIONS, eps, weight_id=0,
        dtype=dtype or torch.float32, **options,
    )  # fmt: skip


def convolution(
    base: tuple[int, ...] = (2, 3, 5, 5), difference: tuple[int, ...] | None = None, **options: Any
) -> None:
    """Of three channels to four."""
    moved = None if difference is None else torch.ones(difference)
    weight = torch.ones(4, 3, 3, 3)
    ops.perturbed_conv2d(torch.ones(base), moved, weight, DIRECTIONS, EPS, weight_id=0, **options)


def cross_entropy(target: torch.Tensor = LABELS, logits: tuple[int, ...] = (N, OUT)) -> None:
    """Of five samples and three classes."""
    ops.cross_entropy_difference(torch.ones(logits), torch.ones(K, N, OUT), target)


def node_linear(rows: int = N, eps: torch.Tensor = EPS, node: ops.Node = NODE, **options: Any) -> None:
    """A layer of three outputs."""
    ops.node_linear(torch.ones(K, rows, INNER), torch.ones(OUT, INNER), DIRECTIONS, eps, node, **options)


def windows(gaps: tuple[int, ...] = (3, 4, 2), places: int = 0) -> None:
    """Three planes of ten elements, two windows of four."""
    ops.largest_difference(torch.ones(K, 3, 10), -torch.ones(gaps), torch.full((4, 2), places))


def network(
    inputs: int = N, outputs: int = N, target: torch.Tensor = LABELS, eps: torch.Tensor = EPS
) -> None:
    """Of two layers."""
    ops.mlp_differences(
        [torch.ones(inputs, INNER), torch.ones(N, 6)], [torch.ones(N, 6), torch.ones(outputs, OUT)],
        [torch.ones(6, INNER), torch.ones(OUT, 6)], [0, 2], [1, 3], ["relu", "none"], target, DIRECTIONS, eps,
    )  # fmt: skip


def measure(
    tensors: list[np.ndarray] = ARRAYS,
    x: tuple[int, ...] = (N, INNER),
    dtype: str = "f",
    target: torch.Tensor = LABELS,
) -> None:
    """Both steps of a small network."""
    given = np.ones(x, dtype)
    with pytest.raises(ValueError, match="must be"):
        ops.node_mlp_measure(tensors, given, target.numpy(), HADAMARD, 1e-3, 1)
    ops.mlp_measure(tensors, given, target.numpy(), DIRECTIONS, EPS.numpy())


def attention(query: tuple[int, ...] = (K, 1, 2, 9, 8), key: tuple[int, ...] = (1, 2, 9, 8)) -> None:
    """Nine tokens, two heads."""
    values = torch.ones(1, 2, 9, 8)
    ops.attention_difference(
        values, [values, torch.ones(key), values, None, None], [torch.ones(query), None, None, None], K, 0.3, False,
        torch.float32,
    )  # fmt: skip


CASES: dict[str, tuple[Callable[[], Any], str]] = {
    "linear-features": (lambda: linear((K, N, 3)), "difference must have the shape"),
    "linear-samples": (lambda: linear((K, 2, INNER)), "difference must have the shape"),
    "linear-evaluations": (lambda: linear((2, N, INNER)), "difference must have the shape"),
    "linear-eps": (lambda: linear((3, N, INNER), EPS[:3]), r"signed_eps must be \[K\] or \[2K\] for K = 4"),
    "linear-base-output": (
        lambda: linear(activation="relu", base_output=torch.ones(2, OUT)), "base_output must have the shape",
    ),
    "linear-no-base-output": (lambda: linear(activation="relu"), "needs base_output"),
    "convolution-channels": (lambda: convolution((2, 2, 5, 5)), "weight must be"),
    "convolution-samples": (lambda: convolution(difference=(K, 1, 3, 5, 5)), "difference must have the shape"),
    "convolution-padding": (lambda: convolution(padding=(-1, 0)), "padding 0 or more"),
    "convolution-stride": (lambda: convolution(stride=(0, 1)), "stride and dilation must be 1 or more"),
    "convolution-out": (lambda: convolution(out=torch.ones(K, 2, 4, 2, 2)), "out must have the shape"),
    "convolution-base-output": (
        lambda: convolution(activation="tanh", base_output=torch.ones(1, 1, 2, 2)), "base_output must have",
    ),
    "label-beyond": (lambda: cross_entropy(LABELS + 1), r"labels must be in \[0, 3\), got 1 to 3"),
    "label-far-beyond": (lambda: cross_entropy(LABELS + 2**40), r"labels must be in \[0, 3\)"),
    "label-ignored": (lambda: cross_entropy(LABELS - 100), r"labels must be in \[0, 3\), got -100 to -98"),
    "labels-few": (lambda: cross_entropy(LABELS[:2]), "target must have the shape"),
    "logits-few": (lambda: cross_entropy(logits=(2, OUT)), "logits must have the shape"),
    "node-rows": (lambda: node_linear(node=ops.Node(0, 0, 3)), "as many rows for each of 3 samples"),
    "node-eps": (lambda: node_linear(eps=EPS[:2]), r"signed_eps must be \[K\] or \[2K\]"),
    "node-base-output": (
        lambda: node_linear(activation="tanh", base_output=torch.ones(1, 1)), "base_output must have the shape",
    ),
    "node-coefficients": (lambda: ops.node_gradient(torch.ones(9, N), HADAMARD, NODE, 6), "K = 4 directions"),
    "node-parts": (lambda: ops.node_gradient(torch.ones(K, 3), HADAMARD, NODE, 6), "a multiple of 5 samples"),
    "places-beyond": (lambda: windows(places=10**7), r"places must be in \[0, 10\)"),
    "places-before": (lambda: windows(places=-1), r"places must be in \[0, 10\)"),
    "gaps-few": (lambda: windows((1, 1, 1)), "gaps must have the shape"),
    "coefficients-many": (
        lambda: ops.accumulate([torch.ones(5, 40)], [0], torch.ones(50), DIRECTIONS), "coefficients must have",
    ),
    "network-inputs": (lambda: network(inputs=1), r"inputs\[0\] must have the shape"),
    "network-outputs": (lambda: network(outputs=2), r"outputs\[1\] must have the shape"),
    "network-label": (lambda: network(target=LABELS + 10**7), r"labels must be in \[0, 3\)"),
    "network-labels-few": (lambda: network(target=LABELS[:2]), "target must have the shape"),
    "network-eps": (lambda: network(eps=EPS[:3]), r"signed_eps must be \[K\] or \[2K\]"),
    "step-narrow-batch": (lambda: measure(x=(N, 3)), r"x must be float32 \[N, 7\]"),
    "step-half-batch": (lambda: measure(dtype="e"), r"x must be float32 \[N, 7\], got float16"),
    "step-labels-few": (lambda: measure(target=LABELS[:2]), "target must be"),
    "step-bias": (
        lambda: measure([ARRAYS[0], np.ones((1, 2), "f"), *ARRAYS[2:]]), "tensors must be weights",
    ),
    "update-memory": (
        lambda: ops.mlp_update(ARRAYS, ARRAYS, ARRAYS[:2], RULE, EPS.numpy(), DIRECTIONS), "must be like",
    ),
    "update-coefficients": (
        lambda: ops.mlp_update(ARRAYS, ARRAYS, ARRAYS, RULE, np.ones(40, "f"), DIRECTIONS), "coefficients must be",
    ),
    "attention-tokens": (lambda: attention((K, 1, 2, 4, 8)), "query and its 4 changes must be"),
    "attention-evaluations": (lambda: attention((2, 1, 2, 9, 8)), "query and its 4 changes must be"),
    "attention-features": (lambda: attention(key=(1, 2, 9, 3)), "key and its 4 changes must be"),
    "products": (
        lambda: ops.product_difference(
            torch.ones(3, 2, 2), torch.ones(64, 3, 2, 2), torch.ones(3, 2, 2), torch.ones(2, 3, 2, 2)
        ),
        "right_change must have the shape",
    ),
    "softmax": (
        lambda: ops.softmax_difference(torch.ones(3, 4), torch.ones(3, 4), torch.ones(2, 3, 5)), "change must have",
    ),
}  # fmt: skip


@pytest.mark.parametrize(("call", "message"), CASES.values(), ids=CASES)
def test_what_does_not_fit_is_refused(call: Callable[[], Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


def test_a_difference_comes_in_the_compute_dtype() -> None:
    with pytest.raises(TypeError, match=r"compute dtype torch\.bfloat16, got torch\.float32"):
        linear(dtype=torch.bfloat16)


def test_steps_may_lie_anywhere() -> None:
    """One step for all, without a copy for each."""
    operands = torch.ones(N, INNER), None, torch.ones(OUT, INNER), DIRECTIONS
    found = ops.perturbed_linear(*operands, torch.tensor(1e-3).expand(K), weight_id=0)
    torch.testing.assert_close(found, ops.perturbed_linear(*operands, EPS, weight_id=0), rtol=0, atol=0)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("loss", [F.cross_entropy, F.nll_loss])
def test_labels_of_a_byte_are_indices(loss: Callable[..., torch.Tensor], weighted: bool) -> None:
    """Torch takes them, and as an index a tensor of bytes would be a mask."""
    param, weight = torch.ones(N, OUT).log_softmax(1), torch.tensor([1.0, 2.0, 4.0]) if weighted else None
    found = [
        zo.differences(lambda labels=labels: loss(param, labels, weight), [param], DIRECTIONS, 1e-3)[1]
        for labels in (LABELS, LABELS.to(torch.uint8))
    ]
    torch.testing.assert_close(found[1], found[0], rtol=0, atol=0)
