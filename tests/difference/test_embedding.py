"""Of a large trained table only the rows that a batch looks up are drawn, and they are those of the whole."""

import pytest
import torch
import torch.nn.functional as F
from difference_oracle import expected_differences, relative_error
from torch.utils._python_dispatch import TorchDispatchMode

import zo_triton as zo
from zo_triton import cpu
from zo_triton.difference import differences

TOKENS = torch.tensor([[12, 0, 5, 5], [6, 9, 0, 12]])
# With more look-ups than rows a small table is drawn whole.
BATCHES = pytest.mark.parametrize("tokens", [TOKENS, TOKENS.repeat(2, 1)], ids=["few tokens", "many tokens"])


def _table(rows=13, cols=6):
    return torch.randn(rows, cols, generator=torch.Generator().manual_seed(3))


@BATCHES
@pytest.mark.parametrize("sides", [1, 2])
@pytest.mark.parametrize("compute_dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize(
    ("distribution", "rank"), [("rademacher", None), ("gaussian", None), ("sphere", None), ("gaussian", 2)]
)
def test_the_rows_are_those_of_the_whole_table(distribution, rank, compute_dtype, sides, tokens):
    table, directions = _table(), zo.Directions(1, 2, 5, distribution, rank=rank)

    def measured(lookup):
        return differences(lookup, [table], directions, 1e-3, sides, compute_dtype, strict=True)[1]

    found = measured(lambda: F.embedding(tokens, table))
    # A table computed from the parameter is no parameter: its difference is that of every row.
    assert torch.equal(found, measured(lambda: F.embedding(tokens, table * 1)))


@BATCHES
@pytest.mark.parametrize(
    "lookup",
    [
        lambda tokens, table: F.embedding(tokens, table, padding_idx=0),
        lambda tokens, table: F.embedding(tokens.int(), table),
        lambda tokens, table: F.embedding(tokens, weight=table.detach()),
        lambda tokens, table: torch.embedding(table, tokens),
        lambda tokens, table: F.embedding(tokens[0, 0], table),
        lambda tokens, table: F.embedding(tokens[:, ::2], table),
        lambda tokens, table: F.embedding(tokens, table) @ table.T,
        lambda tokens, table: F.linear(F.embedding(tokens, table), table),
        lambda tokens, table: F.embedding(tokens, table) + table[:4],
        lambda tokens, table: table[tokens],
        lambda tokens, table: table[tokens - 13],
        lambda tokens, table: table[tokens.int()[0, 0]],
        lambda tokens, table: (table * 2)[tokens],
        lambda tokens, table: table.T[tokens % 6],
        lambda tokens, table: table[0][tokens % 6],
        lambda tokens, table: table[torch.arange(13) > 5],
        lambda tokens, table: table.index_select(0, tokens.flatten()),
        lambda tokens, table: torch.index_select(table, dim=-2, index=tokens[0]),
        lambda tokens, table: table.index_select(1, tokens[0] % 6),
    ],
    ids=[
        "padding", "int32", "alias", "torch.embedding", "a number", "strided", "tied by product",
        "tied by linear", "beside indexing", "index", "negative index", "index of a number", "computed table",
        "transposed table", "vector", "mask", "index_select", "index_select by name", "index_select of columns",
    ],
)  # fmt: skip
def test_every_way_to_look_up_matches_the_oracle(lookup, tokens):
    table, directions = _table(), zo.Directions(1, 2, 3, "gaussian")
    _, found = differences(lambda: lookup(tokens, table), [table], directions, 1e-3, 2, strict=True)
    expected = expected_differences(lambda weight: lookup(tokens, weight), [table], directions, 1e-3, 2)
    assert relative_error(found, expected) < 1e-5


def test_an_empty_batch_of_tokens():
    table = _table()
    _, found = differences(lambda: F.embedding(TOKENS[:0], table), [table], zo.Directions(0, 0, 2), 1e-3)
    assert found.shape == (2, 0, 4, 6)


BAGS = {
    "empty bags": ([0, 3, 3, 5, 5], False),
    "the last one ends": ([0, 0, 2, 5], True),
    "one bag": ([0], False),
}


@pytest.mark.filterwarnings("ignore:zo_triton has no difference rule for .*embedding_bag")  # of the maximum
@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize("name", BAGS)
def test_bags_may_be_empty(name, reduce):
    offsets, ends = BAGS[name]
    table, directions, tokens = _table(), zo.Directions(1, 2, 3, "gaussian"), TOKENS.flatten()[:5]

    def bags(table):
        return F.embedding_bag(tokens, table, torch.tensor(offsets), mode=reduce, include_last_offset=ends)

    value, found = differences(lambda: bags(table), [table], directions, 1e-3, 2, strict=reduce != "max")
    torch.testing.assert_close(value, bags(table))
    assert relative_error(found, expected_differences(bags, [table], directions, 1e-3, 2)) < 1e-5


@pytest.mark.parametrize("reduce", ["sum", "mean", "max"])
@pytest.mark.parametrize(
    ("offsets", "match"),
    [
        ([0, 3, 1], r"offsets that descend, \[0, 3, 1\].*one behind the other"),
        ([0, 5, 2], "offsets that descend"),
        ([], "no offsets, so there is no bag.*leave empty batches out"),
        ([0, 3], r"offsets that end at 3, but 4 indices: .*pass input\[:3\]"),
    ],
)
def test_offsets_that_torch_reads_one_way_and_another_are_refused(offsets, match, reduce):
    table, bags = _table(), torch.tensor(offsets, dtype=torch.int64)
    with pytest.raises(ValueError, match=match):
        differences(
            lambda: F.embedding_bag(
                TOKENS[0], table, bags, mode=reduce, include_last_offset=offsets == [0, 3]
            ),
            [table],
            zo.Directions(0, 0, 2),
            1e-3,
        )


class _Largest(TorchDispatchMode):
    """The most elements of any tensor that an operation gives back."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for each in result if isinstance(result, (tuple, list)) else (result,):
            if isinstance(each, torch.Tensor):
                self.elements = max(self.elements, each.numel())
        return result


@pytest.mark.parametrize(
    ("look_up", "rank"),
    [
        (F.embedding, None),
        (F.embedding, 4),
        (lambda tokens, table: table[tokens], None),
        (lambda tokens, table: table.index_select(0, tokens.flatten()), None),
    ],
    ids=["embedding", "low rank", "index", "index_select"],
)
def test_a_large_table_is_never_drawn_whole(look_up, rank, monkeypatch):
    table, drawn = torch.zeros(200_000, 64), []
    tokens = torch.arange(32).reshape(4, 8) * 6007
    whole = cpu.sample

    def spy(out, *rest):
        drawn.append(tuple(out.shape))
        whole(out, *rest)

    monkeypatch.setattr(cpu, "sample", spy)
    with _Largest() as largest:
        differences(lambda: look_up(tokens, table), [table], zo.Directions(0, 0, 8, rank=rank), 1e-3)
    assert drawn == [(8, 32, 64)]
    assert largest.elements == 8 * 32 * 64
