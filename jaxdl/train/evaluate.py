"""What the networks of a population are worth on examples, and what else they put out.

:func:`make_sums` is for numbers that add up over examples: losses, hits, confusion matrices,
squared errors, whatever :mod:`jaxdl.nn.metrics` makes. :func:`make_outputs` brings each example's
outputs to the host.
"""

from collections.abc import Callable, Generator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import Mesh, NamedSharding
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jaxdl import trees
from jaxdl.nn import metrics
from jaxdl.train.parallel import axis_of, place, to_host
from jaxdl.train.population import Prepare, over_members
from jaxdl.train.state import TrainState
from jaxdl.types import Batch, Hyper, PyTree

Measure = Callable[[TrainState, Hyper, Batch, Bool[Array, " b"]], PyTree]
"""``measure(state, hyper, batch, counts)``: sums over the examples of a batch that count."""

Logits = Callable[[TrainState, Hyper, Float[Array, "b ..."]], Float[Array, "*networks b k"]]
"""A member's logits in evaluation; with a leading axis where a member is several networks."""

Outputs = Callable[[TrainState, Hyper, Float[Array, "b ..."]], PyTree]
"""Whatever a member makes of inputs in evaluation: arrays with a leading [b]."""

Fetch = Callable[[Int[np.ndarray, "m b"]], Batch]
"""Stored examples of every member, by place; of a :class:`jaxdl.train.feed.Feed`."""

Examples = Sequence[Int[np.ndarray, " _"]]
"""Each member's own places in the data, of any length."""

Accuracy = Callable[[TrainState, Hyper, Examples, Fetch], Float[np.ndarray, " m *networks"]]
"""A number of each network, 1 at best, that is measured on examples."""

DIVIDED = P("member", "data")


def make_sums(
    measure: Measure, prepare: Prepare, mesh: Mesh, batch: int, mode: str = "shard_map"
) -> Callable[[TrainState, Hyper, Examples, Fetch], PyTree]:
    """Compile ``sums(states, hypers, examples, fetch)``: each member's sums over its examples.

    The result are arrays of the host, ``measure``'s with a leading [members]. A batch is divided
    over the mesh's "data" axis, and the host waits for the last one only. ``counts`` is False for
    what fills up the last batch::

        def measure(state, hyper, batch, counts):
            logits = model.apply(state.variables, batch["image"])
            loss = cross_entropy(logits, batch["label"])
            return {
                "loss": jnp.sum(jnp.where(counts, loss, 0)),
                "confusion": confusion_matrix(logits.argmax(-1), batch["label"], 10, counts),
            }

    Args:
      batch: so many examples of a member at a time, or the next multiple of the "data" axis.
      mode: one of :data:`jaxdl.train.parallel.MODES`.
    """
    axis = axis_of(mode, mesh)

    def member_sums(
        state: TrainState, hyper: Hyper, stored: Batch, counts: Bool[Array, " b"], _: tuple
    ) -> PyTree:
        sums = measure(state, hyper, prepare(stored, hyper, None), counts)
        return sums if axis is None else lax.psum(sums, axis)

    specs = P("member"), P("member"), DIVIDED, DIVIDED, P()
    batch_sums = over_members(member_sums, mesh, specs=specs, mode=mode)

    def sums(states: TrainState, hypers: Hyper, examples: Examples, fetch: Fetch) -> PyTree:
        total = None
        for stored, counts in _batches(trees.members(states), examples, batch, fetch, mesh):
            part = batch_sums(states, hypers, stored, counts, ())
            last, total = total, part if total is None else jax.tree.map(jnp.add, total, part)
            jax.block_until_ready(last)  # so that few batches wait on the devices
        return jax.tree.map(lambda leaf: leaf[: len(examples)], to_host(total))

    return sums


def make_accuracy(
    logits: Logits,
    prepare: Prepare,
    mesh: Mesh,
    batch: int,
    mode: str = "shard_map",
    *,
    inputs: str = "image",
) -> Accuracy:
    """Compile ``accuracy(states, hypers, examples, fetch)``: the fraction of examples with labels
    (those of 0 and above) that each network gets right.

    NaN for a network that puts out NaN or infinities. Arguments as those of :func:`make_sums`;
    ``inputs`` names what of a batch the network sees.
    """

    def measure(state: TrainState, hyper: Hyper, prepared: Batch, counts: Array) -> PyTree:
        outputs = logits(state, hyper, prepared[inputs])
        hits = metrics.correct(outputs, prepared["label"]).astype(jnp.float32)
        # A network that has diverged has no accuracy; whatever argmax makes of NaN is not one.
        hits = jnp.where(jnp.all(jnp.isfinite(outputs), axis=-1), hits, jnp.nan)
        labelled = counts & (prepared["label"] >= 0)
        right = jnp.where(jnp.broadcast_to(labelled, hits.shape), hits, 0)
        return jnp.sum(right, axis=-1), jnp.sum(labelled)

    sums = make_sums(measure, prepare, mesh, batch, mode)

    def accuracy(states, hypers, examples, fetch):
        right, labelled = sums(states, hypers, examples, fetch)
        return right / labelled.reshape(-1, *[1] * (right.ndim - 1))

    return accuracy


