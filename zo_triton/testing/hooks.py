"""A model's hooks have their say in every step."""

from __future__ import annotations

from collections.abc import Callable
from operator import methodcaller
from typing import Any

from torch import Tensor, nn

from zo_triton.testing.errors import ConformanceError, NotApplicable
from zo_triton.testing.observe import build, check_finite, global_seeds
from zo_triton.testing.problem import Closure, flat, make_network
from zo_triton.testing.subject import DEFAULT, Factory, Setting

_FACTOR = -2.0
"""Not positive, so that it changes the order of the losses too."""

_ALLOWED = 0.05
"""Of an update's length: rounding, where a hooked model takes another way through the arithmetic."""


class _Scaling(nn.Module):
    """Does openly what the hooks do: multiplies a layer's inputs and outputs."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer
        self.before = self.after = 1.0

    def set(self, factor: str) -> None:
        """From now on that factor is the hooks'."""
        setattr(self, factor, _FACTOR)

    def forward(self, x: Tensor) -> Tensor:
        """The layer's output between two factors."""
        return self.after * self.layer(self.before * x)


def _forward_hook(layer: nn.Module) -> None:
    layer.register_forward_hook(lambda module, inputs, output: _FACTOR * output)


def _forward_pre_hook(layer: nn.Module) -> None:
    layer.register_forward_pre_hook(lambda module, inputs: (_FACTOR * inputs[0],))


def _replaced_forward(layer: nn.Module) -> None:
    plain = layer.forward
    layer.forward = lambda x: _FACTOR * plain(x)


_HOOKS: dict[str, tuple[Callable[[nn.Module], None], str]] = {
    "a forward hook": (_forward_hook, "after"),
    "a forward pre-hook": (_forward_pre_hook, "before"),
    "a replaced forward": (_replaced_forward, "after"),
}
"""By name: how it is put on a layer, and which of the factors does the same."""


def hooks_are_honoured(factory: Factory, setting: Setting = DEFAULT) -> None:
    """A step goes where it goes on a model that does by itself what a hook does, even one put on after a step.

    Catches trainers that multiply by a model's weights themselves and pass its modules by, or that decide once and
    for all that nothing stands in the way of that.

    An optimizer may refuse a hooked model by a TypeError or ValueError.

    Args:
        factory: Makes the optimizer under test.
        setting: Supplies ε and the learning rate.

    Raises:
        ConformanceError: The hook is passed by, or leaves weights that are not finite.
        NotApplicable: The weights do not move, or every hook is refused.
    """
    plain = _second_update(factory, setting, lambda layer: None, "without hooks")
    if not plain.norm() > 0:
        raise NotApplicable("the weights did not move")
    refused = []
    for name, (put, factor) in _HOOKS.items():
        try:
            found = _second_update(factory, setting, put, f"with {name} on a layer")
            _expect(_distance(found, plain) >= _ALLOWED, name, _distance(found, plain), "that without it")
            openly = _second_update(
                factory,
                setting,
                methodcaller("set", factor),
                f"on a model that does what {name} does",
                _Scaling,
            )
        except (TypeError, ValueError) as error:
            refused.append(f"{name}: {error}")
            continue
        distance = _distance(found, openly)
        _expect(distance <= _ALLOWED, name, distance, "that of a model which does the same by itself")
    if len(refused) == len(_HOOKS):
        raise NotApplicable(f"the optimizer refuses {'; '.join(refused)}")


def _expect(holds: bool, name: str, distance: float, other: str) -> None:
    if not holds:
        raise ConformanceError(
            "hooks are passed by",
            f"with {name} on a layer, the update is {distance:.2g} of its length away from {other}; up to "
            f"{_ALLOWED:g} is rounding",
            "Evaluate the loss by calling the model, or look at each step whether a module has hooks or a "
            "forward of its own, and call it then",
        )


def _distance(one: Tensor, other: Tensor) -> float:
    """Between two updates, over the length of the longer one; 0 where both are nothing."""
    apart = float((one - other).norm())
    return apart / max(float(one.norm()), float(other.norm())) if apart else 0.0


def _second_update(
    factory: Factory,
    setting: Setting,
    change: Callable[[Any], None],
    when: str,
    box: Callable[[nn.Module], nn.Module] = lambda layer: layer,
) -> Tensor:
    """Of a network whose first layer, put into a box, is changed after the first step; float64 [d]."""
    problem = make_network()
    assert isinstance(problem.model, nn.Sequential)
    problem.model[0] = box(problem.model[0])
    optimizer = build(factory, problem.params, setting.lr, setting.eps, 1)
    with global_seeds(1):
        optimizer.step(Closure(problem))
        change(problem.model[0])
        before = flat(problem.params)
        optimizer.step(Closure(problem))
    return check_finite(flat(problem.params), when) - before
