"""OpenES as evosax offers it: mirrored Gaussian samples of full rank, centred ranks, Adam from optax, all jitted.

Source: Lange, "evosax: JAX-based Evolution Strategies" (2022); Salimans et al., "Evolution Strategies as a Scalable
Alternative to Reinforcement Learning" (2017).
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from benchmarks.contenders.contender import Contender, Method, Setting
from benchmarks.contenders.jax_network import from_jax, relu_layers, to_jax


class EvosaxOpenES(Contender):
    """One generation of 2K members on the batch a step; ReLU networks under cross-entropy.

    Args:
        model: ``nn.Sequential`` of Linear and ReLU.
        setting: All but its ε and decay count.
        sigma: Standard deviation of the population.

    Raises:
        ImportError: evosax is not installed.
        ValueError: It is another kind of model, or another loss.
    """

    def __init__(self, model: nn.Module, setting: Setting, sigma: float = 1e-2) -> None:
        import jax
        import optax
        from evosax.algorithms import Open_ES

        self.layers = relu_layers(model, setting.loss)
        self.evaluations_per_step = 2 * setting.directions
        start = to_jax(self.layers)
        self._jax = jax
        self._strategy = Open_ES(
            2 * setting.directions,
            start,
            optimizer=optax.adam(setting.lr),
            std_schedule=optax.constant_schedule(sigma),
        )
        self._key, key = jax.random.split(jax.random.PRNGKey(setting.seed % 2**32))
        self._params = self._strategy.default_params
        self._state = self._strategy.init(key, start, self._params)
        self._step: Any = jax.jit(self._generation)

    def step(self, x: Tensor, y: Tensor) -> float:
        """One generation; returns the mean of the 2K losses."""
        self._key, key = self._jax.random.split(self._key)
        self._state, loss = self._step(self._state, key, x.numpy(), y.numpy())
        return float(loss)

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Compiles the step ahead of time."""
        self._step = self._step.lower(self._state, self._key, x.numpy(), y.numpy()).compile()

    def write_weights(self) -> None:
        """Copies the distribution's mean into the model."""
        from_jax(self.layers, self._strategy.get_mean(self._state))

    def _generation(self, state: Any, key: Any, x: Any, y: Any) -> tuple[Any, Any]:
        import jax
        import optax

        def loss(weights: Any) -> Any:
            h = x
            for number, (w, v) in enumerate(weights):
                h = h @ w.T + v
                h = jax.nn.relu(h) if number + 1 < len(weights) else h
            return optax.softmax_cross_entropy_with_integer_labels(h, y).mean()

        first, second = jax.random.split(key)
        members, state = self._strategy.ask(first, state, self._params)
        losses = jax.vmap(loss)(members)
        state, _ = self._strategy.tell(second, members, losses, state, self._params)
        return state, losses.mean()


METHODS = (Method("evosax", "evosax OpenES", "zeroth", EvosaxOpenES, needs=("jax", "optax", "evosax")),)
