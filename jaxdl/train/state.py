"""The state of one network in training, and the pure step that advances it."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import lax
from jaxtyping import Array, Bool, Int, PRNGKeyArray

from jaxdl import trees
from jaxdl.types import (
    Batch,
    Collections,
    Hyper,
    Integer,
    LossFn,
    Metrics,
    Params,
    PyTree,
    Scalar,
    Variables,
)

Optimizer: TypeAlias = (
    optax.GradientTransformation | Callable[[Hyper], optax.GradientTransformation]
)
"""An update rule, or a function that makes it of a member's hyper-parameters, which are traced."""

Step = Callable[["TrainState", Batch, Hyper], tuple["TrainState", Metrics]]

LOSS, PREPARE = 2**32 - 2, 2**32 - 1
"""Purposes that are folded into a member's key."""


def step_key(
    key: PRNGKeyArray, purpose: int, step: Int[Array, ""], axis_name: str | None
) -> PRNGKeyArray:
    """The random key of one purpose at one step, made of a member's key.

    Under ``axis_name``, the device's index on that axis is folded in if there are several devices.
    Each device sees only its part of the batch, so random numbers for an example depend on how many
    devices share the batch. Without an axis the compiler divides the whole batch, and they do not.
    """
    key = jax.random.fold_in(jax.random.fold_in(key, purpose), step)
    if axis_name is None or lax.axis_size(axis_name) == 1:
        return key
    return jax.random.fold_in(key, lax.axis_index(axis_name))


@struct.dataclass
class TrainState:
    """Everything that training changes. A population is the same with a leading member axis.

    (Fields have no narrower types because JAX also builds trees of shardings, say, in its form.)
    """

    step: PyTree
    """int32 []"""
    params: PyTree
    collections: PyTree
    """Flax's other collections, by name: ``batch_stats``, and any other collection that steps
    update."""
    opt_state: PyTree
    alive: PyTree
    """False once an update was not finite: parameters and collections keep their last finite
    values. One bool [], or a prefix of the tree ``params`` that divides it into networks."""

    @property
    def variables(self) -> Variables:
        """The network's collections, as Flax takes them."""
        return {"params": self.params, **self.collections}

    @property
    def evaluated_variables(self) -> Variables:
        """The mean of :func:`make_averaging_step` where one is kept, else :attr:`variables`."""
        return evaluation_variables(self.variables)


AVERAGE = "average_"
"""The running mean of a collection is the collection of its name after this: not one collection of
all means, since each must have the prefix ``alive`` of :func:`create_state`."""


def add_average(variables: Variables) -> Variables:
    """Initial variables, and for each collection the initial value of its running mean."""
    return {**variables, **{AVERAGE + name: value for name, value in variables.items()}}


def evaluation_variables(variables: Variables) -> Variables:
    """The variables for evaluation: of each collection its running mean, where one is kept."""
    names = (name for name in variables if not name.startswith(AVERAGE))
    return {name: variables.get(AVERAGE + name, variables[name]) for name in names}


def create_state(
    variables: Variables, optimizer: Optimizer, hyper: Hyper | None = None, *, alive: PyTree = True
) -> TrainState:
    """The state before the first step, in dicts, also where Flax's FrozenDicts are given.

    Args:
      variables: as a module's ``init`` returns them.
      hyper: the hyper-parameters, for an optimizer that is made of them.
      alive: where ``params`` holds several networks, a prefix of it that is True for each
        (:func:`jaxdl.transfer.alive`); all other collections must have it, too. Losses and metrics
        are then vectors, in its order.
    """
    variables = trees.plain(variables)
    params = variables["params"]
    return TrainState(
        step=jnp.int32(0),
        params=params,
        collections={kind: value for kind, value in variables.items() if kind != "params"},
        opt_state=_rule(optimizer, hyper).init(params),
        alive=jax.tree.map(jnp.bool_, alive),
    )


def _rule(optimizer: Optimizer, hyper: Hyper | None) -> optax.GradientTransformation:
    return (
        optimizer if isinstance(optimizer, optax.GradientTransformation) else optimizer(hyper or {})
    )


