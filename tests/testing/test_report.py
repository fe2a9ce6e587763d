from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, nullcontext

import numpy as np
import planted
import pytest
import torch
import unruly

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
        testing.ConformanceError, match=r"1 of 23 properties do not hold(.|\n)*several layers"
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


def test_a_step_is_interrupted_somewhere():
    with pytest.raises(ValueError, match="interrupts must be at least 1, got 0; 20 lines are the default"):
        testing.Setting(interrupts=0)


@pytest.mark.parametrize("interrupts", [1.5, "a", None, True])
def test_lines_are_counted_by_an_integer(interrupts):
    with pytest.raises(TypeError, match=f"interrupts must be an integer, got {interrupts!r}; 20 lines are"):
        testing.Setting(interrupts=interrupts)
    testing.interrupts_leave_a_step_whole(planted.Clean, testing.Setting(interrupts=np.int64(1)))


def test_other_settings_have_a_type_too():
    with pytest.raises(TypeError, match="eps must be a number, got '1e-3'; 1e-3 suits most"):
        testing.Setting(eps="1e-3")
    with pytest.raises(TypeError, match=r"devices must be a tuple of names, got 'cpu'; pass \('cpu',\)"):
        testing.Setting(devices="cpu")


def test_interrupts_are_not_asked_for_where_no_signal_arrives():
    with ThreadPoolExecutor(1) as pool:
        asked = pool.submit(testing.interrupts_leave_a_step_whole, planted.Clean)
        with pytest.raises(testing.NotApplicable, match="the main thread alone"):
            asked.result()


class RefusingSettings(planted.Clean):
    """Would rather not be surrounded by anything."""

    def step(self, closure):
        if ambient_settings():
            raise RuntimeError("not here")
        return super().step(closure)


def ambient_settings():
    return (
        torch.get_default_dtype() != torch.float32
        or torch.get_default_device().type != "cpu"
        or torch.is_inference_mode_enabled()
        or torch.are_deterministic_algorithms_enabled()
        or torch.is_anomaly_enabled()
    )


class RefusingTheSecond(planted.Clean):
    """Counts its instances: the first, which is in no setting, is the last that steps."""

    made = 0

    def __init__(self, params, lr, eps, seed):
        super().__init__(params, lr, eps, seed)
        RefusingTheSecond.made += 1
        self.number = RefusingTheSecond.made

    def step(self, closure):
        if self.number > 1:
            raise RuntimeError("not again")
        return super().step(closure)


def test_a_setting_may_be_refused():
    testing.ambient_settings_do_not_matter(RefusingSettings)
    with pytest.raises(testing.NotApplicable, match="the optimizer refuses every setting"):
        testing.ambient_settings_do_not_matter(RefusingTheSecond)


@contextmanager
def chosen_by_the_program():
    """Settings that a program has made for itself."""
    torch.set_default_dtype(torch.float64)
    torch.set_default_device("cpu")
    torch.use_deterministic_algorithms(True, warn_only=True)
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        torch.use_deterministic_algorithms(False)


def settings_now():
    return (
        torch.get_default_dtype(),
        torch.empty(0).dtype,
        torch.get_default_device(),
        getattr(torch._GLOBAL_DEVICE_CONTEXT, "device_context", None) is None,
        torch.are_deterministic_algorithms_enabled(),
        torch.is_deterministic_algorithms_warn_only_enabled(),
    )


@pytest.mark.parametrize("surroundings", [nullcontext, chosen_by_the_program])
@pytest.mark.parametrize("factory", [planted.Clean, testing.zosgd])
def test_the_programs_own_settings_come_back(surroundings, factory):
    with surroundings():
        before = settings_now()
        testing.ambient_settings_do_not_matter(factory)
        assert settings_now() == before


def test_every_property_can_be_asked_under_the_programs_own_settings():
    with chosen_by_the_program():
        report = testing.check_all(planted.Clean)
    assert report.passed, str(report)


def test_refused_hooks_are_not_passed_by():
    with pytest.raises(
        testing.NotApplicable, match=r"refuses a forward hook: a module has hooks; a forward pre-"
    ):
        testing.hooks_are_honoured(unruly.RefusesHooks)
    testing.hooks_are_honoured(unruly.RefusesPreHooks)


def test_what_does_not_move_is_not_asked_for_settings_hooks_and_interrupts():
    class Still(planted.Clean):
        """Never updates."""

        def update(self, slopes):
            pass

    for check in (
        testing.ambient_settings_do_not_matter,
        testing.hooks_are_honoured,
        testing.interrupts_leave_a_step_whole,
    ):
        with pytest.raises(testing.NotApplicable, match="the weights did not move"):
            check(Still)
