"""However a product with a trained matrix is spelled, it is the fused layer, and its differences are right."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import ENGINES, expected_differences, of_rule, relative_error

import zo_triton as zo
from zo_triton import ops
from zo_triton.difference.mode import DifferenceMode

GENERATOR = torch.Generator().manual_seed(0)
IN, OUT = 7, 5


def conv1d(x, w, b):
    """Hugging Face's: GPT-2's linear layer."""
    return torch.addmm(b, x.reshape(-1, IN), w).view(*x.shape[:-1], OUT)


def flat(product):
    """Of two-dimensional functions: all leading axes in one."""
    return lambda x, w: product(x.reshape(-1, IN), w).reshape(*x.shape[:-1], OUT)


def batch(x, w):
    """The input as one batch of matrices, and the weight repeated for each."""
    x = x.reshape(-1, 2, IN)
    return x, w.unsqueeze(0).expand(x.shape[0], -1, -1)


def batched(product):
    return lambda x, w: product(*batch(x, w)).reshape(*x.shape[:-1], OUT)


# Of a weight stored as [in, out].
BY_INPUTS = {
    "@": lambda x, w: x @ w,
    "matmul": torch.matmul,
    "__rmatmul__": lambda x, w: torch.Tensor.__rmatmul__(w, x),
    "mm": flat(torch.mm),
    "method": flat(lambda x, w: x.mm(mat2=w)),
    "linear of .T": lambda x, w: F.linear(x, w.T),
    "linear of .t().contiguous()": lambda x, w: F.linear(x, w.t().contiguous()),
    "linear of transpose": lambda x, w: F.linear(x, w.transpose(0, 1)),
    "linear of permute": lambda x, w: F.linear(x, w.permute(1, 0)),
    "@ .clone()": lambda x, w: x @ w.clone(),
    "@ .data.T.mT": lambda x, w: x @ w.data.T.mT,
    "@ [None]": lambda x, w: x.reshape(1, -1, IN).matmul(w[None]).view(*x.shape[:-1], OUT),
    "bmm": batched(torch.bmm),
    "matmul of a batch": batched(torch.matmul),
    "einsum": lambda x, w: torch.einsum("...i,io->...o", x, w),
    "einsum of lists": lambda x, w: torch.einsum("io, ...i -> ...o", [w, x]),
    "einsum turned": lambda x, w: torch.einsum("...i,io->o...", x, w).movedim(0, -1),
    "left": flat(lambda x, w: (w.T @ x.T).T),
}  # fmt: skip
# Of a weight stored as [out, in], as torch's own layer has it.
BY_OUTPUTS = {
    "linear": F.linear,
    "@ .T": lambda x, w: x @ w.T,
    "@ .t()": lambda x, w: x @ w.t(),
    "@ .mT": lambda x, w: x @ w.mT,
    "@ swapaxes": lambda x, w: x @ w.swapaxes(-1, -2),
    "mm": flat(lambda x, w: torch.mm(x, w.t())),
    "bmm": batched(lambda x, w: torch.bmm(x, w.transpose(1, 2))),
    "bmm of .T": lambda x, w: batched(torch.bmm)(x, w.T),
    "addmm": flat(lambda x, w: torch.addmm(torch.zeros(OUT).to(w), x, w.t())),
    "einsum": lambda x, w: torch.einsum("...i,oi->...o", x, w),
    "left": flat(lambda x, w: (w @ x.T).mT),
    "left of a batch": lambda x, w: torch.matmul(w, x.reshape(2, -1, IN).mT).mT.reshape(*x.shape[:-1], OUT),
}  # fmt: skip
SPELLINGS = {f"[in, out] {name}": (True, call) for name, call in BY_INPUTS.items()}
SPELLINGS |= {f"[out, in] {name}": (False, call) for name, call in BY_OUTPUTS.items()}


def added(x, w, b, **factors):
    return torch.addmm(b, x.reshape(-1, IN), w, **factors).reshape(*x.shape[:-1], OUT)


def added_batch(x, w, b, **factors):
    return torch.baddbmm(b, *batch(x, w), **factors).reshape(*x.shape[:-1], OUT)


def inputs(*leading):
    return torch.randn(*leading, IN, generator=GENERATOR)


WEIGHT = torch.randn(IN, OUT, generator=GENERATOR) / IN**0.5
BIAS = torch.randn(OUT, generator=GENERATOR)
INPUTS = {
    "2-D": inputs(6),
    "3-D": inputs(2, 3),
    "4-D": inputs(2, 1, 3),
    "not contiguous": torch.randn(IN, 2, 4, generator=GENERATOR).permute(1, 2, 0),
}


@pytest.fixture
def seen(monkeypatch):
    """Which weights went through the fused layer, and which tensors' directions were written out."""
    seen = SimpleNamespace(fused=[], written=[])
    perturbed, materialise = ops.perturbed_linear, DifferenceMode.materialise

    def spy(*args, **kwargs):
        seen.fused.append((kwargs["weight_id"], kwargs["transposed"], kwargs.get("activation", "none")))
        return perturbed(*args, **kwargs)

    def spy_on(mode, tensor_id, *args):
        seen.written.append(tensor_id)
        return materialise(mode, tensor_id, *args)

    monkeypatch.setattr(ops, "perturbed_linear", spy)
    monkeypatch.setattr(DifferenceMode, "materialise", spy_on)
    return seen