def make_step(
    loss_fn: LossFn, optimizer: Optimizer, axis_name: str | None = None, *, accumulate: int = 1
) -> Step:
    """The pure step ``(state, batch, hyper) -> (state, metrics)`` of gradient descent.

    The loss is ``loss_fn(params, collections, batch, hyper, key) -> (loss, (collections,
    metrics))``, for a ``batch`` of any structure; the collections that it returns are those of the
    next step. A loss that is a tree of numbers, one a network, is summed (see ``alive`` of
    :func:`create_state`).

    ``hyper`` holds the arrays in which members differ. Its entries are read as follows:

    - ``key``, the member's random key: here, where the loss receives a key made of it and the
      step number; by :mod:`jaxdl.train.population`, for the order of examples and ``prepare``;
    - ``examples`` and ``count``: by :func:`jaxdl.train.population.train_resident` and feeds;
    - all other entries: by the loss, the optimizer and ``prepare`` (``base`` by
      :func:`jaxdl.transfer.shared_prefix_loss`; ``weights``, ``reversal``, ``radius`` and
      ``threshold`` by :func:`jaxdl.adaptation.adaptation_loss`; ``l1`` and ``l2`` by
      :func:`jaxdl.optim.penalized`).

    For the loss ``hyper`` also has ``step``, the number of steps before this one.

    ``metrics`` are those of the loss function, for the curves, and

    - ``loss``, the loss's own value, before the update;
    - ``fault``: -1 while a network is finite; at its last step the index in :func:`fault_names` of
      the first array that was not; and from then on -2. A network whose update is not finite keeps
      its parameters for good. :mod:`jaxdl.train.loop` reads it.

    Args:
      optimizer: a transformation of Optax, or a function of ``hyper`` that makes one. If it takes
        ``value`` and ``grad``, these are the loss and the gradient.
      axis_name: under pmap and shard_map, the mesh axis over which the batch is divided: gradients
        and metrics are averaged over it. Batch normalization averages its statistics itself
        and needs the same ``axis_name``. None elsewhere, also under jit with shardings, where a
        mean over the batch already is one over all devices.
      accumulate: the batch is cut into so many equal parts, one after the other, whose gradients
        and metrics are averaged: the same mean, in less memory. Collections pass from part to
        part, and each has a random key of its own.

    Raises:
      ValueError: in use, for a batch that does not divide into ``accumulate`` parts.
    """

    def total(params: Params, *args) -> tuple[Array, tuple[Collections, Metrics]]:
        loss, (collections, metrics) = loss_fn(params, *args)
        parts = jax.tree.leaves(loss)
        if not jax.tree_util.treedef_is_leaf(jax.tree.structure(loss)):
            loss = jnp.stack(parts)
        return functools.reduce(jnp.add, parts), (collections, {**metrics, "loss": loss})

    gradients = jax.grad(total, has_aux=True)

    def accumulated(
        params: Params, collections: Collections, batch: Batch, hyper: Hyper, key: Array
    ) -> tuple[Params, tuple[Collections, Metrics]]:
        def add_part(carry: tuple, part_and_index: tuple) -> tuple[tuple, Metrics]:
            collections, sums = carry
            part, i = part_and_index
            part_key = jax.random.fold_in(key, i)
            grads, (collections, metrics) = gradients(params, collections, part, hyper, part_key)
            return (collections, jax.tree.map(jnp.add, sums, grads)), metrics

        sizes = {leaf.shape[0] for leaf in jax.tree.leaves(batch)}
        if odd := [size for size in sizes if size % accumulate]:
            raise ValueError(f"a batch of {odd[0]} is not accumulate={accumulate} equal parts")
        parts = jax.tree.map(lambda x: x.reshape(accumulate, -1, *x.shape[1:]), batch)
        zeros = jax.tree.map(jnp.zeros_like, params)
        carry, metrics = lax.scan(add_part, (collections, zeros), (parts, jnp.arange(accumulate)))
        collections, sums = carry
        grads = jax.tree.map(lambda g: g / accumulate, sums)
        return grads, (collections, jax.tree.map(lambda m: jnp.mean(m, axis=0), metrics))

    def step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        key = step_key(hyper["key"], LOSS, state.step, axis_name)
        params = state.params
        if axis_name is not None:
            # Differentiating with respect to replicated parameters would sum the gradient over
            # the axis by itself, and the mean below would come on top of that sum.
            params = jax.tree.map(lambda p: lax.pcast(p, axis_name, to="varying"), params)
        grads, (collections, metrics) = (gradients if accumulate == 1 else accumulated)(
            params, state.collections, batch, {**hyper, "step": state.step}, key
        )
        if axis_name is not None:
            grads, metrics = lax.pmean((grads, metrics), axis_name)
        rule = optax.with_extra_args_support(_rule(optimizer, hyper))
        loss = jnp.sum(metrics["loss"])  # for transformations that look at it
        updates, opt_state = rule.update(
            grads, state.opt_state, state.params, value=loss, grad=grads
        )
        params = optax.apply_updates(state.params, updates)
        return advance(state, params, collections, opt_state, metrics)

    return step


def make_search_step(loss_fn: LossFn, optimizer: Optimizer) -> Step:
    """As :func:`make_step`, for line-search optimizers (:func:`jaxdl.optim.wolfe_searched`).

    The loss must be the same function at every step, or :func:`jaxdl.optim.restart` be called when
    it has changed. The only metric is ``loss``, after the step.
    """

    def step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        def value_fn(params: Params) -> jax.Array:
            return loss_fn(params, state.collections, batch, hyper, hyper["key"])[0]

        gradient = optax.tree.get(state.opt_state, "grad")
        updates, opt_state = _rule(optimizer, hyper).update(
            gradient, state.opt_state, state.params, value_fn=value_fn
        )
        params = optax.apply_updates(state.params, updates)
        loss = optax.tree.get(opt_state, "value")
        return advance(state, params, state.collections, opt_state, {"loss": loss})

    return step


