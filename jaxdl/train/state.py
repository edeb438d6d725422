"""One network in training, and the pure step that advances it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jaxtyping import Array, Int

from jaxdl.types import Batch, Hyper, LossFn, Metrics, Params, PyTree, Variables

Optimizer = Callable[[Hyper], optax.GradientTransformation]
"""From a member's hyper-parameters, traced, to its update rule."""

Step = Callable[["TrainState", Batch, Hyper], tuple["TrainState", Metrics]]


@struct.dataclass
class TrainState:
    """Everything that training changes. A population is the same with a leading member axis."""

    step: Int[Array, ""]
    params: Params
    batch_stats: Params
    opt_state: PyTree

    @property
    def variables(self) -> Variables:
        """The network's collections, as Flax takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    params: Params, batch_stats: Params, rule: optax.GradientTransformation
) -> TrainState:
    """The state before the first step."""
    return TrainState(jnp.zeros((), jnp.int32), params, batch_stats, rule.init(params))


def make_step(loss_fn: LossFn, optimizer: Optimizer, axis_name: str | None = None) -> Step:
    """The pure step ``(state, batch, hyper) -> (state, metrics)`` of gradient descent.

    ``hyper["key"]`` is the member's random key; the loss receives a key made of it and the step,
    and finds the step itself in ``hyper["step"]``.

    Args:
      axis_name: under pmap and shard_map, the mesh axis over which the batch is divided: gradients
        and metrics are averaged over it. Batch normalization averages its statistics itself
        and must be told the same axis. None elsewhere, also under jit with shardings, where a
        mean over the batch already is one over all devices.
    """

    def step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        key = jax.random.fold_in(hyper["key"], state.step)
        params = state.params
        if axis_name is not None:
            key = jax.random.fold_in(key, lax.axis_index(axis_name))
            # Differentiating with respect to replicated parameters would sum the gradient over
            # the axis by itself, and the mean below would come on top of that sum.
            params = jax.tree.map(lambda p: lax.pcast(p, axis_name, to="varying"), params)
        (_, (stats, metrics)), grads = jax.value_and_grad(loss_fn, has_aux=True)(
            params, state.batch_stats, batch, {**hyper, "step": state.step}, key
        )
        if axis_name is not None:
            grads, metrics = lax.pmean((grads, metrics), axis_name)
        updates, opt_state = optimizer(hyper).update(grads, state.opt_state, state.params)
        params = optax.apply_updates(state.params, updates)
        return TrainState(state.step + 1, params, stats, opt_state), metrics

    return step


def make_search_step(loss_fn: LossFn, optimizer: Optimizer) -> Step:
    """The same for optimizers that search along a line (:func:`jaxdl.optim.wolfe_searched`).

    The loss must be the same function at every step, or the optimizer told when it has changed
    (:func:`jaxdl.optim.restart`). The only metric is ``loss``, after the step.
    """

    def step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        def value_fn(params: Params) -> jax.Array:
            return loss_fn(params, state.batch_stats, batch, hyper, hyper["key"])[0]

        known = optax.tree.get(state.opt_state, "grad")
        updates, opt_state = optimizer(hyper).update(
            known, state.opt_state, state.params, value_fn=value_fn
        )
        params = optax.apply_updates(state.params, updates)
        loss = optax.tree.get(opt_state, "value")
        return TrainState(state.step + 1, params, state.batch_stats, opt_state), {"loss": loss}

    return step
