"""Metrics and outputs of the networks of a population on examples.

:func:`make_sums` is for numbers that add up over examples: losses, hits, confusion matrices,
squared errors, all sums of :mod:`jaxdl.nn.metrics`. :func:`make_outputs` brings each example's
outputs to the host.
"""

from collections.abc import Callable, Generator, Sequence

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jax.sharding import PartitionSpec as P
from jaxtyping import Array, Bool, Float, Int

from jaxdl import trees
from jaxdl.nn import metrics
from jaxdl.train.parallel import BATCHES, MEMBERS, MeshPlacement, put, to_host
from jaxdl.train.population import Prepare, over_members
from jaxdl.train.state import TrainState
from jaxdl.types import Batch, Hyper, PyTree

Measure = Callable[[TrainState, Hyper, Batch, Bool[Array, " b"]], PyTree]
"""``measure(state, hyper, batch, counts)``: sums over the examples of a batch that count."""

Logits = Callable[[TrainState, Hyper, Float[Array, "b ..."]], Float[Array, "*networks b k"]]
"""A member's logits in evaluation; with a leading axis where a member is several networks."""

Outputs = Callable[[TrainState, Hyper, Float[Array, "b ..."]], PyTree]
"""Any outputs of a member in evaluation: arrays with a leading [b]."""

Fetch = Callable[[Int[np.ndarray, "m b"]], Batch]
"""Stored examples of every member, by their indices in a :class:`jaxdl.train.feed.Feed`."""

Examples = Sequence[Int[np.ndarray, " _"]]
"""Each member's own indices into the data, of any length."""

Accuracy = Callable[[TrainState, Hyper, Examples, Fetch], Float[np.ndarray, " m *networks"]]
"""A number of each network, 1 at best, that is measured on examples."""


def make_sums(
    measure: Measure, prepare: Prepare, placement: MeshPlacement, batch: int
) -> Callable[[TrainState, Hyper, Examples, Fetch], PyTree]:
    """Compile ``sums(states, hypers, examples, fetch)``: each member's sums over its examples.

    The result are arrays of the host, ``measure``'s with a leading [members]. A batch is divided
    over the mesh's "data" axis, and the host waits for the last one only. ``counts`` is False for
    the padding of the last batch::

        def measure(state, hyper, batch, counts):
            logits = model.apply(state.variables, batch["image"])
            loss = cross_entropy(logits, batch["label"])
            return {
                "loss": jnp.sum(jnp.where(counts, loss, 0)),
                "confusion": confusion_matrix(logits.argmax(-1), batch["label"], 10, counts),
            }

    Args:
      batch: so many examples of a member at a time, or the next multiple of the "data" axis.
    """
    axis_name = placement.axis_name

    def member_sums(
        state: TrainState, hyper: Hyper, stored: Batch, counts: Bool[Array, " b"], _: tuple
    ) -> PyTree:
        sums = measure(state, hyper, prepare(stored, hyper, None), counts)
        return sums if axis_name is None else lax.psum(sums, axis_name)

    specs = MEMBERS, MEMBERS, BATCHES, BATCHES, P()
    batch_sums = over_members(member_sums, placement, specs=specs)

    def sums(states: TrainState, hypers: Hyper, examples: Examples, fetch: Fetch) -> PyTree:
        total = None
        for stored, counts in _batches(trees.members(states), examples, batch, fetch, placement):
            part = batch_sums(states, hypers, stored, counts, ())
            last, total = total, part if total is None else jax.tree.map(jnp.add, total, part)
            jax.block_until_ready(last)  # so that few batches wait on the devices
        return jax.tree.map(lambda leaf: leaf[: len(examples)], to_host(total))

    return sums


