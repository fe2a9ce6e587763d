"""Orthogonal signs: what the matrix promises, and that every operation of every engine walks the reference's."""

from itertools import pairwise

import numpy as np
import pytest
import torch

import zo_triton as zo
from zo_triton import hadamard, ops
from zo_triton.directions import Directions, num_columns

ENGINES = ("cpu", "triton")
SHAPES = [(9, 70), (33,), (), (6, 5, 3, 2), (4, 32)]
"""Rows that end within a word of signs and with one; between them a vector and a number."""


def named(num=5, **settings):
    return Directions(2**40 + 3, 5, num + 1, "hadamard", **settings)[1:].over(SHAPES)


def vectors(directions, shapes=SHAPES):
    with zo.use_engine("reference"):
        parts = [zo.sample(directions, place, shape) for place, shape in enumerate(shapes)]
    return torch.cat([part.reshape(directions.num, -1) for part in parts], 1).double()


def on_both(engine, call):
    """What the engine and the reference make of a call."""
    results = []
    for chosen in (engine, "reference"):
        with zo.use_engine(chosen):
            results.append(call())
    return results


@pytest.mark.parametrize("order", [1, 2, 8, 1024])
def test_rows_are_drawn_without_repetition_and_anew_in_each_step(order):
    drawn = [hadamard.rows(Directions(3, step, order, "hadamard")) for step in range(3)]
    for rows in drawn:
        assert sorted(rows.tolist()) == list(range(order))
    assert order < 8 or len({rows.tobytes() for rows in drawn}) == 3
    some = hadamard.rows(Directions(3, 0, order, "hadamard")[order // 2 :])
    np.testing.assert_array_equal(some, drawn[0][order // 2 :])


def test_directions_are_orthogonal_over_as_many_columns_as_the_order():
    directions = Directions(1, 2, 64, "hadamard").over([(2, 32)])
    z = vectors(directions, [(2, 32)])
    assert torch.equal(z @ z.T, 64 * torch.eye(64).double())
    # The elements of one direction are the generator's own signs, times a fixed pattern: half of them agree.
    assert abs(float((z[0] * z[0].roll(1)).mean())) < 5 / 8


def test_narrow_tensors_use_all_columns_alike():
    for shape in ((512, 1), (128, 9), (64, 25)):
        rows, cols = shape
        indices = 32 * np.arange(rows)[:, None] + np.arange(cols)
        counts = np.bincount(hadamard.folded(64, indices).ravel() % 64, minlength=64)
        assert counts.min() > 0.5 * counts.mean()
        assert counts.max() < 1.5 * counts.mean()
    below = np.arange(64)
    np.testing.assert_array_equal(hadamard.folded(64, below), below)
    for block in range(40):
        columns = hadamard.folded(64, 64 * block + below) % 64
        np.testing.assert_array_equal(np.sort(columns), below)


@pytest.mark.parametrize("engine", [*ENGINES, "reference"])
@pytest.mark.parametrize("order", [8, 256, 4096])
def test_the_gram_matrix_is_that_of_the_vectors(order, engine):
    directions, tensors = named(order=order), [torch.empty(shape) for shape in SHAPES]
    z = vectors(directions)
    with zo.use_engine(engine):
        assert torch.equal(ops.gram(tensors, range(len(SHAPES)), directions), z @ z.T)
        part = ops.gram([tensors[3], tensors[1]], [3, 1], directions)
    own = torch.cat([vectors(directions)[:, 664:844], vectors(directions)[:, 630:663]], 1)
    assert torch.equal(part, own @ own.T)


@pytest.mark.parametrize("engine", ENGINES)
def test_without_its_table_the_gram_matrix_is_counted(engine, monkeypatch):
    monkeypatch.setattr(hadamard, "MAX_TABLE", 8)
    directions = named(order=16)
    found, wanted = on_both(
        engine, lambda: ops.gram([torch.empty(9, 70), torch.empty(33)], [0, 1], directions)
    )
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("engine", ENGINES)
def test_listed_rows_and_packed_signs(engine):
    directions, rows = named(), torch.tensor([8, 1, 1, 5])
    found, wanted = on_both(engine, lambda: zo.sample(directions, 0, (9, 70), rows=rows))
    assert torch.equal(found, wanted)
    assert torch.equal(wanted, zo.sample(directions, 0, (9, 70))[:, rows])
    found, wanted = on_both(engine, lambda: ops.stage(directions, 3, SHAPES[3]))
    assert torch.equal(found, wanted)


@pytest.mark.parametrize("engine", ENGINES)
def test_updates_are_exact(engine):
    directions, coefficients = named(9), torch.tensor([0.5, -1.0, 3.0, 0.25, 7.0, 0.0, -2.0, 1.0, 1.0])

    def update():
        tensors = [torch.zeros(shape) for shape in SHAPES]
        ops.accumulate(tensors, range(len(SHAPES)), coefficients, directions)
        return torch.cat([tensor.flatten() for tensor in tensors])

    found, wanted = on_both(engine, update)
    assert torch.equal(found, wanted)
    assert torch.equal(wanted.double(), coefficients.double() @ vectors(directions))


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("first", [False, True], ids=["hidden", "first"])
def test_linear_layers(engine, dtype, transposed, first):
    generator = torch.Generator().manual_seed(1)
    shape = (45, 37) if transposed else (37, 45)
    directions = Directions(7, 1, 6, "hadamard")[1:].over([(3, 5), shape, (37,)])
    base, weight = torch.randn(13, 45, generator=generator), torch.randn(shape, generator=generator) / 7
    moved = None if first else (1e-3 * torch.randn(10, 13, 45, generator=generator)).to(dtype)
    before, eps = torch.randn(13, 37, generator=generator), 1e-3 * torch.tensor([1.0, -1.0]).repeat(5)
    feature_major = None if first else moved.mT.contiguous().mT
    for difference in (moved, feature_major):
        found, wanted = on_both(
            engine,
            lambda difference=difference: ops.perturbed_linear(
                base, difference, weight, directions, eps, weight_id=1, bias_id=2, base_output=before,
                activation="relu", dtype=dtype, transposed=transposed,
            ).double(),
        )  # fmt: skip
        scale = wanted.abs().max()
        assert (found - wanted).abs().max() <= (2e-6 if dtype == torch.float32 else 1e-2) * scale


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize(("channels", "groups"), [((5, 7), 1), ((6, 14), 2), ((19, 19), 19)])
@pytest.mark.parametrize("first", [False, True], ids=["hidden", "first"])
def test_convolutions(engine, channels, groups, first):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(channels[1], channels[0] // groups, 3, 3, generator=generator) / 6
    directions = Directions(7, 1, 4, "hadamard")[1:].over([(3, 5), weight.shape, (channels[1],)])
    base = torch.randn(2, channels[0], 6, 5, generator=generator)
    difference = None if first else 1e-3 * torch.randn(3, *base.shape, generator=generator)
    found, wanted = on_both(
        engine,
        lambda: ops.perturbed_conv2d(
            base, difference, weight, directions, torch.full((3,), 1e-3), padding=(1, 1), groups=groups,
            weight_id=1, bias_id=2,
        ).double(),
    )  # fmt: skip
    assert (found - wanted).abs().max() <= 2e-6 * wanted.abs().max()


def network(widths=(45, 37, 13, 10), samples=19):
    generator = torch.Generator().manual_seed(2)
    a, inputs, outputs, weights = torch.randn(samples, widths[0], generator=generator), [], [], []
    for inner, rows in pairwise(widths):
        weights.append(torch.randn(rows, inner, generator=generator) / inner**0.5)
        inputs.append(a)
        outputs.append(a @ weights[-1].T)
        a = outputs[-1].relu()
    shapes = [shape for weight in weights for shape in (weight.shape, (weight.shape[0],))]
    return inputs, outputs, weights, torch.arange(samples) % widths[-1], shapes


@pytest.mark.parametrize("engine", ENGINES)
def test_whole_networks(engine):
    inputs, outputs, weights, target, shapes = network()
    # More directions than go together, so that there are several groups of them.
    num = 19 if engine == "cpu" else 3
    directions = Directions(7, 1, num + 2, "hadamard")[2:].over(shapes)
    eps = 1e-3 * torch.tensor([1.0, -1.0]).repeat(num)
    for weight_ids, bias_ids in (([0, 2, 4], [1, 3, 5]), ([-1, 2, 4], [1, -1, 5])):
        found, wanted = on_both(
            engine,
            lambda weight_ids=weight_ids, bias_ids=bias_ids: ops.mlp_differences(
                inputs,
                outputs,
                weights,
                weight_ids,
                bias_ids,
                ["relu", "relu", "none"],
                target,
                directions,
                eps,
            ),
        )
        assert (found - wanted).abs().max() <= 2e-6 * wanted.abs().max()


def test_a_compiled_step_walks_what_a_general_one_does():
    inputs, _, _, target, shapes = network()
    generator = torch.Generator().manual_seed(3)
    tensors = [0.1 * torch.randn(shape, generator=generator).reshape(-1, shape[-1]) for shape in shapes]
    directions, eps = Directions(7, 1, 19, "hadamard").over(shapes), torch.full((19,), 1e-3)
    assert ops.offers_mlp_step(torch.device("cpu"), directions, tensors[::2])
    arrays = [tensor.numpy() for tensor in tensors]
    loss, found = ops.mlp_measure(arrays, inputs[0].numpy(), target.numpy(), directions, eps.numpy())

    def closure():
        a = inputs[0]
        for layer in range(3):
            a = torch.nn.functional.linear(a, params[2 * layer], params[2 * layer + 1])
            a = a.relu() if layer < 2 else a
        return torch.nn.functional.cross_entropy(a, target)

    params = [tensor.view(shape) for tensor, shape in zip(tensors, shapes, strict=True)]
    with zo.use_engine("reference"):
        value, wanted = zo.differences(closure, params, Directions(7, 1, 19, "hadamard"), 1e-3)
    assert abs(loss - float(value)) <= 1e-6
    assert np.abs(found - wanted.numpy()).max() <= 2e-6 * float(wanted.abs().max())
    coefficients = torch.linspace(-1, 1, 19)
    moved = [tensor.clone() for tensor in params]
    ops.accumulate(moved, range(6), -0.1 * coefficients, directions)
    momenta = [np.zeros_like(array) for array in arrays]
    rule = (0.1, 0.0, -1.0, 1.0, 0.0, 0.0)
    ops.mlp_update(arrays, momenta, momenta, rule, coefficients.numpy(), directions)
    for array, tensor in zip(arrays, moved, strict=True):
        np.testing.assert_allclose(array.reshape(tensor.shape), tensor.numpy(), rtol=0, atol=1e-6)


def test_columns_lie_one_after_the_other_in_whole_words():
    assert named().offsets == (0, 9 * 96, 9 * 96 + 64, 9 * 96 + 96, 9 * 96 + 96 + 6 * 32)
    assert [num_columns(shape) for shape in SHAPES] == [864, 64, 32, 192, 128]
    assert named()[2:4].offsets == named().offsets
    assert Directions.decode(named(order=64).encode()) == named(order=64)
    assert Directions(0, 0, 3).over(SHAPES) == Directions(0, 0, 3)


def test_no_operation_guesses_the_columns_of_a_tensor():
    loose, matrix = Directions(0, 0, 2, "hadamard"), torch.zeros(4, 4)
    calls = [
        lambda: zo.sample(loose, 1, (4, 4)),
        lambda: ops.accumulate([matrix], [1], torch.ones(2), loose),
        lambda: ops.gram([matrix], [1], loose),
        lambda: ops.stage(loose, 1, (4, 4)),
        lambda: ops.perturbed_linear(matrix, None, matrix, loose, torch.ones(2), weight_id=0, bias_id=1),
        lambda: ops.perturbed_conv2d(
            torch.zeros(1, 1, 4, 4), None, torch.zeros(2, 1, 2, 2), loose, torch.ones(2), weight_id=1
        ),
        lambda: ops.mlp_differences(
            [matrix], [matrix], [matrix], [0], [1], ["none"], torch.zeros(4).long(), loose, torch.ones(2)
        ),
        lambda: ops.mlp_measure(
            [matrix.numpy(), matrix[:1].numpy()], matrix.numpy(), np.zeros(4, np.int64), loose,
            np.ones(2, np.float32),
        ),
        lambda: ops.mlp_update([matrix.numpy()] * 2, [], [], (), np.ones(2, np.float32), loose),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(
            ValueError,
            match=r"need the column index of tensor 1, got offsets of 0 tensors; take directions\.over",
        ):
            call()
    assert zo.sample(loose, 0, (4, 4)).shape == (2, 4, 4)
    with pytest.raises(ValueError, match="have the columns of 5 other tensors than these 1"):
        named().over([(3, 3)])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"rank": 2}, "rank 2 can't be had with 'hadamard'"),
        ({"order": 6}, r"order must be a power of two up to 2\*\*31, got 6 for 5 directions"),
        ({"order": 0}, r"order must be a power of two up to 2\*\*31, got 0 for 5 directions"),
        ({"order": 4}, "5 directions are more than the 4 rows of a Hadamard matrix"),
        ({"order": 8, "first": 4}, "9 directions are more than the 8 rows of a Hadamard matrix"),
        ({"distribution": "gaussian", "order": 8}, "order=8 and 0 offsets with 'gaussian'"),
        ({"distribution": "rademacher", "offsets": (0, 32)}, "order=None and 2 offsets with 'rademacher'"),
    ],
)
def test_what_no_matrix_has_is_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        Directions(0, 0, 5, **{"distribution": "hadamard", **settings})
    with pytest.raises(TypeError, match=r"order must be an int, got 8\.0"):
        Directions(0, 0, 5, "hadamard", order=8.0)