def stored(by_inputs):
    return WEIGHT.clone() if by_inputs else WEIGHT.T.contiguous()


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("name", SPELLINGS)
def test_a_product_is_the_fused_layer(name, sides, seen):
    by_inputs, product = SPELLINGS[name]
    for x in INPUTS.values():
        seen.fused.clear()
        error = of_rule(lambda w, x=x: product(x.to(w), w), [stored(by_inputs)], 1e-3, sides)[2]
        assert error < 1e-5
        assert seen.fused == [(0, by_inputs, "none")]
    assert seen.written == []


@pytest.mark.parametrize("name", SPELLINGS)
def test_of_an_input_that_moves_too(name, seen):
    by_inputs, product = SPELLINGS[name]
    scale = torch.rand(IN, generator=GENERATOR) + 0.5
    for x in INPUTS.values():
        seen.fused.clear()
        error = of_rule(lambda w, s, x=x: product(x.to(w) * s, w), [stored(by_inputs), scale], 1e-2, 2)[2]
        assert error < 1e-5
        assert [each[:2] for each in seen.fused] == [(0, by_inputs)]
    assert set(seen.written) == {1}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SPELLINGS)
def test_the_orientation_of_the_field_is_the_stored_one(name, engine):
    """The same as the plainest product with a weight stored so."""
    by_inputs, product = SPELLINGS[name]
    plain = (lambda x, w: x @ w) if by_inputs else F.linear
    weight, x = stored(by_inputs), INPUTS["3-D"]
    directions = zo.Directions(3, 1, 4)
    with zo.use_engine(engine):
        found, wanted = (
            zo.differences(lambda call=call: call(x, weight).sin(), [weight], directions, 1e-3, strict=True)[
                1
            ]
            for call in (product, plain)
        )
    torch.testing.assert_close(found, wanted, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("call", [conv1d, added, added_batch])
@pytest.mark.parametrize("trained", [(0, 1), (0,), (1,)], ids=["both", "weight", "bias"])
def test_a_bias_goes_into_the_layer(trained, call, sides, seen):
    given = [WEIGHT.clone(), BIAS.clone()]

    def function(*tensors, x):
        w, b = (tensors[trained.index(i)] if i in trained else given[i].to(tensors[0]) for i in range(2))
        return call(x.to(w), w, b)

    for x in INPUTS.values():
        seen.fused.clear()
        error = of_rule(
            lambda *tensors, x=x: function(*tensors, x=x), [given[i] for i in trained], 1e-3, sides
        )[2]
        assert error < 1e-5
        # A frozen weight that is repeated for a batch is no matrix that is known.
        known = call is not added_batch or 0 in trained
        assert [each[0] for each in seen.fused] == ([0 if 0 in trained else -1] if known else [])
    assert not known or seen.written == []


@pytest.mark.parametrize("factors", [{"beta": 0.5, "alpha": 2}, {"alpha": -1}, {"beta": 0}], ids=str)
@pytest.mark.parametrize("call", [added, added_batch])
def test_factors_and_other_shapes_of_what_is_added(call, factors, seen):
    x = INPUTS["3-D"]
    for bias in (BIAS, BIAS[:1], torch.randn(*((6,) if call is added else (3, 2)), OUT, generator=GENERATOR)):
        for options in ({}, factors):
            seen.fused.clear()
            found = of_rule(
                lambda w, b, o=options: call(x.to(w), w, b, **o), [WEIGHT.clone(), bias.clone()], 1e-3
            )
            assert found[2] < 1e-5
            assert [each[:2] for each in seen.fused] == [(0, True)]


ACTIVATIONS = {"gelu": F.gelu, "relu": torch.relu, "silu": F.silu}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["@", "matmul", "einsum", "linear of .T", "conv1d"])
def test_an_activation_is_fused_into_the_layer(name, activation, engine, seen):
    after = ACTIVATIONS[activation]
    second = torch.randn(OUT, OUT, generator=GENERATOR)

    def function(w, b, v, x):
        first = conv1d(x, w, b) if name == "conv1d" else BY_INPUTS[name](x, w)
        return F.linear(after(first), v)

    params, directions = [WEIGHT.clone(), BIAS.clone(), second], zo.Directions(1, 2, 3, "gaussian")
    x = INPUTS["3-D"]
    with zo.use_engine(engine):
        found = zo.differences(lambda: function(*params, x), params, directions, 1e-3, strict=True)[1]
    expected = expected_differences(lambda w, b, v: function(w, b, v, x.to(w)), params, directions, 1e-3)
    assert relative_error(found, expected) < 1e-5
    assert (0, True, activation) in seen.fused
    assert 0 not in seen.written


