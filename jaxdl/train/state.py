"""One network in training, and the pure step that advances it."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Int

from jaxdl import trees
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
    alive: Bool[Array, ""] | dict[str, Bool[Array, ""]]
    """False once an update was not finite: parameters and statistics stay what they were before.
    Where a member is several networks, of each, by its name in ``params``."""

    @property
    def variables(self) -> Variables:
        """The network's collections, as Flax takes them."""
        return {"params": self.params, "batch_stats": self.batch_stats}


def create_state(
    params: Params,
    batch_stats: Params,
    rule: optax.GradientTransformation,
    *,
    several: bool = False,
) -> TrainState:
    """The state before the first step, in dicts, also where Flax's FrozenDicts are given.

    Args:
      several: whether the first level of ``params`` and ``batch_stats`` are networks of their own,
        whose metrics are vectors in the order of their names.
    """
    params, batch_stats = trees.plain(params), trees.plain(batch_stats)
    alive = dict.fromkeys(params, jnp.bool_(True)) if several else jnp.bool_(True)
    return TrainState(jnp.int32(0), params, batch_stats, rule.init(params), alive)


def make_step(loss_fn: LossFn, optimizer: Optimizer, axis_name: str | None = None) -> Step:
    """The pure step ``(state, batch, hyper) -> (state, metrics)`` of gradient descent.

    ``hyper["key"]`` is the member's random key; the loss receives a key made of it and the step,
    and finds the step itself in ``hyper["step"]``. A network whose update is not finite keeps the
    parameters it had, for good: see :func:`advance` for how it is told.

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
        return advance(state, params, stats, opt_state, metrics)

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
        return advance(state, params, state.batch_stats, opt_state, {"loss": loss})

    return step


def advance(
    state: TrainState, params: Params, batch_stats: Params, opt_state: PyTree, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """The next state, but for networks that are no longer finite, which stay as they were.

    To the metrics comes ``fault``: -1 while a network is finite; at the step that was its last,
    which of :func:`fault_names` was the first that was not; and then -2. There is no way back,
    since the optimizer's state may hold what was not finite.
    """
    faults, kept, alive = [], [], []
    parts = zip(
        jax.tree.leaves(state.alive),
        _networks(state.alive, state.variables),
        _networks(state.alive, {"params": params, "batch_stats": batch_stats}),
        jnp.reshape(metrics["loss"], -1),
        strict=True,
    )
    for lived, old, new, loss in parts:
        finite = jax.tree.leaves(jax.tree.map(_finite, new, old))
        finite = jnp.stack([*finite, jnp.isfinite(loss)])
        lives = lived & finite.all()
        alive.append(lives)
        faults.append(jnp.where(lives, -1, jnp.where(lived, jnp.argmin(finite), -2)))
        kept.append(jax.tree.map(lambda n, o, lives=lives: jnp.where(lives, n, o), new, old))
    variables = kept[0]
    if isinstance(state.alive, dict):
        names = sorted(state.alive)
        variables = {
            kind: {n: k[kind] for n, k in zip(names, kept, strict=True)} for kind in state.variables
        }
    fault = jnp.stack(faults).reshape(jnp.shape(metrics["loss"]))
    alive = jax.tree.unflatten(jax.tree.structure(state.alive), alive)
    state = TrainState(state.step + 1, **variables, opt_state=opt_state, alive=alive)
    return state, {**metrics, "fault": fault}


def fault_names(state: TrainState) -> list[list[str]]:
    """By network, the paths of its arrays in the order of :func:`advance`, then ``loss``."""
    return [
        [
            jax.tree_util.keystr(path, simple=True, separator="/")
            for path, _ in jax.tree.leaves_with_path(variables)
        ]
        + ["loss"]
        for variables in _networks(state.alive, state.variables)
    ]


def _networks(alive: PyTree, variables: Variables) -> list[Variables]:
    """The part of each network."""
    if not isinstance(alive, dict):
        return [variables]
    return [
        {kind: collection[network] for kind, collection in variables.items()}
        for network in sorted(alive)
    ]


def _finite(new: Array, old: Array) -> Bool[Array, ""]:
    # What a step hands on unchanged, such as the points of a PINN, need not be looked at again.
    if new is old or not jnp.issubdtype(new.dtype, jnp.inexact):
        return jnp.bool_(True)
    return jnp.isfinite(new).all()