def make_r2(
    outputs: Logits,
    prepare: Prepare,
    mesh: Mesh,
    batch: int,
    mode: str = "shard_map",
    *,
    inputs: str = "features",
    targets: str = "target",
) -> Accuracy:
    """Compile ``r2(states, hypers, examples, fetch)``: :func:`jaxdl.nn.metrics.r2` of outputs
    [b, 1] and targets [b], standardized ones; arguments as those of :func:`make_accuracy`."""

    def measure(state: TrainState, hyper: Hyper, prepared: Batch, counts: Array) -> PyTree:
        predictions = outputs(state, hyper, prepared[inputs])[:, 0]
        return metrics.regression_sums(predictions, prepared[targets], counts)

    sums = make_sums(measure, prepare, mesh, batch, mode)

    def r2(states, hypers, examples, fetch):
        return np.asarray(jax.vmap(metrics.r2)(sums(states, hypers, examples, fetch)))

    return r2


def make_mean(
    numbers: Callable[[PyTree, Batch], Float[Array, " b"]],
    outputs: Outputs,
    prepare: Prepare,
    mesh: Mesh,
    batch: int,
    mode: str = "shard_map",
    *,
    inputs: str = "image",
) -> Accuracy:
    """Compile ``mean(states, hypers, examples, fetch)``: the mean over examples of
    ``numbers(outputs, batch)``, such as the losses of a network; other arguments as those of
    :func:`make_accuracy`."""

    def measure(state: TrainState, hyper: Hyper, prepared: Batch, counts: Array) -> PyTree:
        values = numbers(outputs(state, hyper, prepared[inputs]), prepared)
        return jnp.sum(jnp.where(counts, values, 0)), jnp.sum(counts)

    sums = make_sums(measure, prepare, mesh, batch, mode)

    def mean(states, hypers, examples, fetch):
        total, count = sums(states, hypers, examples, fetch)
        return total / count

    return mean


def make_outputs(
    outputs: Outputs,
    prepare: Prepare,
    mesh: Mesh,
    batch: int,
    mode: str = "shard_map",
    *,
    inputs: str = "image",
) -> Callable[[TrainState, Hyper, Examples, Fetch], list[PyTree]]:
    """Compile ``run(states, hypers, examples, fetch)``: what each member makes of its examples.

    Arguments as those of :func:`make_accuracy`; the result is a member's ``outputs``, on the host,
    for all its places in their order.
    """

    def member_outputs(state: TrainState, hyper: Hyper, stored: Batch, _: tuple) -> PyTree:
        return outputs(state, hyper, prepare(stored, hyper, None)[inputs])

    specs = P("member"), P("member"), DIVIDED, P()
    batch_outputs = over_members(member_outputs, mesh, specs=specs, out=DIVIDED, mode=mode)

    def run(states, hypers, examples, fetch):
        parts, last = [], None
        for stored, _ in _batches(trees.members(states), examples, batch, fetch, mesh):
            part = batch_outputs(states, hypers, stored, ())
            if last is not None:  # fetched while the devices are at work on the next
                parts.append(to_host(last))
            last = part
        parts.append(to_host(last))
        return [
            jax.tree.map(
                lambda *batches, i=i, n=n: np.concatenate([b[i] for b in batches])[:n], *parts
            )
            for i, n in enumerate(map(len, examples))
        ]

    return run


def _batches(
    members: int, examples: Examples, batch: int, fetch: Fetch, mesh: Mesh
) -> Generator[tuple[Batch, Bool[Array, "m b"]]]:
    """Each member's examples, batch by batch, and which of a batch count."""
    batch = -(-batch // mesh.shape["data"]) * mesh.shape["data"]
    shape = members, -(-max(map(len, examples)) // batch) * batch
    ids, counts = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for i in range(members):  # the last members may be copies that fill up the population
        places = examples[min(i, len(examples) - 1)]
        ids[i, : len(places)], ids[i, len(places) :] = places, places[0]
        counts[i, : len(places)] = True
    divided = NamedSharding(mesh, DIVIDED)
    for start in range(0, shape[1], batch):
        columns = slice(start, start + batch)
        yield fetch(ids[:, columns]), place(counts[:, columns], divided)