def make_accuracy(
    logits: Logits,
    prepare: Prepare,
    placement: MeshPlacement,
    batch: int,
    *,
    inputs: str = "image",
) -> Accuracy:
    """Compile ``accuracy(states, hypers, examples, fetch)``: the fraction of examples with labels
    (those of 0 and above) that each network gets right.

    NaN for a network that puts out NaN or infinities. Arguments as those of :func:`make_sums`;
    ``inputs`` names the array of a batch that the network sees.
    """

    def measure(state: TrainState, hyper: Hyper, prepared: Batch, counts: Array) -> PyTree:
        outputs = logits(state, hyper, prepared[inputs])
        hits = metrics.correct(outputs, prepared["label"]).astype(jnp.float32)
        # A network that has diverged has no accuracy: argmax of NaN would give it one.
        hits = jnp.where(jnp.all(jnp.isfinite(outputs), axis=-1), hits, jnp.nan)
        labelled = counts & (prepared["label"] >= 0)
        right = jnp.where(jnp.broadcast_to(labelled, hits.shape), hits, 0)
        return jnp.sum(right, axis=-1), jnp.sum(labelled)

    sums = make_sums(measure, prepare, placement, batch)

    def accuracy(states, hypers, examples, fetch):
        right, labelled = sums(states, hypers, examples, fetch)
        return right / labelled.reshape(-1, *[1] * (right.ndim - 1))

    return accuracy


def make_r2(
    outputs: Logits,
    prepare: Prepare,
    placement: MeshPlacement,
    batch: int,
    *,
    inputs: str = "features",
    targets: str = "target",
) -> Accuracy:
    """Compile ``r2(states, hypers, examples, fetch)``: :func:`jaxdl.nn.metrics.r2` of outputs
    [b, 1] and targets [b], standardized ones; arguments as those of :func:`make_accuracy`."""

    def measure(state: TrainState, hyper: Hyper, prepared: Batch, counts: Array) -> PyTree:
        predictions = outputs(state, hyper, prepared[inputs])[:, 0]
        return metrics.regression_sums(predictions, prepared[targets], counts)

    sums = make_sums(measure, prepare, placement, batch)

    def r2(states, hypers, examples, fetch):
        return np.asarray(jax.vmap(metrics.r2)(sums(states, hypers, examples, fetch)))

    return r2


def make_mean(
    numbers: Callable[[PyTree, Batch], Float[Array, " b"]],
    outputs: Outputs,
    prepare: Prepare,
    placement: MeshPlacement,
    batch: int,
    *,
    inputs: str = "image",
) -> Accuracy:
    """Compile ``mean(states, hypers, examples, fetch)``: the mean over examples of
    ``numbers(outputs, batch)``, such as the losses of a network; other arguments as those of
    :func:`make_accuracy`."""

    def measure(state: TrainState, hyper: Hyper, prepared: Batch, counts: Array) -> PyTree:
        values = numbers(outputs(state, hyper, prepared[inputs]), prepared)
        return jnp.sum(jnp.where(counts, values, 0)), jnp.sum(counts)

    sums = make_sums(measure, prepare, placement, batch)

    def mean(states, hypers, examples, fetch):
        total, count = sums(states, hypers, examples, fetch)
        return total / count

    return mean


def make_outputs(
    outputs: Outputs,
    prepare: Prepare,
    placement: MeshPlacement,
    batch: int,
    *,
    inputs: str = "image",
) -> Callable[[TrainState, Hyper, Examples, Fetch], list[PyTree]]:
    """Compile ``run(states, hypers, examples, fetch)``: each member's outputs for its examples.

    Arguments as those of :func:`make_accuracy`; the result is a member's ``outputs``, on the host,
    for all its examples in their order.
    """

    def member_outputs(state: TrainState, hyper: Hyper, stored: Batch, _: tuple) -> PyTree:
        return outputs(state, hyper, prepare(stored, hyper, None)[inputs])

    specs = MEMBERS, MEMBERS, BATCHES, P()
    batch_outputs = over_members(member_outputs, placement, specs=specs, out_spec=BATCHES)

    def run(states, hypers, examples, fetch):
        parts, last = [], None
        for stored, _ in _batches(trees.members(states), examples, batch, fetch, placement):
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
    members: int, examples: Examples, batch: int, fetch: Fetch, placement: MeshPlacement
) -> Generator[tuple[Batch, Bool[Array, "m b"]]]:
    """Each member's examples, batch by batch, and which of a batch count."""
    batch = -(-batch // placement.data_devices) * placement.data_devices
    shape = members, -(-max(map(len, examples)) // batch) * batch
    ids, counts = np.zeros(shape, np.int32), np.zeros(shape, bool)
    for i, indices in enumerate(placement.fill(examples, members)):
        ids[i, : len(indices)], ids[i, len(indices) :] = indices, indices[0]
        counts[i, : len(indices)] = True
    for start in range(0, shape[1], batch):
        columns = slice(start, start + batch)
        yield fetch(ids[:, columns]), put(counts[:, columns], placement.sharding(BATCHES))