def test_a_view_that_is_asked_for_beside_the_layer_itself():
    def function(w, b, s):
        product = torch.addmm(b, INPUTS["2-D"].to(w) * s, w)
        seen = product.view(2, 3, OUT)
        return F.gelu(seen).sum(0) + product[:3].square() + seen[1].tanh() + torch.relu(product[3:])

    assert of_rule(function, [WEIGHT.clone(), BIAS.clone(), torch.ones(IN)], 1e-2, 2)[2] < 1e-5


def test_a_view_whose_memory_is_written():
    def function(w, b):
        seen = torch.addmm(b, INPUTS["2-D"].to(w), w).view(2, 3, OUT)
        after = F.relu(seen)
        seen.mul_(2.0)
        return after + seen

    assert of_rule(function, [WEIGHT.clone(), BIAS.clone()], 1e-2, 2)[2] < 1e-5


def test_a_copy_of_a_weight_that_is_written():
    """Pruning by hand: the copy is a matrix of its own from then on, and what came before keeps its value."""
    mask = torch.rand(IN, OUT, generator=GENERATOR) > 0.5

    def function(w):
        x, copy = INPUTS["3-D"].to(w), w.clone()
        before = x @ copy
        copy[mask] = 0
        turned = w.t().contiguous()
        turned.mul_(3.0)
        return before.sin() + x @ copy + F.linear(x, turned)

    assert of_rule(function, [WEIGHT.clone()], 1e-2, 2)[2] < 1e-5


def test_parts_of_a_weight_are_not_the_weight():
    square = torch.randn(IN, IN, generator=GENERATOR)

    def function(w):
        x = INPUTS["3-D"].to(w)
        parts = x @ w[:, :3], x @ w.flip(0), x @ w.T[:, 2:], x @ w.view(IN, IN), x @ w.view(-1).view(IN, IN).T
        parts += (x @ w.diagonal().expand(IN, IN), x[..., :1] @ w[:1], (x @ w.expand(2, IN, IN)).square())
        return torch.cat([part.reshape(-1) for part in parts])

    assert of_rule(function, [square], 1e-2, 2)[2] < 1e-5


