"""All properties, and what an optimizer makes of them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from zo_triton.testing import (
    ambient,
    estimates,
    hooks,
    interrupts,
    precision,
    restoring,
    streams,
    surroundings,
)
from zo_triton.testing.errors import ConformanceError, NotApplicable
from zo_triton.testing.subject import DEFAULT, Factory, Setting

Property = Callable[[Factory, Setting], None]
"""Raises :class:`ConformanceError` if it does not hold, :class:`NotApplicable` if it can't be asked."""

PROPERTIES: tuple[Callable[..., None], ...] = (
    restoring.weights_are_restored,
    restoring.perturbations_do_not_accumulate,
    restoring.low_precision_weights_are_restored,
    estimates.update_follows_the_evaluations,
    estimates.update_descends,
    estimates.slopes_are_divided_by_eps,
    estimates.baseline_is_kept,
    streams.tensors_get_different_noise,
    streams.directions_differ,
    streams.steps_draw_fresh_noise,
    streams.seeds_do_not_collide,
    streams.seed_zero_is_a_seed,
    streams.runs_repeat,
    precision.low_precision_perturbations_survive,
    precision.low_precision_updates_survive,
    surroundings.devices_draw_the_same_noise,
    surroundings.threads_do_not_matter,
    surroundings.variants_walk_the_same_directions,
    surroundings.global_generators_are_left_alone,
    surroundings.steps_are_silent,
    ambient.ambient_settings_do_not_matter,
    hooks.hooks_are_honoured,
    interrupts.interrupts_leave_a_step_whole,
)
"""Every property, for ``pytest.mark.parametrize``: each is called with a factory and, if wanted, a setting."""

PASSED, FAILED, NOT_APPLICABLE = "passed", "failed", "not applicable"


@dataclass(frozen=True)
class Row:
    """What came of one property.

    Attributes:
        property: Its function's name.
        outcome: ``passed``, ``failed`` or ``not applicable``.
        reason: Why, where it did not pass; else empty.
    """

    property: str
    outcome: str
    reason: str = ""


@dataclass(frozen=True)
class Report:
    """The outcome of every property; as text, a line each.

    Attributes:
        rows: In the order of :data:`PROPERTIES`.
    """

    rows: tuple[Row, ...]

    @property
    def passed(self) -> bool:
        """Whether nothing failed."""
        return not self.failures

    @property
    def failures(self) -> tuple[Row, ...]:
        """The rows of the properties that do not hold."""
        return tuple(row for row in self.rows if row.outcome == FAILED)

    def raise_on_failure(self) -> None:
        """Raises :class:`ConformanceError` with the reasons of all failures, if there are any."""
        if self.failures:
            reasons = "\n".join(f"{row.property}: {row.reason}" for row in self.failures)
            raise ConformanceError(
                f"{len(self.failures)} of {len(self.rows)} properties do not hold",
                f"\n{reasons}",
                "See each reason",
            )

    def __str__(self) -> str:
        width = max(len(row.property) for row in self.rows)
        return "\n".join(
            f"{row.property:{width}}  {row.outcome}{': ' * bool(row.reason)}{row.reason}" for row in self.rows
        )


def check_all(factory: Factory, setting: Setting = DEFAULT) -> Report:
    """Asks every property of an optimizer.

    Args:
        factory: From (parameters, lr, ε, seed) to an optimizer with ``step(closure)``.
        setting: ε, the learning rate, devices, contexts and variants.

    Returns:
        A row a property. Errors other than :class:`ConformanceError` are the optimizer's own and are passed on.

    Example:
        >>> import zo_triton as zo
        >>> report = zo.testing.check_all(zo.testing.zosgd)
        >>> report.passed
        True
    """
    return Report(tuple(_row(each, factory, setting) for each in PROPERTIES))


def _row(check: Callable[..., None], factory: Factory, setting: Setting) -> Row:
    name = check.__name__
    try:
        check(factory, setting)
    except ConformanceError as error:
        return Row(name, FAILED, str(error))
    except NotApplicable as error:
        return Row(name, NOT_APPLICABLE, str(error))
    return Row(name, PASSED)