def make_averaging_step(step: Step, decay: Scalar = 1.0, start: Integer = 0) -> Step:
    """The step, followed by a running mean of the variables ``w_t`` after step ``t``::

        a_t = a_(t-1) + max(1 - decay, 1 / n) (w_t - a_(t-1)),    n = max(t - start, 1)

    It is ``w_t`` up to step ``start + 1``, and from there a plain mean: with ``decay`` 1 for good
    (SWA, Izmailov et al. 2018), else until it has ``1 / (1 - decay)`` terms and becomes the
    exponential moving average. The weights of its terms always add up to 1, so there is no bias
    of the start to correct.

    The state has it from the beginning on::

        create_state(add_average(variables), optimizer)

    and :attr:`TrainState.evaluated_variables` is it. Checkpoints keep it, and of a network that is
    no longer finite it stays as it was. Batch normalization's statistics are averaged like the
    parameters (Izmailov et al. compute them anew), and of integers the last are kept.

    Args:
      decay, start: may be traced, from ``hyper`` within a step, so that members differ in them.
    """

    def averaging_step(state: TrainState, batch: Batch, hyper: Hyper) -> tuple[TrainState, Metrics]:
        state, metrics = step(state, batch, hyper)
        part = jnp.maximum(1 - decay, 1 / jnp.maximum(state.step - start, 1))

        def mean(average: Array, variable: Array, alive: Bool[Array, ""]) -> Array:
            if not jnp.issubdtype(variable.dtype, jnp.inexact):
                return variable
            change = part.astype(variable.dtype) * (variable - average)
            return jnp.where(alive, average + change, average)

        collections = dict(state.collections)
        for name, variables in state.variables.items():
            if (average := collections.get(AVERAGE + name)) is not None:
                alive = jax.tree.broadcast(state.alive, variables)
                collections[AVERAGE + name] = jax.tree.map(mean, average, variables, alive)
        return dataclasses.replace(state, collections=collections), metrics

    return averaging_step


def advance(
    state: TrainState, params: Params, collections: Collections, opt_state: PyTree, metrics: Metrics
) -> tuple[TrainState, Metrics]:
    """The next state; networks that are no longer finite keep their parameters and collections.

    ``fault`` is added to the metrics, see :func:`make_step`. ``alive`` never becomes True again,
    since the optimizer's state may not be finite.
    """
    variables = {"params": params, **collections}
    new, structure = jax.tree.flatten(variables)
    old = jax.tree.leaves(state.variables)
    owners, finite = _owners(state), list(map(_finite, new, old))
    alive, faults = [], []
    losses = jnp.reshape(metrics["loss"], -1)
    for i, (lived, loss) in enumerate(zip(jax.tree.leaves(state.alive), losses, strict=True)):
        finite_of_network = [
            array_finite for array_finite, owner in zip(finite, owners, strict=True) if owner == i
        ]
        checks = jnp.stack([*finite_of_network, jnp.isfinite(loss)])
        lives = lived & checks.all()
        alive.append(lives)
        faults.append(jnp.where(lives, -1, jnp.where(lived, jnp.argmin(checks), -2)))
    leaves = [jnp.where(alive[i], n, o) for i, n, o in zip(owners, new, old, strict=True)]
    variables = jax.tree.unflatten(structure, leaves)
    state = TrainState(
        step=state.step + 1,
        params=variables.pop("params"),
        collections=variables,
        opt_state=opt_state,
        alive=jax.tree.unflatten(jax.tree.structure(state.alive), alive),
    )
    return state, {**metrics, "fault": jnp.stack(faults).reshape(jnp.shape(metrics["loss"]))}


def fault_names(state: TrainState) -> list[list[str]]:
    """By network, the paths of its arrays in the order of :func:`advance`, then ``loss``."""
    paths = [
        jax.tree_util.keystr(path, simple=True, separator="/")
        for path, _ in jax.tree.leaves_with_path(state.variables)
    ]
    return [
        [path for path, owner in zip(paths, _owners(state), strict=True) if owner == i] + ["loss"]
        for i in range(len(jax.tree.leaves(state.alive)))
    ]


def _owners(state: TrainState) -> list[int]:
    """For each array of ``state.variables`` the index of its network."""
    structure: Any = jax.tree.structure(state.alive)  # without a type in JAX
    numbers = jax.tree.unflatten(structure, range(structure.num_leaves))
    return [
        owner
        for kind in sorted(state.variables)
        for owner in jax.tree.leaves(jax.tree.broadcast(numbers, state.variables[kind]))
    ]


def _finite(new: Array, old: Array) -> Bool[Array, ""]:
    # Arrays that a step does not change, such as the points of a PINN, need no check.
    if new is old or not jnp.issubdtype(new.dtype, jnp.inexact):
        return jnp.bool_(True)
    return jnp.isfinite(new).all()
