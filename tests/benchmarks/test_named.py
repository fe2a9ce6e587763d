import pytest

from benchmarks.named import Named


def test_an_unknown_name_is_answered_with_the_known_ones():
    table = Named("colour", {"red": 1, "green": 2})
    assert table["green"] == 2
    assert table.get("blue") is None
    with pytest.raises(ValueError, match=r"unknown colour 'blue'; choose one of \('red', 'green'\)"):
        table["blue"]
    assert list(table) == ["red", "green"]
