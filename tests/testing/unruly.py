"""Loops that leave weights which are not finite, refuse hooks, or tell of an interrupt in their own way."""

import planted
import torch

HOOKS = "_forward_hooks", "_forward_pre_hooks", "forward"


def has_hooks(model, kinds=HOOKS):
    """Whether a module has hooks, or a forward of its own."""
    return any(vars(module).get(kind) for module in model.modules() for kind in kinds)


class NotFiniteWithHooks(planted.Clean):
    """A step on a model with hooks, or a forward of its own, ends in NaN."""

    def step(self, closure):
        loss = super().step(closure)
        if has_hooks(closure.problem.model):
            with torch.no_grad():
                for param in self.params:
                    param.fill_(float("nan"))
        return loss


class NotFinite(planted.Clean):
    """Updates are divided by nothing."""

    def update(self, slopes):
        for param in self.params:
            param.fill_(float("nan"))


class PerturbsOutOfReach(planted.Clean):
    """The second direction is evaluated where no weights are."""

    def perturb(self, saved, direction):
        for param in self.params:
            param.fill_(float("inf")) if direction == 1 else param.add_(self.eps)

    def slope(self, loss, baseline):
        return 1.0


class RefusesHooks(planted.Clean):
    """Trains by the model's weights alone, and says so where that is not all."""

    refused = HOOKS

    def step(self, closure):
        if has_hooks(closure.problem.model, self.refused):
            raise ValueError("a module has hooks")
        return super().step(closure)


class RefusesPreHooks(RefusesHooks):
    """The others it honours."""

    refused = HOOKS[1:2]


class TurnsInterruptsIntoErrors(planted.Clean):
    """Tells Ctrl-C as an error of its own."""

    error = RuntimeError

    def step(self, closure):
        try:
            return super().step(closure)
        except KeyboardInterrupt:
            raise self.error("stopped") from None


class ExitsOnInterrupts(TurnsInterruptsIntoErrors):
    error = SystemExit
