"""A conformance suite for zeroth-order optimizers, anybody's: each known defect is a property that rules it out.

An optimizer is given as a factory from (parameters, lr, ε, seed) to an object with ``step(closure)``. The suite's
closure records the weights at each evaluation, so that perturbations are seen from outside as differences.

    report = zo.testing.check_all(factory)

    @pytest.mark.parametrize("check", zo.testing.PROPERTIES)
    def test_my_optimizer(check):
        check(factory)
"""

from zo_triton.testing.adapters import estimated, fused_trainer, zosgd, zosgd_black_box
from zo_triton.testing.ambient import ambient_settings_do_not_matter
from zo_triton.testing.errors import ConformanceError, NotApplicable
from zo_triton.testing.estimates import (
    baseline_is_kept,
    slopes_are_divided_by_eps,
    update_descends,
    update_follows_the_evaluations,
)
from zo_triton.testing.hooks import hooks_are_honoured
from zo_triton.testing.interrupts import interrupts_leave_a_step_whole
from zo_triton.testing.precision import low_precision_perturbations_survive, low_precision_updates_survive
from zo_triton.testing.problem import Closure, Problem
from zo_triton.testing.report import PROPERTIES, Report, Row, check_all
from zo_triton.testing.restoring import (
    low_precision_weights_are_restored,
    perturbations_do_not_accumulate,
    weights_are_restored,
)
from zo_triton.testing.streams import (
    directions_differ,
    runs_repeat,
    seed_zero_is_a_seed,
    seeds_do_not_collide,
    steps_draw_fresh_noise,
    tensors_get_different_noise,
)
from zo_triton.testing.subject import Factory, Optimizer, Setting
from zo_triton.testing.surroundings import (
    devices_draw_the_same_noise,
    global_generators_are_left_alone,
    steps_are_silent,
    threads_do_not_matter,
    variants_walk_the_same_directions,
)

__all__ = [
    "PROPERTIES",
    "Closure",
    "ConformanceError",
    "Factory",
    "NotApplicable",
    "Optimizer",
    "Problem",
    "Report",
    "Row",
    "Setting",
    "ambient_settings_do_not_matter",
    "baseline_is_kept",
    "check_all",
    "devices_draw_the_same_noise",
    "directions_differ",
    "estimated",
    "fused_trainer",
    "global_generators_are_left_alone",
    "hooks_are_honoured",
    "interrupts_leave_a_step_whole",
    "low_precision_perturbations_survive",
    "low_precision_updates_survive",
    "low_precision_weights_are_restored",
    "perturbations_do_not_accumulate",
    "runs_repeat",
    "seed_zero_is_a_seed",
    "seeds_do_not_collide",
    "slopes_are_divided_by_eps",
    "steps_are_silent",
    "steps_draw_fresh_noise",
    "tensors_get_different_noise",
    "threads_do_not_matter",
    "update_descends",
    "update_follows_the_evaluations",
    "variants_walk_the_same_directions",
    "weights_are_restored",
    "zosgd",
    "zosgd_black_box",
]
