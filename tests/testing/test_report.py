import planted
import pytest
import torch

from zo_triton import testing


class Refusing(planted.Clean):
    """Says what it can't do."""

    def __init__(self, params, lr, eps, seed):
        super().__init__(params, lr, eps, seed)
        if any(param.dtype != torch.float32 for param in self.params):
            raise TypeError("only float32 is trained")
        if lr == 0:
            raise ValueError("lr must be positive")


def outcomes(report):
    return {row.property: (row.outcome, row.reason) for row in report.rows}


def test_a_refusal_is_not_a_failure():
    found = outcomes(testing.check_all(Refusing))
    assert "failed" not in {outcome for outcome, _ in found.values()}
    outcome, reason = found["low_precision_updates_survive"]
    assert outcome == "not applicable"
    assert reason.startswith("the optimizer refuses lr=0.000")
    assert reason.endswith(", eps=0.0078125, seed=1: only float32 is trained")
    assert found["weights_are_restored"][1].endswith("lr must be positive")


def test_the_report_tells_defect_figures_and_remedy():
    report = testing.check_all(planted.SameForEveryLayer)
    (row,) = report.failures
    assert not report.passed
    assert row.reason.startswith(
        "several layers get the same noise: the noise of parameters 0 and 1 has a cosine of "
    )
    assert "Let the tensor's place in the model enter" in row.reason
    assert f"tensors_get_different_noise          failed: {row.reason}" in str(report).splitlines()
    with pytest.raises(
        testing.ConformanceError, match=r"1 of 20 properties do not hold(.|\n)*several layers"
    ):
        report.raise_on_failure()


def test_clean_reports_raise_nothing():
    assert testing.Report((testing.Row("a_property", "passed"),)).raise_on_failure() is None


def test_an_optimizers_own_error_is_not_hidden():
    class Broken(planted.Clean):
        def slope(self, loss, baseline):
            raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        testing.check_all(Broken)


@pytest.mark.parametrize("name", ["eps", "lr"])
def test_settings_are_positive(name):
    with pytest.raises(ValueError, match=f"{name} must be positive and finite, got -1.0; 1e-3 suits most"):
        testing.Setting(**{name: -1.0})


def test_there_is_a_device():
    with pytest.raises(ValueError, match=r"devices must name at least one, got \(\)"):
        testing.Setting(devices=())


def test_the_suite_leaves_the_global_generators_alone():
    before = torch.get_rng_state()
    testing.check_all(planted.Clean)
    assert torch.equal(torch.get_rng_state(), before)


def test_pytest_skips_what_is_not_applicable(tmp_path):
    file = tmp_path / "test_mine.py"
    file.write_text(
        "import pytest, zo_triton as zo\n"
        "@pytest.mark.parametrize('check', zo.testing.PROPERTIES[:2])\n"
        "def test_mine(check):\n"
        "    check(zo.testing.zosgd)\n"
    )
    outcomes = []

    class Watching:
        def pytest_runtest_logreport(self, report):
            if report.when == "call":
                outcomes.append(report.outcome)

    pytest.main(["-q", "-p", "no:cacheprovider", str(file)], [Watching()])
    assert outcomes == ["passed", "skipped"]
