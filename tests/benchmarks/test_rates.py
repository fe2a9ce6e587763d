"""The advice on learning rates: the committed page is what its table makes of it, and the table is complete."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

import zo_triton as zo
from benchmarks import __main__ as cli
from benchmarks.race.networks import count_parameters
from benchmarks.rates import page
from benchmarks.rates.networks import NETWORKS
from benchmarks.rates.run import BATCH, DIRECTIONS, MOMENTA, measure

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


SLOW = {("LeNet-5", "weights", 0.0), ("LeNet-5", "weights", 0.9), ("tiny GPT", "weights", 0.9)}
"""Whose loss falls too, but in so many steps not to half."""


@pytest.mark.parametrize("row", ROWS, ids=lambda row: f"{row.network}-{row.way}-{row.momentum:g}")
def test_half_the_advised_rate_converges_and_four_times_the_limit_diverges(row):
    assert row.falls
    assert row.steps == NETWORKS[row.network].steps or row.earlier
    assert row.converges or (row.network, row.way, row.momentum) in SLOW
    assert row.advised <= row.limit / 2 * 1.01  # of three digits
    assert row.limit <= row.start
    assert row.diverges or row.way == "activations"


class Run:
    """A softmax regression of the digits along activations, and its loss over all of them."""

    def __init__(self):
        network = NETWORKS["softmax regression"]
        self.x, self.y = network.data()
        self.model = network.make(0)
        self.optimizer = zo.ZOSGD(
            self.model.parameters(), 1.0, DIRECTIONS, momentum=0.0, perturb="activations", seed=1
        )
        self.generator = torch.Generator().manual_seed(1)

    def loss(self, chosen=slice(None)):
        return F.cross_entropy(self.model(self.x[chosen]), self.y[chosen])

    def limit(self):
        return 2 / zo.nzk.probe_lr(self.model, self.x[:64], 1.0, DIRECTIONS).largest

    def train(self, lr, steps):
        """The loss after each step."""
        self.optimizer.param_groups[0]["lr"] = lr
        losses = []
        for _ in range(steps):
            batch = torch.randint(len(self.x), (BATCH,), generator=self.generator)
            self.optimizer.step(lambda batch=batch: self.loss(batch))
            losses.append(self.loss().item())
        return losses


SOFTMAX = next(row for row in ROWS if (row.network, row.way) == ("softmax regression", "activations"))


def test_a_softmax_regression_settles_where_the_loss_is_flatter():
    run = Run()
    first = run.loss().item()
    losses = run.train(58 * SOFTMAX.start, 200)
    assert max(losses) > 3 * first
    assert losses[-1] < 0.4 * first


def test_it_leaves_where_half_the_advised_rate_has_led_at_four_times_the_limit_there():
    run = Run()
    there = run.train(SOFTMAX.advised / 2, SOFTMAX.steps)[-1]
    limit = run.limit()
    assert f"{limit:.1f}" == "2.2"
    assert max(run.train(4 * limit, 100)) > 10 * there


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


def test_a_row_of_an_earlier_rule_says_so_until_it_is_measured_anew():
    old = replace(ROWS[0], earlier=True)
    assert page.read(page.told([old])) == [old]
    assert "Rows with † were measured when" in page.told([old])
    assert page.merged([old], [ROWS[0]]) == [ROWS[0]]
    assert "†" not in page.told([ROWS[0]])