@pytest.mark.parametrize(
    "equation",
    ["ai,ib->ab", "ai,bi->ab", "ai,ib->ba", "ai,ib->b", "ai,ib->a", "ai,ib->aib", "ab,ib->ai", "ai,ii->ai"],
)
def test_einsums_that_are_no_layer_stay_right(equation):
    x, w = (torch.randn(4, 4, generator=GENERATOR) for _ in range(2))
    assert of_rule(lambda w, s: torch.einsum(equation, x.to(w) * s, w), [w, x[0].clone()], 1e-2, 2)[2] < 1e-5
    assert of_rule(lambda w: torch.einsum(equation.split("->")[0], x.to(w), w), [w], 1e-2)[2] < 1e-5


def test_low_rank_factors_are_those_of_the_stored_matrix(seen):
    directions = zo.Directions(1, 2, 3, "gaussian", rank=2)
    x, w = INPUTS["3-D"], WEIGHT.clone()
    for engine in ENGINES:
        with zo.use_engine(engine):
            found = zo.differences(lambda: (x @ w).sin(), [w], directions, 1e-3, 2)[1]
        expected = expected_differences(lambda w: (x.to(w) @ w).sin(), [w], directions, 1e-3, 2)
        assert relative_error(found, expected) < 1e-5
    assert seen.written == []


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("name", SPELLINGS)
def test_chunks_replay_a_tape(name, engine):
    by_inputs, product = SPELLINGS[name]
    runs = []
    w, s, x = stored(by_inputs), torch.ones(IN), INPUTS["3-D"]

    def closure():
        runs.append(1)
        hidden = torch.tanh(product(x * s, w))
        return F.gelu(hidden @ torch.ones(OUT, 3)).square().sum()

    directions = zo.Directions(1, 2, 5)
    with zo.use_engine(engine):
        whole = zo.differences(closure, [w, s], directions, 1e-3, strict=True)[1]
        runs.clear()
        chunked = zo.differences(closure, [w, s], directions, 1e-3, chunk=2, strict=True)[1]
    assert len(runs) == 1
    torch.testing.assert_close(chunked, whole, rtol=1e-5, atol=1e-8)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_table_that_is_embedding_and_head(dtype, seen):
    """Tied weights: one tensor id for the rows that are looked up and for the product."""
    table = torch.randn(11, IN, generator=GENERATOR).to(dtype)
    middle = WEIGHT.to(dtype)
    ids = torch.tensor([[1, 5, 5], [0, 10, 2]])

    def function(table, middle):
        hidden = torch.tanh(F.embedding(ids, table) @ middle)
        return F.linear(torch.tanh(hidden @ middle.T), table)

    found = of_rule(function, [table, middle], 1e-2)
    assert found[2] < (1e-5 if dtype == torch.float32 else 3e-2)
    assert [each[0] for each in seen.fused] == [1, 1, 0] or sorted(e[0] for e in seen.fused) == [0, 1, 1]
    assert seen.written == [0]  # a few rows, for the embedding


def test_gpt2_writes_out_no_direction_of_a_matrix(seen):
    transformers = pytest.importorskip("transformers")
    torch.manual_seed(0)
    config = transformers.GPT2Config(
        vocab_size=31, n_embd=16, n_layer=2, n_head=2, n_positions=8,
        resid_pdrop=0.0, embd_pdrop=0.0, attn_pdrop=0.0,
    )  # fmt: skip
    model = transformers.GPT2LMHeadModel(config)
    ids = torch.randint(31, (2, 8), generator=GENERATOR)
    params = list(model.parameters())

    def closure():
        return F.cross_entropy(model(input_ids=ids).logits.flatten(0, 1), ids.flatten())

    directions = zo.Directions(1, 2, 3)
    found = zo.differences(closure, params, directions, 1e-3, strict=True)[1]
    with torch.no_grad():
        zs = [zo.sample(directions, i, p.shape).double() for i, p in enumerate(params)]
        start = [p.detach().double().clone() for p in params]
        model.double()
        base, expected = closure(), []
        for k in range(3):
            for p, value, z in zip(params, start, zs, strict=True):
                p.copy_(value + 1e-3 * z[k])
            expected.append(closure() - base)
    assert relative_error(found, torch.stack(expected)) < 1e-4
    matrices = {i for i, p in enumerate(params) if p.dim() == 2 and i > 1}
    assert matrices == {each[0] for each in seen.fused} - {0}
    assert not matrices & set(seen.written)
