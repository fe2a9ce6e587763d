"""The advice on learning rates: the committed page is what its table makes of it, and the table is complete."""

from dataclasses import replace

import pytest

from benchmarks import __main__ as cli
from benchmarks.race.networks import count_parameters
from benchmarks.rates import page
from benchmarks.rates.networks import NETWORKS
from benchmarks.rates.run import FALLEN, MOMENTA, Run, measure

ROWS = page.read(page.PAGE.read_text(encoding="utf-8"))


def test_the_page_is_what_its_rows_make_of_it():
    assert page.told(ROWS) == page.PAGE.read_text(encoding="utf-8"), "run python -m benchmarks rates"


def test_every_network_stands_there_with_and_without_momentum():
    assert len({row.network for row in ROWS}) >= 10
    assert [(row.network, row.way, row.momentum) for row in ROWS] == [
        (network.name, way, b) for network in NETWORKS.values() for way in network.ways for b in MOMENTA
    ]
    assert {row.network: row.weights for row in ROWS} == {
        name: count_parameters(network.make(0)) for name, network in NETWORKS.items()
    }


def name_of(row):
    return f"{row.network}-{row.way}-{row.momentum:g}"


@pytest.mark.parametrize("row", ROWS, ids=name_of)
def test_half_the_advised_rate_converges_and_four_times_the_limit_diverges(row):
    assert row.steps == NETWORKS[row.network].steps
    assert row.advised <= row.limit / 2 * 1.01  # of three digits
    assert row.limit <= row.start
    assert row.converges
    assert row.calm * row.late <= FALLEN * row.first
    assert row.diverges


def test_growth_that_half_the_advised_rate_shows_too_is_noise():
    row = replace(ROWS[0], calm=0.9, highest=1.6)
    assert row.diverges
    assert not replace(row, highest=1.4).diverges
    assert not replace(row, calm=1.2).diverges


def test_a_softmax_regression_settles_where_the_loss_is_flatter():
    """Along activations and from the first weights, at 58 times the limit there."""
    run = Run(NETWORKS["softmax regression"], "activations", 0.0)
    row = next(row for row in ROWS if (row.network, row.way) == ("softmax regression", "activations"))
    first = run.loss()
    losses = list(run.losses(58 * row.start, 600))
    assert 3 * first < max(losses) < 10 * first
    assert max(losses[-20:]) < first / 2


@pytest.mark.parametrize("momentum", MOMENTA)
def test_a_row_measured_anew_says_the_same(momentum):
    network = NETWORKS["softmax regression"]
    row = measure(network, "weights", momentum)
    told = next(each for each in ROWS if (each.network, each.momentum) == (network.name, momentum))
    assert row.start == pytest.approx(told.start, rel=0.01)
    assert row.converges
    assert row.diverges


def test_one_network_by_name_writes_no_page(capsys, monkeypatch, tmp_path):
    row = ROWS[0]
    monkeypatch.setattr("benchmarks.rates.run.measure", lambda *told: row)
    monkeypatch.setattr(page, "PAGE", tmp_path / "page.md")
    assert cli.main(["rates", "linear regression"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert told[0].startswith(
        "1 of 2: linear regression, weights, momentum 0: advised 0.0311, at half of it loss"
    )
    assert len(told) == 2
    assert not page.PAGE.exists()
    page.PAGE.write_text(page.told(ROWS), encoding="utf-8")
    row = replace(row, network="tiny GPT", late=0.25)
    assert cli.main(["rates", "linear regression", "--update"]) == 0
    updated = page.read(page.PAGE.read_text(encoding="utf-8"))
    assert [each.late for each in updated if each not in ROWS] == [0.25]
    assert [each.network for each in updated] == [each.network for each in ROWS]
    assert cli.main(["rates", "quadratic"]) == 2
    assert "unknown network 'quadratic'; choose one of ('linear regression'" in capsys.readouterr().err


def test_a_loss_that_is_not_finite_is_told_as_one():
    row = replace(ROWS[0], highest=float("inf"))
    assert page.read(page.told([row])) == [row]
    assert "| ∞ × " in page.told([row])
    assert page.merged([row], [ROWS[0]]) == [ROWS[0]]
