"""A plain zeroth-order loop that has every property, and the released defects planted in it one by one.

Weights move in place and come back from a copy, as clean code does it; each defect changes one thing.
"""

import random
import signal
from contextlib import nullcontext

import numpy as np
import torch
import torch.nn.functional as F

SHARED = torch.Generator()


class HeldBack:
    """An interrupt waits until the block has ended."""

    def __enter__(self):
        self.came = False
        self.before = signal.signal(signal.SIGINT, self.note)

    def note(self, number, frame):
        self.came = True

    def __exit__(self, *error):
        signal.signal(signal.SIGINT, self.before)
        if self.came:
            signal.raise_signal(signal.SIGINT)


class Clean:
    """K one-sided differences; each direction's noise is drawn again from its address when it is needed."""

    directions = 4

    def __init__(self, params, lr, eps, seed):
        self.params, self.lr, self.eps, self.seed = list(params), lr, eps, seed
        self.masters = [param.detach().float().clone() for param in self.params]
        self.steps = 0

    def step(self, closure):
        with self.whole():
            return self.whole_step(closure)

    def whole(self):
        return HeldBack()

    @torch.no_grad()
    def whole_step(self, closure):
        saved = self.save()
        baseline, slopes = float(closure()), []
        for direction in range(self.directions):
            self.perturb(saved, direction)
            loss = float(closure())
            slopes.append(self.slope(loss, baseline))
            baseline = self.next_baseline(baseline, loss)
            self.restore(saved, direction)
        self.finish(saved)
        self.update(slopes)
        self.steps += 1
        return baseline

    def save(self):
        return [param.clone() for param in self.params]

    def perturb(self, saved, direction):
        for number, (param, old) in enumerate(zip(self.params, saved, strict=True)):
            noise = self.noise(direction, number, param.shape)
            param.copy_(self.stochastically(old.float() + self.eps * noise, param))

    def stochastically(self, value, like):
        """Rounds to one of the two neighbours, so that nothing is lost on average."""
        if like.dtype == torch.float32:
            return value
        spacing = torch.finfo(like.dtype).eps
        chance = torch.rand(value.shape, generator=SHARED.manual_seed(self.steps))
        return (value / spacing + chance).floor() * spacing

    def restore(self, saved, direction):
        for param, old in zip(self.params, saved, strict=True):
            param.copy_(old)

    def finish(self, saved):
        pass

    def slope(self, loss, baseline):
        return (loss - baseline) / self.eps

    def next_baseline(self, baseline, loss):
        return baseline

    def update(self, slopes):
        for number, (param, master) in enumerate(zip(self.params, self.masters, strict=True)):
            for direction, slope in enumerate(slopes):
                noise = self.update_noise(direction, number, param.shape)
                master.sub_(noise, alpha=self.lr * slope / self.directions)
            param.copy_(master)

    def update_noise(self, direction, number, shape):
        return self.noise(direction, number, shape)

    def noise(self, direction, number, shape):
        return self.draw(self.key(direction, number), shape)

    def key(self, direction, number):
        return (self.seed, self.steps, direction, number)

    def draw(self, key, shape):
        return torch.from_numpy(np.random.default_rng(key).standard_normal(tuple(shape), np.float32))


class AliasedStateDict(Clean):
    """``state_dict`` without a copy: its tensors are the live ones, and putting them back does nothing."""

    def save(self):
        return [param.detach() for param in self.params]

    def update(self, slopes):
        for master, param in zip(self.masters, self.params, strict=True):
            master.copy_(param)
        super().update(slopes)


class AccumulatingDirections(Clean):
    """Directions are restored from an alias, and only the end of the step puts the weights right."""

    def perturb(self, saved, direction):
        for number, param in enumerate(self.params):
            param.add_(self.noise(direction, number, param.shape), alpha=self.eps)

    def restore(self, saved, direction):
        pass

    def finish(self, saved):
        super().restore(saved, 0)


class AddingBack(Clean):
    """Restores by subtracting the noise: it rounds twice in low precision."""

    def save(self):
        return self.params

    def perturb(self, saved, direction):
        for number, param in enumerate(self.params):
            param.add_(self.noise(direction, number, param.shape), alpha=self.eps)

    def restore(self, saved, direction):
        for number, param in enumerate(self.params):
            param.add_(self.noise(direction, number, param.shape), alpha=-self.eps)

    def update(self, slopes):
        for number, param in enumerate(self.params):
            for direction, slope in enumerate(slopes):
                noise = self.noise(direction, number, param.shape)
                param.add_(noise, alpha=-self.lr * slope / self.directions)


class AnotherStream(Clean):
    """One draw more in the update: all noise after it is another."""

    def update_noise(self, direction, number, shape):
        return self.draw(self.key(direction, number), (2, *shape))[1]


class AnotherStreamInOneLayer(AnotherStream):
    """The same in the third tensor only."""

    def update_noise(self, direction, number, shape):
        update_noise = super().update_noise if number == 2 else self.noise
        return update_noise(direction, number, shape)


