"""Each released defect is caught by the property that is there for it, and by its name; clean code has them all."""

import planted
import pytest
import unruly

from zo_triton import testing

DEVICES = testing.Setting(contexts={"another device": planted.AnotherDevice})
CHUNKS = testing.Setting(variants={"chunk 1": planted.PerChunkOfOne})

DEFECTS = {
    planted.AliasedStateDict: (testing.weights_are_restored, "weights are not restored"),
    planted.AccumulatingDirections: (testing.perturbations_do_not_accumulate, "perturbations add up"),
    planted.AddingBack: (testing.low_precision_weights_are_restored, "weights in bfloat16 drift"),
    planted.AnotherStream: (testing.update_follows_the_evaluations, "update replays another noise"),
    planted.AnotherStreamInOneLayer: (testing.update_follows_the_evaluations, "in parameter 2"),
    planted.SameForEveryLayer: (testing.tensors_get_different_noise, "several layers get the same noise"),
    planted.SameForEveryDirection: (testing.directions_differ, "directions of a step are the same"),
    planted.CollidingSeeds: (testing.seeds_do_not_collide, r"seeds collide: .* = \(16, 1\) and \(17, 0\) walk"),
    planted.ZeroIsNoSeed: (testing.seed_zero_is_a_seed, "two runs with seed 0"),
    planted.ZeroIsTheDefault: (testing.seed_zero_is_a_seed, "seed 0 walks the directions of seed 42"),
    planted.SameEveryStep: (testing.steps_draw_fresh_noise, "first steps 0 and 1"),
    planted.SameEveryEpoch: (testing.steps_draw_fresh_noise, "first steps 0 and 16"),
    planted.TimesEps: (testing.slopes_are_divided_by_eps, "multiplied by ε instead of divided"),
    planted.WithoutEps: (testing.slopes_are_divided_by_eps, "lacks its 1/ε"),
    planted.OverwrittenBaseline: (testing.baseline_is_kept, "baseline is overwritten"),
    planted.SwallowedPerturbation: (
        testing.low_precision_perturbations_survive, "bfloat16 weights swallow the perturbation",
    ),
    planted.SwallowedUpdate: (testing.low_precision_updates_survive, "bfloat16 weights swallow the update"),
    planted.DrawsOnTheDevice: (testing.devices_draw_the_same_noise, "cpu and another device walk directions"),
    planted.PerThread: (testing.threads_do_not_matter, "depends on the number of threads"),
    planted.PerChunk: (testing.variants_walk_the_same_directions, "the optimizer and chunk 1 walk"),
    planted.SeedsTheGlobalGenerator: (testing.global_generators_are_left_alone, "changed the state of torch"),
    planted.DrawsFromTheGlobalGenerator: (testing.runs_repeat, "a run does not repeat"),
    planted.Printing: (testing.steps_are_silent, "wrote 12 lines, the first of them 'loss "),
    planted.Debugging: (testing.steps_are_silent, "stops in a debugger"),
    planted.Ascending: (testing.update_descends, "updates do not descend"),
    planted.DrawsInTheDefaultDtype: (testing.ambient_settings_do_not_matter, "under default dtype float64"),
    planted.PassesTheModelBy: (testing.hooks_are_honoured, "with a forward hook on a layer"),
    unruly.NotFiniteWithHooks: (
        testing.hooks_are_honoured, "with a forward hook on a layer, 1200 of 1200 are NaN or infinite",
    ),
    unruly.TurnsInterruptsIntoErrors: (
        testing.interrupts_leave_a_step_whole, "came out as RuntimeError: stopped.* Let KeyboardInterrupt pass",
    ),
    unruly.ExitsOnInterrupts: (testing.interrupts_leave_a_step_whole, "came out as SystemExit: stopped"),
    planted.HalfDone: (testing.interrupts_leave_a_step_whole, "neither as before the step nor as after it"),
    planted.SwallowsInterrupts: (testing.interrupts_leave_a_step_whole, "was lost"),
}  # fmt: skip

ALONE = (
    planted.SameForEveryLayer, planted.CollidingSeeds, planted.WithoutEps, planted.OverwrittenBaseline,
    planted.SwallowedUpdate, planted.DrawsInTheDefaultDtype, unruly.NotFiniteWithHooks,
    unruly.TurnsInterruptsIntoErrors, planted.HalfDone,
)  # fmt: skip
"""Of the defects that have no second one in their train, one a file of properties."""


def setting_of(defect):
    return {planted.DrawsOnTheDevice: DEVICES, planted.PerChunk: CHUNKS}.get(defect, testing.Setting())


def test_clean_code_has_every_property():
    variants = {"again": planted.Clean}
    setting = testing.Setting(contexts=DEVICES.contexts, variants=variants, devices=("cpu",))
    report = testing.check_all(planted.Clean, setting)
    assert {row.outcome for row in report.rows} == {"passed"}, str(report)


@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.__name__)
def test_a_defect_is_caught_by_its_property(defect):
    check, words = DEFECTS[defect]
    with pytest.raises(testing.ConformanceError, match=words):
        check(defect, setting_of(defect))


@pytest.mark.parametrize("defect", ALONE, ids=lambda defect: defect.__name__)
def test_only_its_property_catches_it(defect):
    report = testing.check_all(defect, setting_of(defect))
    assert [row.property for row in report.failures] == [DEFECTS[defect][0].__name__], str(report)


def test_every_property_catches_something():
    assert {check for check, _ in DEFECTS.values()} == set(testing.PROPERTIES)


def test_what_replays_another_stream_does_not_descend_either():
    with pytest.raises(testing.ConformanceError, match="updates do not descend"):
        testing.update_descends(planted.AnotherStream)


def test_no_property_lets_weights_pass_that_are_not_finite():
    variants = {"again": unruly.NotFinite}
    report = testing.check_all(
        unruly.NotFinite, testing.Setting(contexts=DEVICES.contexts, variants=variants)
    )
    assert {row.outcome for row in report.rows} == {"failed"}, str(report)
    assert all("NaN or infinite, none should be" in row.reason for row in report.rows), str(report)


@pytest.mark.parametrize(
    "check", [testing.weights_are_restored, testing.directions_differ, testing.steps_are_silent]
)
def test_weights_are_finite_at_every_evaluation(check):
    with pytest.raises(testing.ConformanceError, match="at the evaluations of step 0, 1200 of 6000 are NaN"):
        check(unruly.PerturbsOutOfReach)
