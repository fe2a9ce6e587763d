"""Rank-1 evolution strategies the JAX way: one jitted function, vmapped over 2K members, weights by optax.

Source: "Evolution Strategies at the Hyperscale" (EGGROLL, 2025): the product by the shared weights is one large
GEMM, a member adds (x·b)aᵀ.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor, nn

from benchmarks.contenders.contender import Contender, Method, Setting
from benchmarks.contenders.jax_network import from_jax, relu_layers, to_jax


class EggrollJax(Contender):
    """Mirrored rank-1 Gaussian noise on a ReLU network, cross-entropy, plain SGD; trains a copy in JAX's arrays.

    Args:
        model: ``nn.Sequential`` of Linear and ReLU.
        setting: All but its ε and decay count.
        sigma: Size of the noise.

    Raises:
        ImportError: JAX or optax is not installed.
        ValueError: It is another kind of model, or another loss.
    """

    def __init__(self, model: nn.Module, setting: Setting, sigma: float = 1e-3) -> None:
        import jax
        import optax

        self.layers = relu_layers(model, setting.loss)
        self.evaluations_per_step = 2 * setting.directions
        self._jax, self._optimizer = jax, optax.sgd(setting.lr)
        self._weights = to_jax(self.layers)
        self._state = self._optimizer.init(self._weights)
        self._key = jax.random.PRNGKey(setting.seed % 2**32)
        self._step: Any = jax.jit(
            _make_step(self._optimizer, setting.directions, sigma), donate_argnums=(0, 1)
        )

    def step(self, x: Tensor, y: Tensor) -> float:
        """One update; returns the mean of the 2K losses."""
        self._key, key = self._jax.random.split(self._key)
        self._weights, self._state, loss = self._step(self._weights, self._state, key, x.numpy(), y.numpy())
        return float(loss)

    def prepare(self, x: Tensor, y: Tensor) -> None:
        """Compiles the step ahead of time."""
        self._step = self._step.lower(self._weights, self._state, self._key, x.numpy(), y.numpy()).compile()

    def write_weights(self) -> None:
        """Copies JAX's arrays into the model."""
        from_jax(self.layers, self._weights)


def _make_step(optimizer: Any, count: int, sigma: float) -> Any:
    import jax
    import jax.numpy as jnp
    import optax

    def member(noise: Any, side: Any, weights: Any, x: Any, y: Any) -> Any:
        step, h = side * sigma, x
        for number, ((w, v), (a, b, c)) in enumerate(zip(weights, noise, strict=True)):
            h = h @ w.T + v + step * ((h @ b)[:, None] * a + c)
            h = jax.nn.relu(h) if number + 1 < len(weights) else h
        return optax.softmax_cross_entropy_with_integer_labels(h, y).mean()

    def step(weights: Any, state: Any, key: Any, x: Any, y: Any) -> Any:
        keys = iter(jax.random.split(key, 3 * len(weights)))
        noise = [
            tuple(jax.random.normal(next(keys), (count, size)) for size in (*w.shape, w.shape[0]))
            for w, _ in weights
        ]
        mirrored = jax.tree.map(lambda each: jnp.concatenate([each, each]), noise)
        sides = jnp.repeat(jnp.array([1.0, -1.0]), count)
        losses = jax.vmap(member, (0, 0, None, None, None))(mirrored, sides, weights, x, y)
        coefficients = (losses[:count] - losses[count:]) / (2 * sigma * count)
        gradient = [(jnp.einsum("k,ko,ki->oi", coefficients, a, b), coefficients @ c) for a, b, c in noise]
        change, state = optimizer.update(gradient, state, weights)
        return optax.apply_updates(weights, change), state, losses.mean()

    return step


METHODS = (Method("eggroll-jax", "rank-1 ES, JAX jit", "zeroth", EggrollJax, needs=("jax", "optax")),)