class SameForEveryLayer(Clean):
    """The generator is seeded again for every tensor."""

    def key(self, direction, number):
        return (self.seed, self.steps, direction)


class SameForEveryDirection(Clean):
    """The direction does not enter the seed."""

    def key(self, direction, number):
        return (self.seed, self.steps, number)


class CollidingSeeds(Clean):
    """Seed and step are added: (17, 0) and (16, 1) are the same."""

    def key(self, direction, number):
        return (self.seed + self.steps, direction, number)


class ZeroIsNoSeed(Clean):
    """``seed or …`` takes 0 for missing and draws one."""

    def __init__(self, params, lr, eps, seed):
        super().__init__(params, lr, eps, seed or random.getrandbits(31))


class ZeroIsTheDefault(Clean):
    """``seed or 42``."""

    def __init__(self, params, lr, eps, seed):
        super().__init__(params, lr, eps, seed or 42)


class SameEveryStep(Clean):
    """The generator starts again with each step."""

    def key(self, direction, number):
        return (self.seed, direction, number)


class SameEveryEpoch(Clean):
    """The number of the batch is taken for that of the step."""

    def key(self, direction, number):
        return (self.seed, self.steps % 16, direction, number)


class TimesEps(Clean):
    """The forward difference is multiplied by ε."""

    def slope(self, loss, baseline):
        return (loss - baseline) * self.eps


class WithoutEps(Clean):
    """The forward difference is not divided at all."""

    def slope(self, loss, baseline):
        return loss - baseline


class OverwrittenBaseline(Clean):
    """The loss of one direction becomes the baseline of the next."""

    def next_baseline(self, baseline, loss):
        return loss


class SwallowedPerturbation(Clean):
    """The perturbed weights are rounded to the nearest."""

    def stochastically(self, value, like):
        return value


class SwallowedUpdate(Clean):
    """Updates are added to the weights themselves."""

    def update(self, slopes):
        for number, param in enumerate(self.params):
            for direction, slope in enumerate(slopes):
                noise = self.noise(direction, number, param.shape)
                param.add_(noise, alpha=-self.lr * slope / self.directions)


class AnotherDevice:
    """A stand-in for a device: what is drawn while it is entered comes from another generator."""

    entered = False

    def __enter__(self):
        AnotherDevice.entered = True

    def __exit__(self, *error):
        AnotherDevice.entered = False


class DrawsOnTheDevice(Clean):
    """The device's own generator draws."""

    def draw(self, key, shape):
        return super().draw((*key, 1) if AnotherDevice.entered else key, shape)


class PerThread(Clean):
    """Every thread draws its share from a generator of its own."""

    def draw(self, key, shape):
        shares = np.array_split(np.empty(shape.numel()), torch.get_num_threads())
        drawn = [super(PerThread, self).draw((*key, i), share.shape) for i, share in enumerate(shares)]
        return torch.cat(drawn).view(shape)


class PerChunk(Clean):
    """Every chunk of directions starts the generator again."""

    chunk = 2

    def key(self, direction, number):
        return (self.seed, self.steps, direction // self.chunk, direction % self.chunk, number)


class PerChunkOfOne(PerChunk):
    chunk = 1


class SeedsTheGlobalGenerator(Clean):
    """``torch.manual_seed`` before each draw."""

    def draw(self, key, shape):
        torch.manual_seed(hash(key) % 2**63)
        return torch.randn(shape)


class DrawsFromTheGlobalGenerator(Clean):
    """Seeds are drawn from the global generator, whatever it holds."""

    def __init__(self, params, lr, eps, seed):
        super().__init__(params, lr, eps, torch.randint(2**31, ()).item() + seed)


class Printing(Clean):
    def slope(self, loss, baseline):
        print("loss", loss)  # noqa: T201
        return super().slope(loss, baseline)


class Debugging(Clean):
    def slope(self, loss, baseline):
        breakpoint()
        return super().slope(loss, baseline)


class Ascending(Clean):
    """A lost sign."""

    def slope(self, loss, baseline):
        return (baseline - loss) / self.eps


class HalfDone(Clean):
    """An interrupt ends the step wherever it is; a ``finally`` would only make it rarer."""

    def whole(self):
        return nullcontext()


class SwallowsInterrupts(Clean):
    """``except:`` around the step."""

    def step(self, closure):
        try:
            return super().step(closure)
        except:  # noqa: E722
            return None


class DrawsInTheDefaultDtype(Clean):
    """``torch.randn`` without a dtype."""

    def draw(self, key, shape):
        return torch.randn(shape, generator=torch.Generator().manual_seed(hash(key) % 2**63))


class PassesTheModelBy(Clean):
    """A two-layer network's own formula, with the weights alone."""

    def step(self, closure):
        problem = closure.problem

        def loss():
            first, bias, second, shift = self.params
            output = F.linear(F.linear(problem.x, first, bias).relu(), second, shift)
            return problem.loss(output, problem.y)

        return super().step(loss)
